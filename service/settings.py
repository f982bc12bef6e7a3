"""Settings from the environment, prefix `CARRY_`. A bad or unknown one stops the start."""

import difflib
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import StartUpError

PREFIX = "CARRY_"
_CENTURY_S = 100 * 366 * 86400.0


class Settings(BaseSettings):
    """Every setting, its default and what it does (`python -m service --help` prints this)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(
        1, ge=1, le=256, description="Processes that serve; with more than one, not memory://."
    )
    models: Path = Field(Path("models"), description="Folder of bundles, NAME/VERSION/ each.")
    models_poll_s: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="How often new bundles, and loads and unloads of other processes, are looked"
        " for; 0: never.",
    )
    unload_grace_s: float = Field(
        60.0,
        ge=0,
        le=30 * 86400,
        description="How long sessions of a model that is unloaded may still be stepped.",
    )
    store: str = Field(
        "sqlite:///var/carry.db",
        description="Where sessions live: memory://, sqlite:///PATH (sqlite:////PATH: absolute),"
        " redis://[USER:PASSWORD@]HOST[:PORT][/DB], redis+sentinel://HOST[:PORT],…/SERVICE[/DB] or"
        " redis+cluster://HOST[:PORT],…; rediss for TLS; Valkey is meant as well.",
    )
    store_timeout_s: float = Field(
        2.0,
        gt=0,
        le=60,
        description="Redis only. The longest wait for an answer, the connection included.",
    )
    store_password_file: Path | None = Field(
        None, description="Redis only. A file with the password, in place of one in CARRY_STORE."
    )
    store_ca_file: Path | None = Field(
        None, description="Redis only. Certificates to trust, in place of the system's."
    )
    durability: Literal["power", "process"] = Field(
        "power",
        description="SQLite only. power: every reply is synced to disk before it is sent;"
        " process: survives a killed process, not a power cut.",
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="ONNX Runtime execution provider; auto takes CUDA where installed."
    )
    ort_threads: int = Field(1, ge=1, le=256, description="Threads of one call of a graph.")
    load_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="A bundle that takes longer to be tried out is refused."
    )
    max_batch_rows: int = Field(128, ge=1, le=4096, description="Rows of one call of a graph.")
    max_slice_steps: int = Field(
        64, ge=1, le=4096, description="Steps of one row in one call; longer inputs are sliced."
    )
    max_batch_cells: int = Field(
        2048, ge=1, le=1_000_000, description="Rows × steps of one call: bounds its time."
    )
    max_waiting_jobs: int = Field(
        4096,
        ge=1,
        description="Pieces of work that may wait for one model; more answer 429. These three"
        " bounds are for what waits already: an idle model takes any one request.",
    )
    max_waiting_steps: int = Field(
        1_000_000, ge=1, description="Steps that may wait for one model; more answer 429."
    )
    max_queue_s: float = Field(
        0.5,
        gt=0,
        le=3600,
        description="Work that may wait for one model, in seconds of its time; more answers 429.",
    )
    cache_sessions: int = Field(
        100_000, ge=0, description="Sessions kept in memory beside the store."
    )
    request_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="A request that waits longer is dropped with 503."
    )
    default_ttl_s: float = Field(
        7 * 86400.0,
        gt=0,
        le=_CENTURY_S,
        description="Life of a session after its last committed step.",
    )
    max_ttl_s: float = Field(
        366 * 86400.0, gt=0, le=_CENTURY_S, description="The longest ttl_s a client may ask."
    )
    v2_start: Literal["restart", "409"] = Field(
        "restart",
        description="/v2: a sequence_start on a sequence that goes on begins it anew, or is 409.",
    )
    max_replay: int = Field(
        64, ge=1, le=4096, description="The most replies a session may keep for retries."
    )
    max_checkpoints: int = Field(
        64, ge=0, le=4096, description="The most past states a session may keep; 1 MiB of them."
    )
    max_keep_observations: int = Field(
        4096, ge=0, description="The most past observations a session may keep; 1 MiB of them."
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="A larger body answers 413.")
    max_rows: int = Field(100_000, ge=1, description="Rows of one request.")
    max_text_chars: int = Field(100_000, ge=1, description="Characters of one chunk of text.")
    max_tokens: int = Field(
        2048, ge=1, description="Characters that one request may have a model write."
    )
    max_reply_bytes: int = Field(
        8 * 2**20, ge=1024, description="Outputs of one reply; more answer 413."
    )
    max_instances: int = Field(1024, ge=1, description="Instances of one predict request.")
    api_keys_file: Path | None = Field(
        None,
        description="TOML or JSON file of API keys (python -m service new-key makes one);"
        " without it, everybody may do everything.",
    )
    snapshot_key_file: Path | None = Field(
        None,
        description="File of keys, one a line, the first of which signs snapshots; without it there"
        " are none.",
    )
    metrics_need_key: bool = Field(
        False, description="/metrics needs a key of role admin; only with CARRY_API_KEYS_FILE."
    )
    max_streams: int = Field(
        1024, ge=0, description="WebSockets and event streams of one process; more answer 429."
    )
    max_stream_in_flight: int = Field(
        128, ge=1, le=65536, description="Messages of one WebSocket without an answer yet."
    )
    max_message_bytes: int = Field(
        256 * 1024, ge=1024, le=256 * 1024, description="A larger WebSocket message closes it."
    )
    events_poll_s: float = Field(
        0.5, gt=0, le=60, description="How often listeners look for steps of other replicas."
    )
    stream_idle_s: float = Field(
        3600.0, gt=0, le=86400, description="A WebSocket without a message for longer is closed."
    )
    cors_origins: str = Field(
        "",
        description="Origins whose pages may ask, separated by spaces, such as"
        " https://app.example.org; none where empty.",
    )
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="Connections of one process; one more answers 503."
    )
    read_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="A request that does not come in whole, or an answer that is not read, in this"
        " time ends its connection.",
    )
    shutdown_grace_s: float = Field(
        20.0, ge=0, le=600, description="Time to finish accepted requests after SIGTERM."
    )
    slow_request_s: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="A request that takes longer is logged, with where its time went; 0: none is.",
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="Where traces are sent, as OTLP over HTTP, such as http://collector:4318; none"
        " where empty.",
    )
    traces_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Of requests that bring no traceparent: how many of them are traced.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, JSON elsewhere."
    )

    @field_validator("api_keys_file", "snapshot_key_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None  # compose files pass settings on that nobody has set

    @model_validator(mode="after")
    def _workers_share_a_store(self) -> Self:
        if self.workers > 1 and self.store.strip().lower().startswith("memory:"):
            raise ValueError(
                f"CARRY_WORKERS is {self.workers} and CARRY_STORE is {self.store}: each process"
                " would have sessions of its own; expected a store that they share, such as"
                " sqlite:///var/carry.db, or 1 worker"
            )
        return self

    @model_validator(mode="after")
    def _default_ttl_is_allowed(self) -> Self:
        if self.default_ttl_s > self.max_ttl_s:
            raise ValueError(
                f"CARRY_DEFAULT_TTL_S is {self.default_ttl_s:g}: expected at most CARRY_MAX_TTL_S,"
                f" {self.max_ttl_s:g}"
            )
        return self


def load_settings() -> Settings:
    """Read the process's environment.

    Raises:
        StartUpError: an invalid value, or an unknown setting.
    """
    names = {(PREFIX + name).upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in names:
            near = difflib.get_close_matches(name.upper(), sorted(names), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StartUpError(
                f"unknown setting {name}{hint} (python -m service --help lists them)"
            )
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if not problem["loc"]:
            raise StartUpError(problem["msg"].removeprefix("Value error, ")) from None
        name = (PREFIX + str(problem["loc"][0])).upper()
        raise StartUpError(f"{name} is {problem['input']!r}: {problem['msg']}") from None


def describe_settings() -> str:
    """One line for each setting, aligned, for `--help`."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else field.default
        default = f"{default:.15g}" if isinstance(default, float) else default
        lines.append(f"  {(PREFIX + name).upper():<26} {default}")
        lines.append(f"  {'':<26} {field.description}")
    return "\n".join(lines)
