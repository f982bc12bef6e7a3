"""A session numbers its steps, resends lost ones, and reports steps of other clients."""

import pytest

from service.client import (
    ClientError,
    DigestMismatchError,
    NotFoundError,
    SteppedElsewhereError,
    StepsLostError,
)
from tests.client.fake_service import (
    FakeService,
    FakeTime,
    both_kinds,
    client_of,
    problem,
    result_of,
)

pytestmark = both_kinds
ROWS = [[float(number)] for number in range(8)]


async def stepped_session(kind, service, num_steps, **options):
    """A session stepped one row at a time."""
    client = client_of(kind, service, FakeTime(), **options)
    session = await result_of(client.open("load", session="s"))
    for row in ROWS[:num_steps]:
        await result_of(session.step([row]))
    return session


async def test_steps_the_store_lost_are_sent_again_in_order(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 6)
    service.lose(4)
    reply = await result_of(session.step([ROWS[6]]))
    assert service.applied == ROWS[:7]
    assert (reply.step, session.count, reply.is_replayed) == (7, 7, False)
    assert session.prediction == {"mean": [7.0]}


async def test_lost_steps_are_sent_again_despite_lost_replies_and_a_second_loss(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 6)
    service.lose(2)
    answer, num_lost = service._answer, iter([False, False, False, True])

    def lose_again(request):
        if next(num_lost, False):
            service.lose(3)
        return answer(request)

    service._answer = lose_again
    service.outcomes = [None, "lost", "cut"]
    await result_of(session.step([ROWS[6]]))
    assert service.applied == ROWS[:7]


async def test_a_loss_of_steps_no_longer_kept_is_reported(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 6, resend_bytes=100)
    service.lose(5)
    with pytest.raises(StepsLostError, match="keeps its requests from step") as caught:
        await result_of(session.step([ROWS[6]]))
    assert caught.value.members["expected_step"] == 1
    assert service.applied == ROWS[:1]


async def test_a_loss_into_the_middle_of_a_request_is_reported(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 0)
    await result_of(session.step(ROWS[:4]))
    service.lose(2)
    with pytest.raises(StepsLostError):
        await result_of(session.step([ROWS[4]]))


@pytest.mark.parametrize("code", ["step-conflict", "replay-expired"])
async def test_a_step_of_another_client_is_reported(kind, code):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service.outcomes = [problem(409, code, expected_step=5)]
    with pytest.raises(
        SteppedElsewhereError, match="at step 5, but this client brought it to step 2"
    ):
        await result_of(session.step([ROWS[2]]))
    assert session.count == 2


async def test_other_rows_for_an_applied_number_are_refused(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service._step({"step": 2, "observations": [ROWS[7]]}, False)
    with pytest.raises(DigestMismatchError):
        await result_of(session.step([ROWS[2]]))
    assert service.applied == [*ROWS[:2], ROWS[7]]


async def test_a_conflict_at_the_expected_step_is_not_retried(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service.outcomes = [problem(409, "step-conflict", expected_step=2)]
    with pytest.raises(ClientError, match="step-conflict"):
        await result_of(session.step([ROWS[2]]))


async def test_rows_changed_after_their_step_are_sent_again_unchanged(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 1)
    row = [1.0]
    await result_of(session.step([row]))
    row[0] = 99.0
    service.lose(1)
    await result_of(session.step([ROWS[2]]))
    assert service.applied == ROWS[:3]


async def test_a_preview_commits_nothing_and_starts_from_the_count_of_the_client(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 3)
    service.lose(1)
    assert (await result_of(session.preview([ROWS[5]]))).step == 4
    assert service.applied == ROWS[:3]
    assert session.count == 3
    assert session.prediction == {"mean": [3.0]}


async def test_a_fork_of_a_session_that_lost_steps_resends_them(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 4)
    service.lose(2)
    fork = await result_of(session.fork("f"))
    await result_of(fork.step([ROWS[4]]))
    assert service.applied == ROWS[:5]
    assert {path for _, path, _ in service.requests[-4:]} == {"/v1/sessions/f/steps"}
    assert (fork.name, fork.count, session.count) == ("f", 5, 4)


async def test_a_fork_reports_a_step_of_another_client(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service.applied.append(ROWS[7])
    with pytest.raises(SteppedElsewhereError):
        await result_of(session.fork("f"))


async def test_a_close_succeeds_if_an_earlier_try_closed_the_session(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 1)
    service.outcomes = ["lost"]
    await result_of(session.close())
    assert service.closed
    with pytest.raises(NotFoundError):
        await result_of(session.close())


async def test_a_session_without_a_name_is_opened_once_under_a_random_name(kind):
    service = FakeService()
    service.outcomes = ["lost", "cut"]
    client = client_of(kind, service, FakeTime())
    session = await result_of(client.open("load"))
    assert len(session.name) >= 20
    assert len(set(service.requests)) == 1
    assert len(service.requests) == 3


async def test_a_second_operation_at_once_is_refused_and_the_first_continues(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 1)
    flow = session.protocol.step([ROWS[1]])
    next(flow)
    with pytest.raises(ClientError, match="already has an operation"):
        await result_of(session.step([ROWS[1]]))
    flow.close()
    await result_of(session.step([ROWS[1]]))
    assert service.applied == ROWS[:2]
