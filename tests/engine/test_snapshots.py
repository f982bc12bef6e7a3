"""A snapshot is the session, wherever it is restored, and anything else is refused."""

import asyncio
import hmac
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.text import TextCursor
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry
from service.engine.session.requests import DeleteRequest, RestoreRequest
from service.engine.session.snapshots import SnapshotKeys
from service.errors import (
    SessionExistsError,
    SnapshotForeignError,
    SnapshotRefusedError,
    SnapshotsOffError,
    StartUpError,
)
from service.stores.record.checksummed import encode_header
from service.stores.record.history import Checkpoint, History, HistoryPolicy, pack_history
from service.stores.record.record import Key, ModelFingerprint, pack_data
from service.stores.sqlite.store import SqliteStore
from tests.engine.support import (
    A,
    create_load,
    create_mood,
    rows,
    running_engine,
    small_models,
    step_rows,
    step_text,
)
from tests.stores.support import CURSOR, NOW, STATE, record_named

B = Key("t", "b")
OURS, THEIRS = b"o" * 32, b"t" * 32
KEYS = SnapshotKeys([OURS])
SAMPLE = KEYS.seal(record_named())


def restore(snapshot, replaces=False, keys=KEYS):
    return RestoreRequest.of(snapshot, keys.open(snapshot), replaces=replaces)


@given(st.integers(1, 6), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 99))
def test_a_restored_session_answers_what_the_first_one_answers(num_before, counts, seed):
    values = rows(num_before + sum(counts), seed)

    async def check():
        async with running_engine() as here, running_engine() as there:
            await here.submit(A, create_load(values[:num_before], keeps=HistoryPolicy(2, 1, 3)))
            snapshot = KEYS.seal(await here.read(A))
            restored = await there.submit(B, restore(snapshot))
            assert (restored.step, restored.is_new) == (num_before, True)
            step = num_before
            for count in counts:
                request = step_rows(values[step : step + count], step)
                theirs, ours = await here.submit(A, request), await there.submit(B, request)
                assert ours.outputs == theirs.outputs
                step += count
            one, two = await here.read(A), await there.read(B)
            assert (one.state, one.history) == (two.state, two.history)

    asyncio.run(check())


async def test_a_session_moves_between_two_durable_clusters_in_the_middle_of_a_word(tmp_path):
    one = SqliteStore.open(tmp_path / "1.db", "process")
    two = SqliteStore.open(tmp_path / "2.db", "process")
    async with running_engine(one) as here, running_engine(two) as there:
        await here.submit(A, create_mood(keeps=HistoryPolicy(checkpoints=2)))
        await here.submit(A, step_text("a wonder", 0))
        await there.submit(A, restore(KEYS.seal(await here.read(A))))
        replies = [await engine.submit(A, step_text("ful film", 1)) for engine in (here, there)]
        assert replies[0].outputs == replies[1].outputs
    await one.close()
    await two.close()


@pytest.mark.parametrize("place", range(len(SAMPLE)))
def test_a_snapshot_altered_in_any_byte_is_refused(place):
    for value in (1, 0x80, 0xFF):
        altered = bytearray(SAMPLE)
        altered[place] ^= value
        with pytest.raises(SnapshotRefusedError):
            KEYS.open(bytes(altered))


@given(st.integers(0, len(SAMPLE) - 1), st.binary(max_size=40))
def test_a_snapshot_cut_or_with_other_bytes_behind_it_is_refused(size, tail):
    with pytest.raises(SnapshotRefusedError):
        KEYS.open(SAMPLE[:size] + (tail if SAMPLE[size:] != tail else b""))
    if tail:
        with pytest.raises(SnapshotRefusedError):
            KEYS.open(SAMPLE + tail)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_and_nothing_else_happens(data):
    for snapshot in (data, SAMPLE[:21] + data):
        with pytest.raises(SnapshotRefusedError):
            KEYS.open(snapshot)


def test_keys_are_rotated_by_putting_a_new_one_first():
    both = SnapshotKeys([THEIRS, OURS])
    assert both.open(SAMPLE).header.name == "a"
    later = both.seal(record_named())
    with pytest.raises(SnapshotRefusedError, match="a key that this server does not have"):
        KEYS.open(later)
    assert SnapshotKeys([THEIRS]).open(later).step == record_named().step


