"""API keys in a file: their hashes, by project.

    projects:
      shop:
        limits: [events=60000/1m]
        keys:
          - {id: 3f9a2c41, hash: "sha256:…", pipelines: [clicks], note: web, created_at: "2026-01-01T00:00:00Z"}

A key holds 160 random bits, so one SHA-256 is all the hashing it needs: slow hashes defend what people make up
themselves, which could be guessed; here there is nothing to guess, and each request pays for the hash. Looking the
digest up in a dictionary leaks no timing that helps, for nobody can steer a digest.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidewatch.contracts import ApiKey, parse_limit
from tidewatch.errors import SettingsError, UsageError
from tidewatch.record import PROJECT

RANDOM_BYTES = 20
_ID_DIGITS = 8
_HASH = r"^sha256:[0-9a-f]{64}$"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredKey(_Model):
    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    hash: str = Field(pattern=_HASH)
    pipelines: tuple[str, ...] | None = None
    note: str = ""
    created_at: str = ""


class StoredProject(_Model):
    limits: tuple[str, ...] = ()
    keys: tuple[StoredKey, ...] = ()


class KeysFile(_Model):
    projects: dict[str, StoredProject] = {}

    def index(self) -> dict[bytes, ApiKey]:
        """By SHA-256 digest."""
        found: dict[bytes, ApiKey] = {}
        for project, stored in self.projects.items():
            if not PROJECT.fullmatch(project):
                raise ValueError(f"{project!r} is no project name: lower-case letters, digits, - and _")
            limits = tuple(parse_limit(text) for text in stored.limits)
            for key in stored.keys:
                pipelines = None if key.pipelines is None else frozenset(key.pipelines)
                found[bytes.fromhex(key.hash.removeprefix("sha256:"))] = ApiKey(key.id, project, pipelines, limits)
        return found


def read(path: Path) -> KeysFile:
    """An absent file holds no keys. Raises SettingsError for one that cannot be read or understood."""
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = KeysFile.model_validate(data or {})
        found.index()
    except FileNotFoundError:
        return KeysFile()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            f"cannot be read: {error}", where=str(path), fix="make it readable, or write it anew with `tidewatch key`"
        ) from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise SettingsError(f"{place}: {problem['msg']}", where=str(path), fix="mend the entry") from None
    except ValueError as error:
        raise SettingsError(str(error), where=str(path), fix="mend the entry") from None
    return found


def write(path: Path, keys: KeysFile) -> None:
    """Replaced as a whole, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(keys.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def create(
    path: Path, project: str, *, pipelines: tuple[str, ...] = (), limits: tuple[str, ...] = (), note: str = ""
) -> tuple[str, str]:
    """Add a key and return it with its id; the key itself is stored nowhere. `limits` replace the project's own."""
    if not PROJECT.fullmatch(project):
        raise UsageError(f"{project!r} is no project name", fix="use lower-case letters, digits, - and _, 63 at most")
    try:
        texts = tuple(str(parse_limit(limit)) for limit in limits)
    except ValueError as error:
        raise UsageError(str(error), fix="for example --limit events=60000/1m") from None
    keys = read(path)
    stored = keys.projects.get(project, StoredProject())
    secret = f"tw_{project}_{secrets.token_hex(RANDOM_BYTES)}"
    new = StoredKey(
        id=secrets.token_hex(_ID_DIGITS // 2),
        hash=f"sha256:{digest(secret).hex()}",
        pipelines=pipelines or None,
        note=note,
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    changed = StoredProject(limits=texts or stored.limits, keys=(*stored.keys, new))
    write(path, KeysFile(projects={**keys.projects, project: changed}))
    return secret, new.id


def revoke(path: Path, key_id: str) -> str:
    """Remove the key of that id and return its project."""
    keys = read(path)
    for project, stored in keys.projects.items():
        kept = tuple(key for key in stored.keys if key.id != key_id)
        if len(kept) < len(stored.keys):
            changed = StoredProject(limits=stored.limits, keys=kept)
            write(path, KeysFile(projects={**keys.projects, project: changed}))
            return project
    raise UsageError(f"there is no key {key_id!r}", fix="`tidewatch key list` shows the ids", where=str(path))


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


_BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


def key_of(headers: dict[bytes, bytes]) -> str | None:
    """The key that a request shows, as `Authorization: Bearer` or as `X-Api-Key`."""
    given = headers.get(b"authorization")
    if given is not None:
        match = _BEARER.fullmatch(given)
        return match[1].decode("latin-1") if match else None
    given = headers.get(b"x-api-key")
    return given.decode("latin-1") if given else None


class FileApiKeys:
    """`tidewatch.contracts.ApiKeys` over a file, read again by `reload` when it changed."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError for a file that is there and wrong."""
        self._path = path
        self._seen = self._stamp()
        self._keys = read(path).index()

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: str) -> ApiKey | None:
        return self._keys.get(digest(key))

    def reload(self, *, force: bool = False) -> bool:
        """Read the file again if it changed; whether it did. Keeps the old keys when the new file is wrong, and raises."""
        stamp = self._stamp()
        if stamp == self._seen and not force:
            return False
        self._seen = stamp
        self._keys = read(self._path).index()
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
