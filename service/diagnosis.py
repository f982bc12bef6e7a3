"""The checks of `python -m service doctor`: one function for each subject.

Rule 1: checks change nothing, except that the check of the store writes and syncs.
Rule 2: a finding says what was found and, if it is a problem, how to fix it; never a secret.
Rule 3: `fail` prevents the service from starting or from keeping its guarantees; `warn` is a risk
        that you may accept.
"""

import asyncio
import math
import os
import resource
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple

from service.api.auth.keys import read_keys_file
from service.api.http.connection_limits import DESCRIPTORS_BESIDE
from service.app import store_options
from service.engine.graph.runner import resolve_provider
from service.engine.models.first_load import load_folder
from service.engine.models.verifier import Verifier
from service.engine.session.snapshots import SnapshotKeys
from service.errors import CarryError, StartUpError
from service.server import bind
from service.settings import Settings
from service.stores.factory import open_store

_LEAST_FREE_BYTES = 100 * 2**20
_LITTLE_FREE_BYTES = 2**30
_MOST_SKEW_S = 5.0
_OLDEST_NOW_S = 1.7e9  # 2023: a clock that was never set is earlier
_SAFE = ("power", "server: synced before every reply")
_LOCAL = ("127.", "localhost", "::1")


class Finding(NamedTuple):
    status: Literal["ok", "warn", "fail"]
    what: str
    found: str
    remedy: str = ""


def diagnose(settings: Settings) -> Iterator[Finding]:
    """All findings, in order; after a failed check the others still run."""
    for what, check in _CHECKS.items():
        try:
            yield from check(settings)
        except StartUpError as error:
            yield Finding("fail", what, str(error), "see the message")
        except (CarryError, OSError) as error:
            detail = error.detail if isinstance(error, CarryError) else str(error.strerror)
            yield Finding("fail", what, detail, "check that it is running and accessible")


def _address(settings: Settings) -> Iterator[Finding]:
    listener: socket.socket = bind(settings)
    listener.close()
    where = f"{settings.host}:{settings.port}"
    if settings.api_keys_file is None and not settings.host.startswith(_LOCAL):
        yield Finding(
            "warn",
            "address",
            f"{where} without API keys: every client that can reach it has full access",
            "set CARRY_API_KEYS_FILE, or listen on 127.0.0.1",
        )
    else:
        yield Finding("ok", "address", f"{where} is free")


def _store(settings: Settings) -> Iterator[Finding]:
    store = open_store(settings.store, store_options(settings))

    async def check() -> float:
        try:
            await store.check()
            return await store.now() - time.time()
        finally:
            await store.close()

    skew_s = asyncio.run(check())
    scheme = settings.store.partition(":")[0]
    yield Finding("ok", "store", f"{scheme}: writable")
    if store.durability in _SAFE:
        yield Finding("ok", "durability", store.durability)
    else:
        yield Finding(
            "warn",
            "durability",
            f"{store.durability}: a power cut may lose acknowledged steps",
            "set CARRY_DURABILITY=power, or a durable CARRY_STORE",
        )
    now = time.time()
    if now < _OLDEST_NOW_S or abs(skew_s) > _MOST_SKEW_S:
        yield Finding(
            "fail",
            "clock",
            f"this machine: {now:.0f} s since 1970; the store differs by {skew_s:+.1f} s",
            "synchronize both with NTP: the expiry of sessions needs them",
        )
    else:
        yield Finding("ok", "clock", f"the store differs from this machine by {skew_s:+.3f} s")


def _disk(settings: Settings) -> Iterator[Finding]:
    if not settings.store.startswith("sqlite:///"):
        return
    folder = Path(settings.store.removeprefix("sqlite:///")).absolute().parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**20:,.0f} MiB free in the store's folder"
    if free < _LITTLE_FREE_BYTES:
        status: Literal["warn", "fail"] = "fail" if free < _LEAST_FREE_BYTES else "warn"
        yield Finding(
            status, "disk", found, "free space: with a full disk every step fails with 503"
        )
    else:
        yield Finding("ok", "disk", found)


def _models(settings: Settings) -> Iterator[Finding]:
    provider = resolve_provider(settings.provider)
    with closing(Verifier(provider, settings.ort_threads, settings.load_timeout_s)) as verifier:
        registry = load_folder(
            settings.models, provider, settings.ort_threads, verifier, patience_s=math.inf
        )
    yield Finding("ok", "provider", registry.provider)
    for bundle, reason in registry.refused.items():
        yield Finding("fail", f"model {bundle}", reason, "export it again, or remove it")
    for model in registry.all():
        found = "hashes match, the golden run is reproduced"
        yield Finding("ok", f"model {model.name}/{model.version}", found)
    if not registry.all():
        yield Finding(
            "fail", "models", "none is loaded", "put a bundle into the folder CARRY_MODELS"
        )


def _watching(settings: Settings) -> Iterator[Finding]:
    is_shared = settings.workers > 1 or settings.store.startswith("redis")
    if is_shared and not settings.models_poll_s:
        yield Finding(
            "warn",
            "models watched",
            "CARRY_MODELS_POLL_S is 0, and several processes share the store: a model loaded or"
            " unloaded in one process does not change in the others",
            "set it to a few seconds, or load and unload in each process",
        )


def _files(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + DESCRIPTORS_BESIDE
    limit = soft if hard == resource.RLIM_INFINITY else hard
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield Finding(
            "fail",
            "open files",
            f"the limit is {limit}: too low for {settings.max_connections} connections",
            f"ulimit -n {needed}, or a smaller CARRY_MAX_CONNECTIONS",
        )
    else:
        yield Finding("ok", "open files", f"the limit is {limit}")
    cores = os.cpu_count() or 1
    if settings.workers > cores:
        yield Finding(
            "warn", "workers", f"{settings.workers} on {cores} cores", "use at most one per core"
        )


def _keys(settings: Settings) -> Iterator[Finding]:
    path = settings.api_keys_file
    if path is None:
        yield Finding("ok", "keys", "none are required")
        return
    keys = read_keys_file(path).values()
    alive = [
        key for key in keys
        if not key.revoked and (key.expires is None or key.expires.timestamp() > time.time())
    ]  # fmt: skip
    admins = sum(key.role == "admin" for key in alive)
    found = f"{len(alive)} of {len(keys)} keys are valid, {admins} with role admin"
    if not alive:
        yield Finding("fail", "keys", found, "create one with python -m service new-key")
    else:
        yield Finding("ok", "keys", found)
    yield from _permissions("keys file", path, stat.S_IWGRP | stat.S_IWOTH)


def _snapshot_key(settings: Settings) -> Iterator[Finding]:
    path = settings.snapshot_key_file
    if path is None:
        yield Finding("ok", "snapshot key", "none: snapshots are off")
        return
    SnapshotKeys.read(path)
    yield Finding("ok", "snapshot key", "readable")
    yield from _permissions("snapshot key", path, stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH)


def _permissions(what: str, path: Path, refused: int) -> Iterator[Finding]:
    mode = path.stat().st_mode
    if mode & refused:
        yield Finding(
            "fail", what, f"{path.name} has mode {stat.filemode(mode)}: other users have access",
            "chmod 600, owned by the user of the service",
        )  # fmt: skip


_CHECKS: dict[str, Callable[[Settings], Iterator[Finding]]] = {
    "address": _address,
    "open files": _files,
    "keys": _keys,
    "snapshot key": _snapshot_key,
    "store": _store,
    "disk": _disk,
    "models": _models,
    "models watched": _watching,
}