def test_a_snapshot_of_a_later_service_says_so():
    later = SAMPLE[:8] + b"\2" + SAMPLE[9:-32]
    with pytest.raises(
        SnapshotRefusedError,
        match=r"expected a snapshot of format 1, found format 2; .*later service",
    ):
        KEYS.open(later + hmac.digest(OURS, later, "sha256"))


def test_a_snapshot_of_format_0_is_not_called_that_of_a_later_service():
    earlier = SAMPLE[:8] + b"\0" + SAMPLE[9:-32]
    with pytest.raises(SnapshotRefusedError, match="found format 0") as caught:
        KEYS.open(earlier + hmac.digest(OURS, earlier, "sha256"))
    assert "later service" not in caught.value.detail


def sealed_with(step=3, ttl_s=100.0, cursor=CURSOR, closed="", kept=None, **header):
    """A snapshot that the real key has signed, whatever it holds."""
    record = record_named(**header)
    packed = pack_history(kept) if kept else b""
    data = pack_data(step, STATE, cursor, b"", 0, ttl_s, NOW, closed, packed)
    record = record._replace(data=data)
    head = SAMPLE[:17]
    sealed = encode_header(replace(record.header, outputs=b""))
    signed = head + len(sealed).to_bytes(4, "little") + sealed + data
    return signed + hmac.digest(OURS, signed, "sha256")


EVERY = HistoryPolicy(checkpoints=9, checkpoint_every=1, observations=9)
UNSOUND = {
    "an endless ttl": {"ttl_s": math.inf},
    "a ttl that is no number": {"ttl_s": math.nan},
    "a ttl of 0": {"ttl_s": 0.0},
    "a ttl below 0": {"ttl_s": -1e308},
    "a step below 0": {"step": -1},
    "a step that JSON cannot say": {"step": 2**53},
    "a closed session": {"closed": "final"},
    "tokens below 0": {"cursor": TextCursor("a", -1)},
    "a name that is none": {"name": "a/b"},
    "a start that is no number": {"start_s": "2016-08-22"},
    "a replay of 0": {"ring_size": 0},
    "a replay that is text": {"ring_size": "x"},
    "a time that is none": {"created_at": None},
    "metadata that is a list": {"metadata": [1]},
    "metadata without end": {"metadata": {"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}},
    "a history below 0": {"history": -1},
    "an origin that is no text": {"fingerprint": ModelFingerprint("load", 1, "s", "g")},
    "checkpoints below 0": {"keeps": HistoryPolicy(-1, 1, 0)},
    "an interval of 0": {"keeps": HistoryPolicy(1, 0, 0)},
    "checkpoints of text": {"keeps": HistoryPolicy("x", 1, 0)},
    "more checkpoints than chosen": {"kept": History((), (Checkpoint(1, STATE, CURSOR),))},
    "more observations than chosen": {"kept": History((), (), (b"r1234",))},
    "a checkpoint to come": {"keeps": EVERY, "kept": History((), (Checkpoint(4, STATE, CURSOR),))},
    "a checkpoint below 0": {"keeps": EVERY, "kept": History((), (Checkpoint(-1, STATE, CURSOR),))},
    "a small checkpoint": {"keeps": EVERY, "kept": History((), (Checkpoint(1, b"s", CURSOR),))},
    "an unknown observation": {"keeps": EVERY, "kept": History((), (), (b"?1234",))},
    "an empty observation": {"keeps": EVERY, "kept": History((), (), (b"",))},
    "rows of two sizes": {"keeps": EVERY, "kept": History((), (), (b"r1234", b"r12345678"))},
    "a row of three bytes": {"keeps": EVERY, "kept": History((), (), (b"r123",))},
    "a row and a text": {"keeps": EVERY, "kept": History((), (), (b"r1234", b"tx"))},
    "a text that is none": {"keeps": EVERY, "kept": History((), (), (b"t\xff",))},
    "too many bytes": {"keeps": EVERY, "kept": History((), (), (b"t" + b"x" * 2**20,))},
    "checkpoints out of order": {
        "keeps": EVERY,
        "kept": History((), tuple(Checkpoint(step, STATE, CURSOR) for step in (2, 1))),
    },
}


@pytest.mark.parametrize("unsound", UNSOUND.values(), ids=UNSOUND)
def test_a_signed_snapshot_that_no_service_would_write_is_refused(unsound):
    assert KEYS.open(sealed_with()).step == 3
    with pytest.raises(SnapshotRefusedError, match="the snapshot"):
        KEYS.open(sealed_with(**unsound))


def test_a_signed_snapshot_whose_text_is_none_is_refused():
    good = sealed_with()[:-32]
    broken = good.replace(CURSOR.pending.encode(), b"\xff" * len(CURSOR.pending.encode()))
    assert broken != good
    with pytest.raises(SnapshotRefusedError, match="not of a valid session"):
        KEYS.open(broken + hmac.digest(OURS, broken, "sha256"))


async def test_a_signed_state_of_another_size_is_refused():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        found = await engine.read(A)
        for state in (found.state[:-1], b"", found.state * 2):
            data = pack_data(2, state, found.cursor, b"", 0, 100.0, NOW)
            with pytest.raises(SnapshotRefusedError, match="with a state of"):
                await engine.submit(B, restore(KEYS.seal(found._replace(data=data))))


def test_without_a_key_it_is_said_what_to_set():
    keys = SnapshotKeys([])
    for ask in (lambda: keys.seal(record_named()), lambda: keys.open(SAMPLE)):
        with pytest.raises(SnapshotsOffError, match="CARRY_SNAPSHOT_KEY_FILE"):
            ask()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "short\n", "x" * 32 + "\nshort\n"])
