import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.text_models import tiny_network
from training.tasks.classify.running_mean import running_mean

NETWORK = tiny_network()
some_tokens = st.lists(st.integers(0, 399), min_size=1, max_size=40)
some_cuts = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def read(network, tokens, length=None, state=None):
    batch = torch.tensor([tokens])
    length = torch.tensor([len(tokens) if length is None else length])
    state = network.initial_state()[None] if state is None else state
    with torch.no_grad():
        return network(batch, length, state)


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=2e-5)


@given(some_tokens, some_cuts)
def test_a_text_in_pieces_gives_the_answers_and_the_state_of_the_whole(tokens, cuts):
    whole, whole_state = read(NETWORK, tokens)
    state, answers, start = None, [], 0
    for size in [*cuts, len(tokens)]:
        if tokens[start : start + size]:
            answer, state = read(NETWORK, tokens[start : start + size], state=state)
            answers.append(answer)
        start += size
    assert_close(torch.cat(answers, dim=1), whole)
    assert_close(state, whole_state)


@given(some_tokens, some_tokens)
def test_padding_changes_neither_answers_nor_state(tokens, padding):
    plain, plain_state = read(NETWORK, tokens)
    padded, padded_state = read(NETWORK, tokens + padding, length=len(tokens))
    assert_close(padded[:, : len(tokens)], plain)
    assert_close(padded_state, plain_state)


@given(some_tokens, some_tokens)
def test_a_row_of_length_0_keeps_its_state_to_the_last_bit(tokens, padding):
    _, state = read(NETWORK, tokens)
    _, kept = read(NETWORK, padding, length=0, state=state)
    assert torch.equal(kept, state)


@given(some_tokens, some_tokens)
def test_an_early_answer_does_not_know_what_follows(tokens, following):
    alone, _ = read(NETWORK, tokens)
    longer, _ = read(NETWORK, tokens + following)
    assert_close(longer[:, : len(tokens)], alone)


@pytest.mark.parametrize("first", [[7, 8, 9], [9, 8, 7]])
def test_order_of_tokens_matters_to_the_bag_alone(first):
    """Pairs across a cut are seen: the state carries the tokens that they need."""
    length, valid = torch.tensor([3]), torch.ones(1, 3, 1)
    zeros = torch.zeros(1, NETWORK.bag.state_size)
    _, state = NETWORK.bag(torch.tensor([first]), length, valid, torch.zeros(1, 1), zeros)
    assert state[0, -2:].tolist() == first[-2:]
    after, _ = NETWORK.bag(torch.tensor([[4, 5, 6]]), length, valid, torch.tensor([[3.0]]), state)
    whole, _ = NETWORK.bag(
        torch.tensor([[*first, 4, 5, 6]]),
        torch.tensor([6]),
        torch.ones(1, 6, 1),
        torch.zeros(1, 1),
        zeros,
    )
    assert_close(after, whole[:, 3:])


def test_training_and_serving_compute_the_same_logits():
    tokens, length = torch.randint(3, 400, (4, 40)), torch.tensor([40, 5, 1, 9])
    with torch.no_grad():
        logits, counts = NETWORK.logits(tokens, length, (length - 1)[:, None])
        served, _ = NETWORK(tokens, length, NETWORK.initial_state().expand(4, -1))
    a, b, c, longest = NETWORK.calibration
    read = counts.log().clamp(max=longest)
    scale = torch.exp(a + b * read + c * read**2)
    assert counts.flatten().tolist() == length.tolist()
    last = served[torch.arange(4), length - 1]
    assert_close(torch.softmax(logits * scale, dim=2)[:, 0], last)


def test_a_running_mean_stays_exact_over_a_long_stream():
    """A carried sum of 200,000 values near 1000 would be wrong by more than this allows."""
    values = 1000 + torch.randn(1, 1000, 1, generator=torch.Generator().manual_seed(0))
    mean, total = torch.zeros(1, 1), torch.zeros(1, 1)
    for _ in range(200):
        means, totals = running_mean(values, torch.ones(1, 1000, 1), mean, total)
        mean, total = means[:, -1], totals[:, -1]
    assert total.item() == 200_000
    assert mean.item() == pytest.approx(values.double().mean().item(), abs=1e-3)
