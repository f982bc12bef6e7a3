"""Settings from the environment, prefix `CARRY_`. An invalid or unknown one stops the start."""

import difflib
import os
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import StartUpError

PREFIX = "CARRY_"

REMOVED: Final = {
    "CARRY_EVENTS_POLL_S": "listeners read steps of other replicas every 0.5 s",
    "CARRY_MAX_BATCH_CELLS": "set CARRY_MAX_BATCH_ROWS; a batch has at most 2048 rows × steps",
    "CARRY_MAX_CHECKPOINTS": "a session keeps at most 64 checkpoints, of 1 MiB together",
    "CARRY_MAX_INSTANCES": "set CARRY_MAX_BODY_BYTES; a request has at most 1024 instances",
    "CARRY_MAX_KEEP_OBSERVATIONS": "a session keeps at most 4096 observations, of 1 MiB together",
    "CARRY_MAX_MESSAGE_BYTES": "a WebSocket message has at most 256 KiB",
    "CARRY_MAX_REPLAY": "a session keeps at most 64 replies",
    "CARRY_MAX_REPLY_BYTES": "a reply has at most 8 MiB of outputs",
    "CARRY_MAX_ROWS": "set CARRY_MAX_BODY_BYTES; a request has at most 100000 rows",
    "CARRY_MAX_SLICE_STEPS": "set CARRY_MAX_BATCH_ROWS; a slice has at most 64 steps",
    "CARRY_MAX_STREAM_IN_FLIGHT": "a WebSocket has at most 128 messages in flight",
    "CARRY_MAX_TEXT_CHARS": "set CARRY_MAX_BODY_BYTES; a text has at most 100000 characters",
    "CARRY_MAX_TOKENS": "a request generates at most 2048 characters",
    "CARRY_MAX_WAITING_JOBS": "set CARRY_MAX_QUEUE_S, which bounds a model's queue by time",
    "CARRY_MAX_WAITING_STEPS": "set CARRY_MAX_QUEUE_S, which bounds a model's queue by time",
    "CARRY_STREAM_IDLE_S": "a WebSocket without a message for an hour is closed",
}
"""Settings of earlier versions, with what applies instead."""

_CENTURY_S = 100 * 366 * 86400.0


