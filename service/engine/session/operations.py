"""The operations on a session besides steps: fork, rewind, restore, upgrade.

Rule 1: as in `rules`: nothing here awaits or reads a clock, and after a lost compare-and-swap
        everything is decided again from the stored record.
Rule 2: a decision is the whole record to write: `Apply.base`, under a new revision. Only a replay
        runs a graph first.
Rule 3: each of them clears the kept replies, which belong to another past.
"""

from dataclasses import replace

from service.contract.text import UNREAD, TextCursor
from service.engine.models.loaded_model import LoadedModel
from service.engine.session.observation_codec import unpack_observations
from service.engine.session.refusals import require_found, require_live, session_not_found
from service.engine.session.requests import (
    ForkRequest,
    RestoreRequest,
    RewindRequest,
    UpgradeRequest,
)
from service.engine.session.retention import kept_at
from service.engine.session.rules import (
    Answer,
    Apply,
    Reply,
    first_answer,
    if_expired,
    is_open,
)
from service.errors import (
    CheckpointGoneError,
    ModelNotFoundError,
    SessionExistsError,
    SnapshotForeignError,
    SnapshotRefusedError,
    UpgradeRefusedError,
)
from service.stores.record.history import History, pack_history
from service.stores.record.record import Key, Record, SessionHeader, pack_data


def decide_fork(
    request: ForkRequest,
    key: Key,
    found: Record | None,
    source: Record | None,
    model: LoadedModel | None,
    now: float,
) -> Apply | Answer:
    """What a fork of `source` means if `found` is stored under the new name.

    `model` is served here under the name and version of the source's model.

    Raises:
        CarryError: the source cannot be stepped, its model accepts no new sessions, or another
            request took the name.
    """
    if is_open(found, now):
        return first_answer(found, request.digest)
    if source is None:
        raise session_not_found(request.source)
    require_live(source, now)
    fingerprint = source.header.fingerprint
    if model is None or model.fingerprint != fingerprint:
        raise ModelNotFoundError(
            f"session {request.source.name!r} is of model {fingerprint.model!r} version"
            f" {fingerprint.version}, which accepts no new sessions: it was unloaded, or its"
            " weights or state layout changed; GET /v1/models lists the loaded models"
        )
    header = replace(
        source.header,
        name=key.name,
        created_at=now,
        metadata=source.header.metadata if request.metadata is None else request.metadata,
        history=source.step,
        digest=request.digest,
        outputs=b"",
    )
    ttl_s = source.ttl_s if request.ttl_s is None else request.ttl_s
    return Apply(_as_it_is(source, header, ttl_s, now), None, expired=if_expired(found))


def decide_rewind(
    request: RewindRequest, key: Key, found: Record | None, now: float
) -> Apply | Answer:
    """What a rewind means for the record that was `found`.

    Raises:
        CarryError: the session cannot be stepped, or has no checkpoint of that step.
    """
    live = require_found(found, key, now)
    if request.step == live.step:
        return Answer(Reply(live, live.step, b""))
    kept = live.history.checkpoints
    for each in kept:
        if each.step == request.step:
            data = pack_data(
                each.step, each.state, each.cursor, b"", 0, live.ttl_s, now,
                history=pack_history(kept_at(live, each.step)),
            )  # fmt: skip
            return Apply(Record(live.header, data), live)
    steps = [each.step for each in kept]
    keeps = live.header.keeps
    chosen = f"it keeps {keeps.checkpoints if keeps else 0} checkpoints"
    raise CheckpointGoneError(
        f"session {key.name!r} is at step {live.step} and has no checkpoint of step"
        f" {request.step}: expected one of {steps} ({chosen}, as chosen when it was opened)",
        expected_step=live.step,
        kept_steps=steps,
    )


def decide_restore(
    request: RestoreRequest, key: Key, found: Record | None, model: LoadedModel | None, now: float
) -> Apply | Answer:
    """What restoring a snapshot means if `found` is stored under the name.

    `model` is loaded here under the name and version of the snapshot's model.

    Raises:
        CarryError: the snapshot is of another tenant or graph, or the name is taken.
    """
    sealed = request.sealed
    fingerprint = sealed.header.fingerprint
    if sealed.header.tenant != key.tenant:
        raise SnapshotForeignError(
            "the snapshot belongs to another tenant: restore it with an API key of that tenant"
        )
    if model is None or model.fingerprint != fingerprint:
        raise SnapshotRefusedError(
            f"the snapshot is of model {fingerprint.model!r} version {fingerprint.version}, graph"
            f" {fingerprint.graph_sha256[:12]}, which is not loaded here: load that bundle first"
        )
    if sealed.state_bytes != model.layout.row_bytes:
        raise SnapshotRefusedError(
            f"expected a snapshot with a state of {model.layout.row_bytes} bytes, as model"
            f" {fingerprint.model!r} has, found {sealed.state_bytes}: take another one"
        )
    if model.time is not None and sealed.header.start_s is None:
        raise SnapshotRefusedError(
            f"model {fingerprint.model!r} uses the time of each row: expected a snapshot with a"
            " start, found none; take another one"
        )
    header = replace(
        sealed.header, name=key.name, created_at=now, history=sealed.step, digest=request.digest
    )
    base = _as_it_is(sealed, header, sealed.ttl_s, now)
    if not is_open(found, now):
        return Apply(base, None, expired=if_expired(found))
    if not request.replaces:
        return first_answer(found, request.digest, "session-exists-replace")
    if found.header.model != fingerprint.model:
        raise SessionExistsError(
            f"session {key.name!r} is open and of model {found.header.model!r}, the snapshot is of"
            f" {fingerprint.model!r}: choose another name, or close it first",
            expected_step=found.step,
        )
    return Apply(base, found)


