"""Files that follow from the code: written by `make generate`, compared by the tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, SecretStr

from tidewatch.settings import Settings, variables
from tidewatch.spec import json_schema
from tidewatch.telemetry.metrics import catalogue

_NOTE = "<!-- Written by `make generate`. -->"


def generated() -> dict[Path, str]:
    """Path below the root of the project → what the file should hold."""
    return {
        Path("pipelines/spec.schema.json"): json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        Path("docs/settings.md"): "\n".join(_settings()),
        Path("docs/metrics.md"): "\n".join(_metrics()),
    }


def drifted(root: Path) -> list[Path]:
    """The files below `root` that are missing or differ."""
    return [path for path, text in generated().items() if _read(root / path) != text]


def write(root: Path) -> list[Path]:
    """Bring the files up to date and return those that changed."""
    changed = drifted(root)
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(generated()[path], encoding="utf-8")
    return changed


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _settings() -> Iterator[str]:
    yield f"# Settings\n\n{_NOTE}\n"
    yield "All come from the environment. A variable that begins with `TIDEWATCH_` and is not known is refused. Where"
    yield "a variable is a secret, the same name with `_FILE` names a file that holds it.\n"
    yield "`TIDEWATCH_DATA` (a directory of real data for the demo and the benchmarks) and `TIDEWATCH_CACHE` (where"
    yield "downloaded programs are kept) are read by the local stack alone.\n"
    yield "| variable | default | meaning |"
    yield "| --- | --- | --- |"
    for name, path, secret in variables():
        default, meaning = _field(path)
        yield f"| `{name}` | {'(secret)' if secret else f'`{default}`'} | {meaning} |"
    yield ""


def _field(path: tuple[str, ...]) -> tuple[object, str]:
    model: type[BaseModel] = Settings
    for part in path[:-1]:
        nested = model.model_fields[part].annotation
        assert isinstance(nested, type)  # noqa: S101 — narrows for the type checker; variables() walked the same way
        model = nested
    field = model.model_fields[path[-1]]
    default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    return ("" if default is None else default), " ".join((field.description or "").split())


def _metrics() -> Iterator[str]:
    yield f"# Metrics\n\n{_NOTE}\n"
    yield "| metric | kind | labels | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, metric in sorted(catalogue().items()):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{name}` | {metric.kind} | {labels} | {' '.join(metric.help.split())} |"
    yield ""