class Settings(BaseSettings):
    """Every setting with its default and its meaning (`python -m service --help` prints them)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes on the port; more than one need a store other than memory://.",
    )
    models: Path = Field(
        Path("models"), description="Folder of bundles, one in each NAME/VERSION/."
    )
    models_poll_s: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="How often to look for new bundles, and for loads and unloads by other"
        " processes; 0: never.",
    )
    unload_grace_s: float = Field(
        60.0,
        ge=0,
        le=30 * 86400,
        description="How long sessions of an unloaded model can still be stepped.",
    )
    store: str = Field(
        "sqlite:///var/carry.db",
        description="Where sessions are stored: memory://, sqlite:///PATH (sqlite:////PATH:"
        " absolute), redis://[USER:PASSWORD@]HOST[:PORT][/DB],"
        " redis+sentinel://HOST[:PORT],…/SERVICE[/DB] or redis+cluster://HOST[:PORT],…; rediss for"
        " TLS. Valkey works like Redis.",
    )
    store_timeout_s: float = Field(
        2.0,
        gt=0,
        le=60,
        description="Redis only. The longest wait for a reply, including the time to connect.",
    )
    store_password_file: Path | None = Field(
        None, description="Redis only. A file with the password, instead of one in CARRY_STORE."
    )
    store_ca_file: Path | None = Field(
        None,
        description="Redis only. A file of certificates to trust, instead of those of the system.",
    )
    durability: Literal["power", "process"] = Field(
        "power",
        description="SQLite only. power: every step is synced to disk before its reply is sent;"
        " process: steps survive a killed process, but not a power cut.",
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="ONNX Runtime execution provider; auto uses CUDA if it is installed."
    )
    ort_threads: int = Field(1, ge=1, le=256, description="Threads of one call of a graph.")
    load_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="A bundle whose verification takes longer is refused."
    )
    max_batch_rows: int = Field(128, ge=1, le=4096, description="Rows of one call of a graph.")
    max_queue_s: float = Field(
        0.5,
        gt=0,
        le=3600,
        description="The longest queue of a model, in seconds of its work; further requests get"
        " 429. An idle model accepts any request.",
    )
    cache_sessions: int = Field(
        100_000, ge=0, description="Sessions cached in memory, in addition to the store."
    )
    request_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="A request that waits longer gets 503."
    )
    default_ttl_s: float = Field(
        7 * 86400.0,
        gt=0,
        le=_CENTURY_S,
        description="How long a session is kept after its last step, unless its client chooses.",
    )
    max_ttl_s: float = Field(
        366 * 86400.0,
        gt=0,
        le=_CENTURY_S,
        description="The largest ttl_s that a client can choose.",
    )
    v2_start: Literal["restart", "409"] = Field(
        "restart",
        description="/v2: whether sequence_start on an open sequence restarts it, or gets 409.",
    )
    max_body_bytes: int = Field(
        16 * 2**20, ge=1024, description="A request with a larger body gets 413."
    )
    api_keys_file: Path | None = Field(
        None,
        description="TOML or JSON file of API keys (python -m service new-key creates one)."
        " Without it, every client has every right.",
    )
    snapshot_key_file: Path | None = Field(
        None,
        description="File of keys, one per line; the first one signs snapshots. Without it, the"
        " service takes and restores no snapshots.",
    )
    metrics_need_key: bool = Field(
        False,
        description="Whether /metrics requires a key of role admin; needs CARRY_API_KEYS_FILE.",
    )
    max_streams: int = Field(
        1024, ge=0, description="WebSockets and event streams of one process; further ones get 429."
    )
    cors_origins: str = Field(
        "",
        description="Origins of web pages that may call the service, separated by spaces, such as"
        " https://app.example.org; empty: none.",
    )
    max_connections: int = Field(
        10_000, ge=1, le=1_000_000, description="Connections of one process; further ones get 503."
    )
    read_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="A connection is closed if a request is not received, or a response not read,"
        " in this time.",
    )
    shutdown_grace_s: float = Field(
        20.0, ge=0, le=600, description="Time to finish accepted requests after SIGTERM."
    )
    slow_request_s: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="A request that takes longer is logged with the time of each of its parts; 0:"
        " none is.",
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="Where to send traces, as OTLP over HTTP, such as http://collector:4318; empty:"
        " no traces.",
    )
    traces_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of requests to trace, from 0 to 1, among those without a traceparent.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, else JSON."
    )

    @field_validator("api_keys_file", "snapshot_key_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None  # compose files pass unset settings on as empty ones

    @model_validator(mode="after")
    def _workers_share_a_store(self) -> Self:
        if self.workers > 1 and self.store.strip().lower().startswith("memory:"):
            raise ValueError(
                f"CARRY_WORKERS is {self.workers} and CARRY_STORE is {self.store}: expected a store"
                " that processes share, such as sqlite:///var/carry.db, or 1 worker"
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
        StartUpError: an invalid value, or an unknown or removed setting.
    """
    names = {(PREFIX + name).upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper() in REMOVED:
            raise StartUpError(f"setting {name} was removed: unset it; {REMOVED[name.upper()]}")
        if name.upper().startswith(PREFIX) and name.upper() not in names:
            near = difflib.get_close_matches(name.upper(), sorted(names), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StartUpError(
                f"unknown setting {name}{hint} (python -m service --help lists all settings)"
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
    """Two aligned lines for each setting, for `--help`."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else field.default
        default = f"{default:.15g}" if isinstance(default, float) else default
        lines.append(f"  {(PREFIX + name).upper():<26} {default}")
        lines.append(f"  {'':<26} {field.description}")
    return "\n".join(lines)