def decide_upgrade(
    request: UpgradeRequest,
    key: Key,
    found: Record | None,
    old: LoadedModel | None,
    model: LoadedModel,
    now: float,
) -> Apply | Answer:
    """What an upgrade to `model`, another version of the session's model, means for `found`.

    `old` is loaded here under the name and version of the session's model.

    Raises:
        CarryError: the session cannot be stepped, or that version cannot continue it.
    """
    live = require_found(found, key, now)
    if live.header.fingerprint == model.fingerprint:
        return Answer(Reply(live, live.step, b""))
    _require_same_inputs(live, old, model)
    header = replace(live.header, fingerprint=model.fingerprint, outputs=b"")
    if request.policy == "carry":
        _require_same_layout(live, model)
        if not (request.force or _means_the_same(live, old, model)):
            raise _other_weights(live, model)
        return Apply(_as_it_is(live, header, live.ttl_s, now), live)
    observations = live.history.observations
    if not observations:
        raise UpgradeRefusedError(
            f"session {key.name!r} has no kept observations to replay: expected a session that"
            ' was opened with keep_observations; use "carry" if both versions have one state layout'
        )
    kept = pack_history(History(observations=observations))
    step = live.step - len(observations)
    initial = model.layout.initial_row
    data = pack_data(step, initial, UNREAD, b"", 0, live.ttl_s, now, history=kept)
    return Apply(Record(header, data), live, fed=unpack_observations(observations))


def replayed(base: Record, state: bytes, cursor: TextCursor, now: float) -> bytes:
    """The data of a session after another version ran its kept observations."""
    kept = base.history
    step = base.step + len(kept.observations)
    return pack_data(step, state, cursor, b"", 0, base.ttl_s, now, history=pack_history(kept))


def _require_same_layout(live: Record, model: LoadedModel) -> None:
    if live.header.fingerprint.state_schema != model.fingerprint.state_schema:
        raise UpgradeRefusedError(
            f"version {live.header.version} and version {model.version} of model {model.name!r}"
            " have different state layouts (state_schema): expected"
            ' "policy": "replay", for a session that was opened with keep_observations'
        )


def _means_the_same(live: Record, old: LoadedModel | None, model: LoadedModel) -> bool:
    """Whether the same weights made the state, or a manifest declares it compatible."""
    made_by, fingerprint = live.header.fingerprint.graph_sha256, model.fingerprint
    if made_by == fingerprint.graph_sha256 or made_by in model.manifest.compatible_states:
        return True
    if old is None or old.fingerprint != live.header.fingerprint:
        return False
    return fingerprint.graph_sha256 in old.manifest.compatible_states


def _other_weights(live: Record, model: LoadedModel) -> UpgradeRefusedError:
    kept = len(live.history.observations)
    return UpgradeRefusedError(
        f"session {live.header.name!r} has a state of version {live.header.version}, made by"
        f" other weights than those of version {model.version} of model {model.name!r}: expected"
        f' "policy": "replay", which computes a state from the kept observations (it has {kept}; a'
        " session keeps them if it is opened with keep_observations), a version whose manifest"
        ' names the other graph in compatible_states, or "force": true to carry the state over'
    )


def _require_same_inputs(live: Record, old: LoadedModel | None, model: LoadedModel) -> None:
    header = live.header
    if model.time is not None and header.start_s is None:
        raise UpgradeRefusedError(
            f"version {model.version} of model {model.name!r} uses the time of each row, and"
            f" session {header.name!r} was opened without a start: open a new one"
        )
    if old is not None and _inputs(old) != _inputs(model):
        raise UpgradeRefusedError(
            f"version {old.version} of model {model.name!r} reads {_inputs(old)}, version"
            f" {model.version} {_inputs(model)}: expected the same columns for the same task;"
            " open a new session"
        )


def _inputs(model: LoadedModel) -> str:
    """The parts of its observations, and its task."""
    manifest = model.manifest
    tensors = [
        f"{each.name} {each.dtype} {list(each.row_shape)}" for each in manifest.graph.tensors
    ]
    return f"{list(manifest.columns or tensors)} (to {manifest.task})"


def _as_it_is(record: Record, header: SessionHeader, ttl_s: float, now: float) -> Record:
    """The record at the same step under another header, with its history but no replies."""
    kept = pack_history(record.history._replace(keys=()))
    data = pack_data(record.step, record.state, record.cursor, b"", 0, ttl_s, now, history=kept)
    return Record(header, data)
