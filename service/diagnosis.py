"""What `python -m service doctor` looks at: one function for each thing that may be wrong.

Rule 1: nothing is changed, but what a check of the store writes and syncs.
Rule 2: a finding says what was found and, where it is not well, what to do; no secret is shown.
Rule 3: `fail` keeps the service from starting or from keeping its promises; `warn` is a matter of
        judgement.
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
_OLDEST_NOW_S = 1.7e9  # 2023: a machine whose clock was never set is before it
_SAFE = ("power", "server: synced before every reply")
_LOCAL = ("127.", "localhost", "::1")


class Finding(NamedTuple):
    status: Literal["ok", "warn", "fail"]
    what: str
    found: str
    remedy: str = ""


def diagnose(settings: Settings) -> Iterator[Finding]:
    """Every finding, in order; a check that fails does not keep the others from being made."""
    for what, check in _CHECKS.items():
        try:
            yield from check(settings)
        except StartUpError as error:
            yield Finding("fail", what, str(error), "as it says")
        except (CarryError, OSError) as error:
            detail = error.detail if isinstance(error, CarryError) else str(error.strerror)
            yield Finding("fail", what, detail, "see that it runs and may be used")


def _address(settings: Settings) -> Iterator[Finding]:
    listener: socket.socket = bind(settings)
    listener.close()
    where = f"{settings.host}:{settings.port}"
    if settings.api_keys_file is None and not settings.host.startswith(_LOCAL):
        yield Finding(
            "warn",
            "address",
            f"{where}, and no keys: every client that can reach it may do everything",
            "set CARRY_API_KEYS_FILE, or listen on 127.0.0.1",
        )
    else:
        yield Finding("ok", "address", f"{where} is free")


def _store(settings: Settings) -> Iterator[Finding]:
    store = open_store(settings.store, store_options(settings))

    async def ask() -> float:
        try:
            await store.check()
            return await store.now() - time.time()
        finally:
            await store.close()

    skew_s = asyncio.run(ask())
    scheme = settings.store.partition(":")[0]
    yield Finding("ok", "store", f"{scheme}: can be written")
    if store.durability in _SAFE:
        yield Finding("ok", "durability", store.durability)
    else:
        yield Finding(
            "warn",
            "durability",
            f"{store.durability}: a power cut may lose what was acknowledged",
            "CARRY_DURABILITY=power, or a durable CARRY_STORE, where that matters",
        )
    now = time.time()
    if now < _OLDEST_NOW_S or abs(skew_s) > _MOST_SKEW_S:
        yield Finding(
            "fail",
            "clock",
            f"this machine's is {now:.0f} s since 1970, the store's {skew_s:+.1f} s from it",
            "let NTP set both: sessions expire by them",
        )
    else:
        yield Finding("ok", "clock", f"the store's is {skew_s:+.3f} s from this machine's")


def _disk(settings: Settings) -> Iterator[Finding]:
    if not settings.store.startswith("sqlite:///"):
        return
    folder = Path(settings.store.removeprefix("sqlite:///")).absolute().parent
    free = shutil.disk_usage(folder).free
    said = f"{free / 2**20:,.0f} MiB are free beside the store"
    if free < _LITTLE_FREE_BYTES:
        status: Literal["warn", "fail"] = "fail" if free < _LEAST_FREE_BYTES else "warn"
        yield Finding(status, "disk", said, "make room: a full disk answers every step 503")
    else:
        yield Finding("ok", "disk", said)


def _models(settings: Settings) -> Iterator[Finding]:
    provider = resolve_provider(settings.provider)
    with closing(Verifier(provider, settings.ort_threads, settings.load_timeout_s)) as verifier:
        registry = load_folder(
            settings.models, provider, settings.ort_threads, verifier, patience_s=math.inf
        )
    yield Finding("ok", "provider", registry.provider)
    for bundle, reason in registry.refused.items():
        yield Finding("fail", f"model {bundle}", reason, "export it again, or take it away")
    for model in registry.all():
        said = "hashes match, the recorded run is reproduced"
        yield Finding("ok", f"model {model.name}/{model.version}", said)
    if not registry.all():
        yield Finding("fail", "models", "none is loaded", "put a bundle into CARRY_MODELS")


def _watching(settings: Settings) -> Iterator[Finding]:
    is_shared = settings.workers > 1 or settings.store.startswith("redis")
    if is_shared and not settings.models_poll_s:
        yield Finding(
            "warn",
            "models watched",
            "CARRY_MODELS_POLL_S is 0, and the store is one that other processes share: what is"
            " loaded or unloaded in one is not heard of in the others",
            "a few seconds, or load and unload in each",
        )


def _files(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = settings.max_connections + DESCRIPTORS_BESIDE
    may = soft if hard == resource.RLIM_INFINITY else hard
    if may != resource.RLIM_INFINITY and may < asked:
        yield Finding(
            "fail",
            "open files",
            f"{may} may be open: too few for {settings.max_connections} connections",
            f"ulimit -n {asked}, or a smaller CARRY_MAX_CONNECTIONS",
        )
    else:
        yield Finding("ok", "open files", f"{may} may be open")
    cores = os.cpu_count() or 1
    if settings.workers > cores:
        yield Finding(
            "warn", "workers", f"{settings.workers} on {cores} cores", "one for each core at most"
        )


def _keys(settings: Settings) -> Iterator[Finding]:
    path = settings.api_keys_file
    if path is None:
        yield Finding("ok", "keys", "none are asked for")
        return
    keys = read_keys_file(path).values()
    alive = [
        key for key in keys
        if not key.revoked and (key.expires is None or key.expires.timestamp() > time.time())
    ]  # fmt: skip
    admins = sum(key.role == "admin" for key in alive)
    said = f"{len(alive)} of {len(keys)} keys are valid, {admins} of an admin"
    if not alive:
        yield Finding("fail", "keys", said, "python -m service new-key makes one")
    else:
        yield Finding("ok", "keys", said)
    yield from _permissions("keys file", path, stat.S_IWGRP | stat.S_IWOTH)


def _snapshot_key(settings: Settings) -> Iterator[Finding]:
    path = settings.snapshot_key_file
    if path is None:
        yield Finding("ok", "snapshot key", "none: snapshots are off")
        return
    SnapshotKeys.read(path)
    yield Finding("ok", "snapshot key", "can be read")
    yield from _permissions("snapshot key", path, stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH)


def _permissions(what: str, path: Path, refused: int) -> Iterator[Finding]:
    mode = path.stat().st_mode
    if mode & refused:
        yield Finding(
            "fail", what, f"{path.name} has mode {stat.filemode(mode)}: others may use it",
            "chmod 600, owned by the user who serves",
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