def test_a_file_without_good_keys_stops_the_start(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(StartUpError, match="at least 32 characters"):
        SnapshotKeys.read(path)
    with pytest.raises(StartUpError, match="cannot be read"):
        SnapshotKeys.read(tmp_path / "none")


def test_the_first_key_of_a_file_signs(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# rotated today\n{OURS.decode()}\n\n{THEIRS.decode()}\n")
    keys = SnapshotKeys.read(path)
    assert KEYS.open(keys.seal(record_named())).header.name == "a"
    assert keys.open(SnapshotKeys([THEIRS]).seal(record_named())).header.name == "a"


async def test_restoring_again_answers_the_first_restore_and_another_is_refused():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        snapshot = KEYS.seal(await engine.read(A))
        await engine.submit(B, restore(snapshot))
        await engine.submit(B, step_rows(rows(1), 2))
        again = await engine.submit(B, restore(snapshot))
        assert (again.is_replay, again.step) == (True, 2)
        assert (await engine.read(B)).step == 3
        with pytest.raises(SessionExistsError, match="replace=true"):
            await engine.submit(A, restore(snapshot))


async def test_a_restore_may_take_the_place_of_a_session_of_the_same_model():
    async with running_engine() as engine, running_engine(engine.store) as rival:
        await engine.submit(A, create_load(rows(2), metadata={"of": "the snapshot"}))
        snapshot = KEYS.seal(await engine.read(A))
        await rival.submit(A, step_rows(rows(3), 2))
        await engine.submit(B, create_mood())
        reply = await engine.submit(A, restore(snapshot, replaces=True))
        assert (reply.step, reply.is_new, reply.record.kept_replies) == (2, False, ())
        assert (await rival.submit(A, step_rows(rows(1), 2))).step == 3
        assert (await engine.read(A)).header.metadata == {"of": "the snapshot"}
        with pytest.raises(SessionExistsError, match="'mood'"):
            await engine.submit(B, restore(snapshot, replaces=True))
        await engine.submit(B, DeleteRequest())
        assert (await engine.submit(B, restore(snapshot))).is_new


async def test_a_snapshot_of_another_tenant_is_refused():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        snapshot = KEYS.seal(await engine.read(A))
        with pytest.raises(SnapshotForeignError):
            await engine.submit(Key("u", "a"), restore(snapshot))


async def test_a_snapshot_of_another_graph_is_refused():
    async with running_engine() as engine:
        await engine.submit(A, create_load(rows(2)))
        snapshot = KEYS.seal(await engine.read(A))
    load = small_models().get("load")
    files = load.manifest.files | {load.manifest.graph.file: "1" * 64}
    manifest = load.manifest.model_copy(update={"files": files})
    again = Registry([LoadedModel(manifest, load.layout, load.runner, load.codec)], {}, "cpu")
    none = Registry([small_models().get("mood")], {}, "cpu")
    for registry in (again, none):
        async with running_engine(registry=registry) as engine:
            with pytest.raises(SnapshotRefusedError, match="not loaded here"):
                await engine.submit(A, restore(snapshot))
            assert await engine.store.load(A) is None
