"""The client's WebSockets and its other operations, against real processes."""

import asyncio
import inspect
import random
import signal
from contextlib import ExitStack

import numpy as np
import pytest

from service.client import AsyncClient, Client, ClientError, ConflictError, NotFoundError
from tests.client.fake_service import both_kinds, result_of
from tests.e2e.server import running_server
from tests.fakes.bundles import write_classifier, write_forecaster, write_generator
from tests.system import in_thread

ROWS = np.random.default_rng(2).normal(size=(200, 2)).astype(np.float32).tolist()
OPEN = {"start": "2016-08-22", "replay": 16}


@pytest.fixture
def settings(tmp_path):
    for version in ("1", "2"):
        write_forecaster(tmp_path / "models", version=version)
    write_classifier(tmp_path / "models")
    write_generator(tmp_path / "models")
    (tmp_path / "snapshot.keys").write_text("k" * 32)
    return {
        "models": tmp_path / "models",
        "store": f"sqlite:///{tmp_path}/carry.db",
        "snapshot_key_file": tmp_path / "snapshot.keys",
    }


def means(replies):
    return [reply.prediction["mean"] for reply in replies]


def expected_means(client, rows=ROWS):
    """The mean after each row, of the whole at once."""
    whole = client.open("load", start=OPEN["start"]).step(rows, emit="all")
    return [prediction["mean"] for prediction in whole.predictions]


def test_a_stream_goes_on_through_a_kill_without_its_caller_noticing(tmp_path, settings):
    with running_server(tmp_path, **settings) as server, Client(server.url) as client:
        session = client.open("load", session="s", **OPEN)
        replies = []
        with session.stream() as stream, ExitStack() as stack:
            for reply in stream.replies([row] for row in ROWS):
                replies.append(reply)
                if len(replies) == 80:
                    server.stop(signal.SIGKILL)
                    stack.enter_context(in_thread(server.start))
        assert [reply.step for reply in replies] == list(range(1, len(ROWS) + 1))
        np.testing.assert_allclose(means(replies), expected_means(client), atol=1e-4)
        assert session.count == session.detail()["step"] == len(ROWS)
        assert session.step([ROWS[0]]).step == len(ROWS) + 1


async def test_many_streams_whose_sockets_are_cut_get_every_answer_once(tmp_path, settings):
    async def streamed(client, number):
        chance = random.Random(number)
        session = await client.open("load", session=f"s{number}", **OPEN)
        replies = []
        async with session.stream() as stream:
            async for reply in stream.replies([row] for row in ROWS):
                replies.append(reply)
                if chance.random() < 0.05:
                    stream._socket.transport.abort()
        return replies

    with running_server(tmp_path, **settings) as server:
        async with AsyncClient(server.url) as client:
            told = await asyncio.gather(*(streamed(client, number) for number in range(8)))
        with Client(server.url) as client:
            expected = expected_means(client)
    for replies in told:
        np.testing.assert_allclose(means(replies), expected, atol=1e-4)
    assert sum(reply.is_replayed for replies in told for reply in replies) > 8


def fail_behind(stream, rows):
    for row in rows:
        stream.send([row])
    raise ClientError("ten are unanswered")


def test_leaving_a_stream_waits_for_what_was_sent_and_a_failure_leaves_it_to_the_next(
    tmp_path, settings
):
    with running_server(tmp_path, **settings) as server, Client(server.url) as client:
        session = client.open("load", **OPEN)
        with session.stream() as stream:
            for row in ROWS[:10]:
                stream.send([row])
            assert stream.num_unanswered == 10
            with pytest.raises(ClientError, match="already has an operation"):
                session.step([ROWS[0]])
        assert session.count == session.detail()["step"] == 10
        with pytest.raises(ClientError, match="ten are unanswered"), session.stream() as stream:
            fail_behind(stream, ROWS[10:20])
        reply = session.step([ROWS[20]])
        assert reply.step == 21
        assert reply.prediction["mean"] == pytest.approx(
            expected_means(client, ROWS[:21])[-1], abs=1e-4
        )
        text = client.open("mood", replay=4)
        with text.stream() as stream:
            assert stream.step(text="a wonder").step == 1
            assert stream.step(text="ful film", final=True).step == 2


def client_of(kind, server):
    return (Client if kind == "sync" else AsyncClient)(server.url)


