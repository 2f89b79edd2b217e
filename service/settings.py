"""Every setting, typed, with its default: environment `REPL_…`, a TOML file, the command line. Nothing else
reads them.

Order of precedence: command line, environment, TOML file (`--config`, else `repl-ranker.toml` in the data
directory where there is one), default. Unknown keys are refused with the nearest known name.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
)

from features.errors import SettingsError
from features.redis_extra import masked
from service.experiment_settings import ExperimentSettings, check_experiments

PREFIX = "REPL_"


class SecretUrl(SecretStr):
    """A URL that may hold a password: shown without it."""

    def _display(self) -> str:
        return masked(self.get_secret_value())


class Settings(BaseModel):
    """The effective settings; `sources` says where each value that is not a default came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Path = Field(Path("data"), description="where log, weights, user state and bases lie")
    host: str = Field("127.0.0.1", description="address the ranker binds to; loopback needs no key to write")
    port: int = Field(8080, ge=0, le=65535, description="port of the ranker")
    workers: int = Field(
        1, ge=1, le=64, description="processes of `serve` that answer on the port and share the item tables (Linux)"
    )
    page: bool = Field(True, description="serve the demonstration page at /")
    tenant: str = Field(
        "default", description="the tenant of this data directory; with `tenants`: of a call that names none"
    )
    tenants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, repr=False, description="several tenants in one ranker: settings of each, in TOML only"
    )
    admin_key: SecretStr | None = Field(None, description="bearer key; unset: the file admin.key is made")
    keys_file: Path | None = Field(
        None, description="API keys with scopes, as `repl-ranker keys` makes it; unset: data_dir/keys.json, if there"
    )
    metrics_open: bool = Field(False, description="/metrics needs no key where there are API keys")
    tls_cert: Path | None = Field(None, description="PEM file of the certificate chain: the ranker speaks HTTPS")
    tls_key: Path | None = Field(None, description="PEM file of its private key, without a password")
    schema_file: Path | None = Field(None, description="schema YAML; unset: the base's own")
    base_dir: Path | None = Field(
        None, description="base model to serve; unset: data_dir/base, else the sample"
    )
    base_sources: tuple[str, ...] = Field(
        (), description="directories and http(s) addresses, with commas, under which a base may be staged over HTTP"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="logs from this level upwards"
    )
    request_log: Literal["info", "debug"] = Field(
        "debug", description="level at which every request is logged; slow and failed ones are in any case"
    )
    drain_seconds: float = Field(
        1.0, ge=0, le=600, description="how long requests are still taken after SIGTERM, while not ready any more"
    )

    # where weights and user states lie, if not in the data directory
    weights_url: SecretUrl | None = Field(
        None,
        description="URL of the weight store: redis://, rediss://, redis+cluster:// or redis+sentinel:// "
        "(docs/redis.md); unset: data_dir/trainer.db",
    )
    user_states_url: SecretUrl | None = Field(
        None, description="URL of the ranker's user states in Redis, as weights_url; unset: data_dir/state.db"
    )
    user_states: Literal["here", "beside"] = Field(
        "here", description="who keeps user states: the ranker itself, or `repl-ranker states` beside it"
    )
    user_state_ttl_days: float = Field(
        90, gt=0, description="how long a user's state is kept in Redis after its last change, days"
    )
    redis_timeout_ms: int = Field(
        2_000, ge=50, le=60_000, description="wait for Redis: to connect, and for an answer"
    )
    redis_checkpoint_bytes: int = Field(
        1 << 28, ge=1 << 20, description="what the chunks of checkpoints may take in Redis before old ones go"
    )

    # limits of a request
    max_candidates: int = Field(5_000, ge=1, le=100_000, description="candidates of a rank request, at most")
    max_body_bytes: int = Field(4 << 20, ge=1_024, description="body of a request, at most")
    max_events_per_call: int = Field(10_000, ge=1, description="events of one call, at most")
    requests_per_second: float | None = Field(
        None, gt=0, description="requests of a tenant under /v1/, at most; unset: any number"
    )
    events_per_second: float | None = Field(None, gt=0, description="events of a tenant, at most; unset: any number")
    key_requests_per_second: float | None = Field(None, gt=0, description="the same of one API key")
    key_events_per_second: float | None = Field(None, gt=0, description="the same of one API key")
    burst_seconds: float = Field(
        2.0, gt=0, le=3_600, description="how many seconds' worth of these may come at once after a pause"
    )
    wait_ms: int = Field(1_000, ge=0, le=60_000, description="longest wait for a token in `after`")
    pre_rank: int = Field(5_000, ge=1, description="items kept by the coarse stage of /v1/retrieve")
    objectives: dict[str, dict[str, float]] = Field(
        default_factory=lambda: {
            "click": {"click": 1.0},
            "purchase": {"click": 1.0, "purchase": 1.0},
            "revenue": {"click": 1.0, "purchase": 1.0, "price": 1.0},
        },
        description="named objectives: weights of log click, log purchase and log price",
    )
    objective: str = Field("click", description="objective of a request that names none")
    experiments: dict[str, ExperimentSettings] = Field(
        default_factory=dict, description="experiments by name (docs/ab-tests.md); in the TOML file only"
    )

    # the log
    log_url: str | None = Field(
        None, description="the event log; unset: embedded in data_dir; kafka://host:port/prefix (docs/kafka.md)"
    )
    log_user: str | None = Field(None, description="user of log_url (sasl=)")
    log_password: SecretStr | None = Field(None, description="password of log_user")
    durable: Literal["process", "fsync"] = Field("process", description="what an accepted event survives")
    event_retention_days: float = Field(90, gt=0, description="how long events are kept (imports: for ever)")
    served_retention_hours: float = Field(48, gt=0, description="how long served records are kept")
    log_max_bytes: int = Field(
        4 << 30, ge=16 << 20, description="size of the log from which on served records are thinned"
    )
    log_items: int = Field(30, ge=0, le=200, description="items of an answer whose inputs are logged")
    served_queue: int = Field(10_000, ge=1, description="served records waiting for the log, at most")
    dedup_hours: float = Field(24, gt=0, description="how long an event id counts once")
    dedup_ids: int = Field(1_000_000, ge=1, description="event ids remembered for that, at most")
    infer_shown: bool = Field(
        False, description="without `ranking` events: shown = down to one below the last click"
    )

    # user state
    history: int = Field(256, ge=50, le=4_096, description="interactions kept a user")
    users_in_memory: int = Field(
        20_000, ge=100, description="user states held in memory; the rest is read from disk"
    )
    max_items: int = Field(2_000_000, ge=1_000, description="items kept in the catalogue and the counters")

    # online learning
    hold_ms: int = Field(
        5_000, ge=0, le=600_000, description="wait before counters and learner take an event"
    )
    publish_every_ms: int = Field(
        200, ge=20, le=60_000, description="shortest time between two weight versions"
    )
    checkpoint_every_ms: int = Field(10_000, ge=200, description="time between two checkpoints")
    versions_all_minutes: float = Field(
        10, ge=1, le=1_440, description="how long every weight version is kept, minutes"
    )
    versions_minutely_hours: float = Field(
        24, ge=1, description="how long one version a minute is kept, hours"
    )
    versions_hourly_days: float = Field(30, ge=1, description="how long one version an hour is kept, days")
    control_share: float = Field(
        0.01, ge=0, le=0.5, description="share of traffic ranked by the frozen prior"
    )
    negative_after_ms: int = Field(
        30_000, ge=0, description="a shown item without a click counts as negative after this"
    )
    click_window_ms: int = Field(
        600_000, ge=0, description="a click counts for an item shown at most this long ago"
    )
    purchase_wait_ms: int = Field(
        1_800_000, ge=0, description="a click without a purchase counts as negative after this"
    )
    purchase_window_ms: int = Field(
        86_400_000, ge=0, description="a purchase counts for a click at most this long ago"
    )
    join_capacity: int = Field(
        200_000, ge=100, description="shown items whose inputs wait for labels, at most"
    )
    negatives_kept: float = Field(
        1.0, ge=1 / 64, le=1, description="share of shown items without a click that is learned, by the inverse weight"
    )
    thin_to: float = Field(
        1.0, ge=1 / 64, le=1, description="the same at least, while the trainer is behind; 1: not thinned for that"
    )
    thin_after_ms: int = Field(
        30_000, ge=1_000, description="how far behind its log the trainer is when it begins to thin"
    )
    process_noise: float = Field(
        1e-7, ge=0, description="variance added to each weight a second of event time"
    )
    learning_rate: float = Field(0.3, gt=0, le=1, description="share of the full Kalman step")

    # offline training
    seed: int = Field(17, description="seed of offline training")
    epochs: int = Field(4, ge=1, description="passes of offline training over the examples, at most")
    next_item_weight: float = Field(
        0.2, ge=0, description="weight of the next-interaction loss in offline training"
    )
    table_bytes: int | None = Field(
        None,
        ge=1 << 15,
        description="bytes of the first base's three tables; unset: 1/20 of the IDs as rows. Later bases keep them",
    )

    @field_validator("base_sources", mode="before")
    @classmethod
    def _sources(cls, value: Any) -> Any:
        """A text is a list with commas; a relative or empty place would allow what nobody meant."""
        found = [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value
        for one in found:
            if not str(one).startswith(("/", "http://", "https://")):
                raise ValueError(f"{one!r} is neither an absolute directory nor an http(s) address")
        return found

    _experiments = field_validator("experiments")(check_experiments)

    @field_serializer("weights_url", "user_states_url", when_used="json")
    def _without_password(self, url: SecretUrl | None) -> str | None:
        return None if url is None else str(url)

    @field_serializer("tenants", when_used="json")
    def _names_only(self, tenants: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
        return {tenant: sorted(given) for tenant, given in tenants.items()}


def nearest(name: str) -> str:
    """A hint for a setting that there is not."""
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"did you mean {close[0]!r}?" if close else "`repl-ranker config` lists all settings"


def _from_environment() -> dict[str, str]:
    found = {}
    for variable, value in os.environ.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower()
            if name not in Settings.model_fields:
                raise SettingsError(f"unknown setting {variable}", field=variable, hint=nearest(name))
            found[name] = value
    return found


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read settings file {path}: {error}", field="config") from error
    for name in found:
        if name not in Settings.model_fields:
            raise SettingsError(f"unknown setting {name!r} in {path}", field=name, hint=nearest(name))
    return found


def check_objective(settings: Settings) -> None:
    """Raise SettingsError unless the usual objective is one of those that are named."""
    if settings.objective not in settings.objectives:
        raise SettingsError("objective is not among objectives", field="objective", value=settings.objective)


def require_beside(settings: Settings) -> None:
    """Raise SettingsError unless log and user states lie where several processes reach them."""
    for name, wanted in (("log_url", "kafka://…"), ("user_states_url", "redis://…")):
        if getattr(settings, name) is None:
            raise SettingsError(
                "user states can be kept beside the ranker only with a log on Kafka and states in Redis",
                field=name, value=None, hint=f"set {name} ({wanted}), or user_states = here",
            )  # fmt: skip


def load_settings(config: Path | None = None, **command_line: Any) -> tuple[Settings, dict[str, str]]:
    """Read all sources and return (settings, source of each name: default, file, environment, command line).

    Raises SettingsError naming the setting, the value and what to do.
    """
    given = {name: value for name, value in command_line.items() if value is not None}
    environment = _from_environment()
    data_dir = Path(given.get("data_dir") or environment.get("data_dir") or "data")
    if config is None and (data_dir / "repl-ranker.toml").exists():
        config = data_dir / "repl-ranker.toml"
    layers = [
        ("file", _from_toml(config) if config else {}),
        ("environment", environment),
        ("command line", given),
    ]
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")
    for source, layer in layers:
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
    for name in ("objectives", "experiments", "tenants"):
        if isinstance(values.get(name), str):
            raise SettingsError(f"{name} can only be set in the TOML file", field=name)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            first["msg"], field=name, value=first.get("input"), hint=f"set by: {sources.get(name.partition('.')[0])}"
        ) from error
    check_objective(settings)
    if settings.tenants:
        from service.tenant_settings import check_tenants

        check_tenants(settings)
    return settings, sources
