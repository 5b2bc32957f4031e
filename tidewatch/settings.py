"""Settings come from the environment alone, in sections: `TIDEWATCH_KAFKA__BOOTSTRAP`, `TIDEWATCH_CLICKHOUSE__URL`.

A secret may also come from a file: `TIDEWATCH_CLICKHOUSE__PASSWORD_FILE=/run/secrets/clickhouse`. A variable that
begins with `TIDEWATCH_` and is not known is refused, for a setting with a typing error is a setting that is off.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidewatch.errors import SettingsError

PREFIX = "TIDEWATCH_"
# Read by our own tools rather than by the services; see docs/settings.md.
ELSEWHERE = frozenset({"TIDEWATCH_DATA", "TIDEWATCH_CACHE"})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Kafka(Section):
    bootstrap: str = "127.0.0.1:9092"
    """Comma-separated host:port."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    cluster: str = "main"
    """A name for the cluster; part of every deduplication token, so never change it while events are in flight."""


class ClickHouse(Section):
    url: str = "http://127.0.0.1:8123"
    user: str = "default"
    password: SecretStr = SecretStr("")
    database: str = "default"
    timeout_seconds: float = Field(60, gt=0)


class Store(Section):
    url: SecretStr = SecretStr("sqlite:///.tidewatch/store.db")
    """SQLAlchemy URL: `sqlite:///path` or `postgresql+psycopg://user:password@host/database`."""


class Gateway(Section):
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    keys_file: Path = Path(".tidewatch/keys.yaml")
    """Hashes of API keys, by project; written by `tidewatch key create`."""
    max_body_bytes: int = Field(1_048_576, ge=1024)
    """Of a request, after inflating."""
    max_batch_events: int = Field(5000, ge=1)
    max_waiting_events: int = Field(100_000, ge=1)
    """Events on their way to Kafka; a request that would come on top is told to come back."""
    linger_ms: float = Field(1.0, ge=0)
    """How long the producer waits for company: throughput of single events against their latency."""
    delivery_timeout_seconds: float = Field(10, ge=1)
    """An event that Kafka did not acknowledge by then is answered 503."""
    body_timeout_seconds: float = Field(20, gt=0)
    """A client that takes longer to send its body is answered 408."""
    head_timeout_seconds: float = Field(10, gt=0)
    """A client that takes longer to send a request's head, once it has begun, is answered 408."""
    idle_timeout_seconds: int = Field(75, ge=1)
    """A connection without a request is closed after so long."""
    max_connections: int = Field(2000, ge=1)
    """At once; those beyond are answered 503."""
    max_sampled_per_second: int = Field(50, ge=1)
    """Requests whose caller wants its trace kept; the traces of those beyond go on unsampled."""
    drain_seconds: int = Field(20, ge=1)
    """How long requests in flight may take after SIGTERM."""
    address_limits: str = ""
    """Limits of each client address, such as `requests=600/1m events=60000/1m`; empty means none."""
    trusted_proxies: str = ""
    """Comma-separated networks whose X-Forwarded-For is believed, such as `10.0.0.0/8`."""
    cors_origins: str = ""
    """Comma-separated origins that browsers may send events from, or `*`; empty means none."""
    probe_topic: str = "tidewatch.probe.v1"
    """Where readiness is proved; made at start-up when it is missing."""