async def listed(sessions):
    if inspect.isasyncgen(sessions):
        return [each["session"] async for each in sessions]
    return [each["session"] for each in sessions]


@both_kinds
async def test_every_operation_of_a_session(kind, tmp_path, settings):
    with running_server(tmp_path, **settings) as server:
        client = client_of(kind, server)
        options = {"version": "1", "checkpoints": 8, "keep_observations": 20}
        session = await result_of(client.open("load", session="s", **OPEN, **options))
        for row in ROWS[:6]:
            await result_of(session.step([row]))
        after = (await result_of(session.step([ROWS[6]]))).prediction
        await result_of(session.rewind(6))
        assert (session.count, session.prediction) == (6, None)
        assert (await result_of(session.step([ROWS[6]]))).prediction == after
        assert 6 in (await result_of(session.detail()))["checkpoints"]

        snapshot = await result_of(session.snapshot())
        copy = await result_of(client.restore("copy", snapshot))
        assert copy.count == 7
        with pytest.raises(ConflictError):
            await result_of(client.restore("s", snapshot))
        assert (await result_of(client.restore("s", snapshot, replace=True))).count == 7

        told = await result_of(copy.upgrade("2", "replay"))
        assert (told["from_version"], told["replayed"]) == ("1", 7)
        assert copy.prediction is not None
        assert (await result_of(copy.step([ROWS[7]]))).step == 8

        again = await result_of(client.resume("s"))
        pair = [(again, ROWS[7:9]), (copy, [ROWS[8]])]
        first, second = await result_of(client.step_many(pair))
        assert (first.step, second.step) == (again.count, copy.count) == (9, 9)
        with pytest.raises(ClientError, match="twice"):
            await result_of(client.step_many([(copy, ROWS), (copy, ROWS)]))

        verse = await result_of(client.open("verse", session="v"))
        written = await result_of(verse.generate(text="ab", max_tokens=5, seed=1))
        assert 1 <= len(written.text) <= 5
        assert (await result_of(verse.step(text=" b"))).step == 2

        assert await listed(client.sessions()) == ["copy", "s", "v"]
        assert await listed(client.sessions(model="verse")) == ["v"]
        await result_of(client.delete("v"))
        with pytest.raises(ConflictError):
            await result_of(verse.step(text="x"))
        with pytest.raises(NotFoundError):
            await result_of(client.resume("nobody"))
        await result_of(client.close())


@both_kinds
async def test_of_many_a_bad_one_fails_alone_and_a_lost_answer_is_found_again(
    kind, tmp_path, settings
):
    with running_server(tmp_path, **settings) as server:
        client = client_of(kind, server)
        sessions = [await result_of(client.open("load", **OPEN)) for _ in range(100)]
        for step in range(3):
            if step == 1:  # of these the service has applied what nobody here was told
                for session in sessions[:5]:
                    twin = await result_of(client.resume(session.name))
                    await result_of(twin.step([ROWS[1]]))
            rows = [[ROWS[step]] for _ in sessions]
            if step == 2:
                rows[7] = [[1.0]]
            told = await result_of(client.step_many(list(zip(sessions, rows, strict=True))))
            assert told[8].step == step + 1
        assert told[7].status == 422
        assert {each.step for place, each in enumerate(told) if place != 7} == {3}
        assert [session.count for session in sessions[6:9]] == [3, 2, 3]
        await result_of(client.close())


@both_kinds
@pytest.mark.parametrize(
    ("rows", "status"), [([ROWS[0]] * 30_000, 200), ([ROWS[0]] * 150_000, 413), ([["x", 1]], 422)]
)
async def test_of_many_one_for_which_all_would_be_refused_goes_alone(
    kind, rows, status, tmp_path, settings
):
    with running_server(tmp_path, **settings) as server:
        client = client_of(kind, server)
        sessions = [await result_of(client.open("load", **OPEN)) for _ in range(3)]
        given = [[ROWS[0]], rows, [ROWS[0]]]
        told = await result_of(client.step_many(list(zip(sessions, given, strict=True))))
        assert [each.step for each in told[::2]] == [1, 1]
        if status == 200:
            assert told[1].step == len(rows)
        else:
            assert told[1].status == status
            assert sessions[1].count == 0
        await result_of(client.close())
