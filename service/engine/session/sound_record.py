"""Whether a record from a snapshot is a session that this service could have written.

The checksums of a record only prove that its bytes are complete, and anyone with the key can sign a
snapshot. So its values are checked one by one before the service lists, steps or replays them.
"""

import math
import re
from itertools import pairwise
from typing import Any, Final

from service.engine.session.observation_codec import require_sound_observations
from service.engine.session.retention import MAX_CHECKPOINT_BYTES, MAX_OBSERVATION_BYTES
from service.stores.record.history import History, HistoryPolicy
from service.stores.record.record import Record, SessionHeader

_MOST_STEPS: Final = 2**53 - 1
_MOST_METADATA_DEPTH: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")


def require_sound(record: Record) -> None:
    """Raise ValueError with the reason unless the record is a valid open session.

    Bounds that are settings or limits of the API (`ttl_s`, `replay`, history) are checked there.
    """
    header = record.header
    if record.closed:
        raise ValueError(f"the session is closed ({record.closed})")
    _require_whole("step", record.step, 0)
    if not (math.isfinite(record.ttl_s) and record.ttl_s > 0):
        raise ValueError(f"ttl_s is {record.ttl_s:.15g}: expected a number above 0")
    _require_header(header)
    _require_whole("the number of tokens", record.cursor.num_tokens, 0)  # decodes the text, too
    _require_kept(record.history, header.keeps or HistoryPolicy(), record.step, record.state_bytes)


def _require_header(header: SessionHeader) -> None:
    texts = {"tenant": header.tenant, "name": header.name}
    texts |= dict(zip(header.fingerprint._fields, header.fingerprint, strict=True))
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}: expected text")  # noqa: TRY004 -- as all others
    if not _NAME.fullmatch(header.name):
        raise ValueError("its name is not a valid session name")
    if header.start_s is not None:
        _require_whole("start_s", header.start_s, -_MOST_STEPS)
    _require_whole("replay", header.ring_size, 1)
    _require_whole("history", header.history, 0)
    if not isinstance(header.created_at, int | float) or not math.isfinite(header.created_at):
        raise ValueError("created_at is not a time")
    if header.metadata is not None:
        if not isinstance(header.metadata, dict):
            raise ValueError("metadata is not an object")
        _require_shallow(header.metadata, _MOST_METADATA_DEPTH)
    keeps = header.keeps
    if keeps is not None:
        _require_whole("checkpoints", keeps.checkpoints, 0)
        _require_whole("checkpoint_every", keeps.checkpoint_every, 1)
        _require_whole("keep_observations", keeps.observations, 0)


def _require_kept(kept: History, keeps: HistoryPolicy, step: int, state_bytes: int) -> None:
    checkpoints, observations = kept.checkpoints, kept.observations
    for what, items, most in (
        ("checkpoints", checkpoints, keeps.checkpoints),
        ("observations", observations, keeps.observations),
    ):
        if len(items) > most:
            raise ValueError(
                f"it has {len(items)} {what}: expected at most {most}, as chosen when it was opened"
            )
    for what, num_bytes, most in (
        ("checkpoints", sum(len(each.state) for each in checkpoints), MAX_CHECKPOINT_BYTES),
        ("observations", sum(map(len, observations)), MAX_OBSERVATION_BYTES),
    ):
        if num_bytes > most:
            raise ValueError(f"its {what} have {num_bytes} bytes: expected at most {most}")
    steps = [each.step for each in checkpoints]
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError("its checkpoints are not in order")
    if steps and not 0 <= steps[0] <= steps[-1] <= step:
        raise ValueError("a checkpoint is of a later step than the session")
    if any(len(each.state) != state_bytes for each in checkpoints):
        raise ValueError("a checkpoint has a state of another size")
    require_sound_observations(observations)


def _require_whole(name: str, value: object, least: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not least <= value <= _MOST_STEPS:  # type: ignore[operator]  # it is an int
        raise ValueError(f"{name} is {value!r}: expected a whole number from {least} on")


def _require_shallow(value: Any, depth: int) -> None:  # noqa: ANN401 -- JSON
    if depth == 0:
        raise ValueError(f"metadata is nested deeper than {_MOST_METADATA_DEPTH}")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _require_shallow(each, depth - 1)