class Loader(Section):
    host: str = "127.0.0.1"
    port: int = Field(9101, ge=0, le=65_535)
    """Of /metrics, /healthz and /readyz."""
    instance: str = Field("loader-1", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """Static membership: another for each loader that runs at the same time, the same after a restart."""
    batch_rows: int = Field(100_000, ge=1, le=1_000_000)
    """The most records of one insert."""
    batch_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    """The most bytes of one insert, about."""
    batch_seconds: float = Field(0.5, gt=0, le=60)
    """How long a record may wait for company."""
    queued_kbytes: int = Field(32_768, ge=1024)
    """Records fetched ahead, by topic: what bounds the memory of a loader."""
    session_timeout_seconds: float = Field(8, ge=6, le=300)
    """A loader that is silent for so long loses its partitions."""
    deadline_seconds: int = Field(30, ge=5, le=600)
    """An insert that begins later than this after it was announced is refused by the server."""
    max_bad_share: float = Field(0.5, gt=0, le=1)
    """When more than this share of the records of late is bad, the circuit opens: nothing is dead-lettered."""
    min_bad: int = Field(1000, ge=1)
    """Bad records of late that it takes to open that circuit, whatever their share."""


class Relay(Section):
    host: str = "127.0.0.1"
    port: int = Field(9102, ge=0, le=65_535)
    """Of /metrics, /healthz and /readyz."""
    keep_sent_days: int = Field(7, ge=1)
    """How long a row of the outbox stays after Kafka has it; the business row stays for ever."""


class Collect(Section):
    host: str = "127.0.0.1"
    port: int = Field(9103, ge=0, le=65_535)
    """Of /metrics, /healthz and /readyz."""
    interval_seconds: float = Field(15, gt=0)
    """Of the fast collectors; the slow ones take a multiple of it."""
    timeout_seconds: float = Field(20, gt=0)
    """A collector that takes longer counts as hung: what it measures is shown as unmeasured."""
    ignore_groups: str = r"console-consumer-.*|tidewatch-probe.*"
    """A regular expression; consumer groups whose whole name matches are left out."""


class Telemetry(Section):
    otlp_endpoint: str | None = None
    """Where traces go, by OTLP over HTTP, such as http://127.0.0.1:4318; without it none are exported."""
    sample_ratio: float = Field(0.01, ge=0, le=1)
    """Share of requests traced, when the caller has not decided."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    pipelines: Path = Path("pipelines")
    """The directory of specs."""
    kafka: Kafka = Kafka()
    clickhouse: ClickHouse = ClickHouse()
    store: Store = Store()
    gateway: Gateway = Gateway()
    loader: Loader = Loader()
    relay: Relay = Relay()
    collect: Collect = Collect()
    telemetry: Telemetry = Telemetry()


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Raises SettingsError, naming the variable, for an unknown one, a bad value or a secret file that is unreadable."""
    given = dict(os.environ if environ is None else environ)
    values: dict[str, Any] = {}
    known = {name: path for name, path, _ in variables()}
    secrets = {f"{name}_FILE": path for name, path, secret in variables() if secret}
    for variable, value in sorted(given.items()):
        if not variable.startswith(PREFIX) or variable in ELSEWHERE or variable.startswith("TIDEWATCH_TEST_"):
            continue
        if variable in known:
            _put(values, known[variable], value)
        elif variable in secrets:
            if variable.removesuffix("_FILE") in given:
                raise SettingsError(
                    f"{variable} and {variable.removesuffix('_FILE')} are both set", fix="keep one of them"
                )
            _put(values, secrets[variable], _read_secret(variable, value))
        else:
            near = difflib.get_close_matches(variable, [*known, *secrets], n=1)
            hint = f"did you mean {near[0]}?" if near else "see docs/settings.md for those that exist"
            raise SettingsError(f"{variable} is no setting", fix=hint)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = PREFIX + "__".join(str(part).upper() for part in problem["loc"])
        raise SettingsError(f"{name}: {problem['msg']}", fix="change the value; see docs/settings.md") from None


def variables(
    model: type[BaseModel] = Settings, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(environment variable, path into Settings, whether it is a secret) of each setting."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from variables(field.annotation, here)
        else:
            secret = SecretStr in (field.annotation, *get_args(field.annotation))
            yield PREFIX + "__".join(part.upper() for part in here), here, secret


def _put(values: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def _read_secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{variable} names a file that cannot be read: {error}", fix="mount the secret there, readable by this user"
        ) from None
