"""Whoever is told of an outcome hears it once, at once, and keeps nobody else from theirs."""

import asyncio

import pytest

from service.engine.session.rules import Reply
from service.errors import StepConflictError
from service.stores.record.record import Key
from tests.engine.support import A, Witness, create_load, rows, running_engine, step_rows

B = Key("t", "b")


async def test_a_reply_and_a_refusal_are_told_once_and_raise_nowhere():
    heard = []
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        futures = [
            engine.submit(A, step_rows(rows(1), step), on_end=heard.append) for step in (0, 7)
        ]
        assert heard == []  # not before it has returned
        await asyncio.wait(futures)
    assert [type(each) for each in heard] == [Reply, StepConflictError]
    assert heard[0].step == 1
    assert [each.exception() for each in futures] == [None, None]


async def test_a_refusal_at_the_door_is_told_later_and_not_to_one_who_left():
    heard = []
    async with running_engine() as engine:
        await engine.submit(A, create_load())
        engine.is_draining = True
        stays, leaves = [
            engine.submit(A, step_rows(rows(1), 0), on_end=heard.append) for _ in range(2)
        ]
        assert heard == []
        leaves.cancel()
        await asyncio.wait([stays])
        engine.is_draining = False
    assert [each.code for each in heard] == ["draining"]


async def test_a_listener_that_fails_keeps_no_other_of_its_group_from_the_reply():
    heard, failed = [], []

    def fail(_):
        raise RuntimeError("the client's side")

    asyncio.get_running_loop().set_exception_handler(lambda _, told: failed.append(told))
    async with asyncio.timeout(5), running_engine() as engine:
        for each in (A, B):
            await engine.submit(each, create_load())
            await engine.submit(each, step_rows(rows(1), 0))  # their models are known from here on
        futures = [
            engine.submit(each, step_rows(rows(1), 1), on_end=on_end)
            for each, on_end in ((A, fail), (B, heard.append))
        ]
        await asyncio.wait(futures)
        assert (await engine.submit(A, step_rows(rows(1), 2))).step == 3
    assert [each.step for each in heard] == [2]
    assert [str(each["exception"]) for each in failed] == ["the client's side"]


async def test_a_listener_may_ask_for_the_next_step_at_once():
    """From the midst of the group in which it is told, for a session that is still headed."""
    heard = []
    done = asyncio.get_running_loop().create_future()
    async with running_engine() as engine:

        def go_on(reply):
            heard.append(reply.step)
            if reply.step == 100:
                done.set_result(None)
            else:
                engine.submit(A, step_rows(rows(1), reply.step), on_end=go_on)

        await engine.submit(A, create_load())
        engine.submit(A, step_rows(rows(1), 0), on_end=go_on)
        await done
    assert heard == list(range(1, 101))


@pytest.mark.parametrize("ring_size", [1, 2])
async def test_a_step_is_counted_before_it_is_answered(ring_size):
    class Counter(Witness):
        num_steps = 0

        def steps_committed(self, model, version, count):
            self.num_steps += count

    counter, found = Counter(), []
    async with running_engine(observer=counter) as engine:
        await engine.submit(A, create_load(ring_size=ring_size))
        for step in range(3):
            request = step_rows(rows(1), step)
            await engine.submit(A, request, on_end=lambda _: found.append(counter.num_steps))
    assert found == [1, 2, 3]
