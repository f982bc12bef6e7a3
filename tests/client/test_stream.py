"""A session numbers its steps, goes back with its store, and never guesses who else stepped it."""

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
    settled,
)

pytestmark = both_kinds
ROWS = [[float(number)] for number in range(8)]


async def stepped_session(kind, service, num_steps, **options):
    """A session that was answered one row at a time."""
    client = client_of(kind, service, FakeTime(), **options)
    session = await settled(client.open("load", session="s"))
    for row in ROWS[:num_steps]:
        await settled(session.step([row]))
    return session


async def test_steps_the_store_lost_are_sent_again_in_order(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 6)
    service.lose(4)
    reply = await settled(session.step([ROWS[6]]))
    assert service.applied == ROWS[:7]
    assert (reply.step, session.count, reply.is_replayed) == (7, 7, False)
    assert session.prediction == {"mean": [7.0]}


async def test_going_back_goes_on_through_lost_answers_and_a_second_loss(kind):
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
    await settled(session.step([ROWS[6]]))
    assert service.applied == ROWS[:7]


async def test_a_loss_from_before_what_is_kept_is_told(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 6, resend_bytes=100)
    service.lose(5)
    with pytest.raises(StepsLostError, match="keeps what it sent from step") as caught:
        await settled(session.step([ROWS[6]]))
    assert caught.value.members["expected_step"] == 1
    assert service.applied == ROWS[:1]


async def test_a_loss_into_the_middle_of_a_request_is_told(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 0)
    await settled(session.step(ROWS[:4]))
    service.lose(2)
    with pytest.raises(StepsLostError):
        await settled(session.step([ROWS[4]]))


@pytest.mark.parametrize("code", ["step-conflict", "replay-expired"])
async def test_a_session_that_somebody_else_steps_is_told(kind, code):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service.outcomes = [problem(409, code, expected_step=5)]
    with pytest.raises(SteppedElsewhereError, match="at step 5, this client brought it to 2"):
        await settled(session.step([ROWS[2]]))
    assert session.count == 2


async def test_other_rows_for_an_applied_number_are_refused(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service._step({"step": 2, "observations": [ROWS[7]]}, False)
    with pytest.raises(DigestMismatchError):
        await settled(session.step([ROWS[2]]))
    assert service.applied == [*ROWS[:2], ROWS[7]]


async def test_a_refusal_that_names_the_asked_step_is_not_repeated_forever(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service.outcomes = [problem(409, "step-conflict", expected_step=2)]
    with pytest.raises(ClientError, match="step-conflict"):
        await settled(session.step([ROWS[2]]))


async def test_rows_changed_after_their_step_are_sent_again_as_they_were(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 1)
    row = [1.0]
    await settled(session.step([row]))
    row[0] = 99.0
    service.lose(1)
    await settled(session.step([ROWS[2]]))
    assert service.applied == ROWS[:3]


async def test_a_preview_commits_nothing_and_is_of_the_count_that_was_answered(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 3)
    service.lose(1)
    assert (await settled(session.preview([ROWS[5]]))).step == 4
    assert service.applied == ROWS[:3]
    assert session.count == 3
    assert session.prediction == {"mean": [3.0]}


async def test_a_fork_of_a_session_that_went_back_lacks_nothing(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 4)
    service.lose(2)
    fork = await settled(session.fork("f"))
    await settled(fork.step([ROWS[4]]))
    assert service.applied == ROWS[:5]
    assert {path for _, path, _ in service.requests[-4:]} == {"/v1/sessions/f/steps"}
    assert (fork.name, fork.count, session.count) == ("f", 5, 4)


async def test_a_fork_of_a_session_that_somebody_else_steps_is_told(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 2)
    service.applied.append(ROWS[7])
    with pytest.raises(SteppedElsewhereError):
        await settled(session.fork("f"))


async def test_closing_what_an_earlier_try_closed_is_no_error(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 1)
    service.outcomes = ["lost"]
    await settled(session.close())
    assert service.closed
    with pytest.raises(NotFoundError):
        await settled(session.close())


async def test_a_session_without_a_name_is_opened_once_under_one(kind):
    service = FakeService()
    service.outcomes = ["lost", "cut"]
    client = client_of(kind, service, FakeTime())
    session = await settled(client.open("load"))
    assert len(session.name) >= 20
    assert len(set(service.requests)) == 1
    assert len(service.requests) == 3


async def test_a_second_operation_beside_one_is_refused_and_the_first_goes_on(kind):
    service = FakeService()
    session = await stepped_session(kind, service, 1)
    flow = session.protocol.step([ROWS[1]])
    next(flow)
    with pytest.raises(ClientError, match="already has an operation"):
        await settled(session.step([ROWS[1]]))
    flow.close()
    await settled(session.step([ROWS[1]]))
    assert service.applied == ROWS[:2]
