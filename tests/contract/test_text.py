import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.errors import TextError
from service.contract.text import MAX_PIECE_CHARS, TextCodec, TextCursor, split_pieces
from tests.fakes.bundles import small_tokenizer

CODEC = TextCodec(small_tokenizer().to_str(), start_token=1)

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
likely_text = st.text("ab don't!?  \n영화최고👍🏽👨‍👩‍👧e\u0301ㅋ", max_size=120)
chunks_of_text = st.lists(any_text | likely_text, max_size=6)


@given(chunks_of_text)
def test_chunks_give_the_tokens_of_the_whole_text_at_every_moment(chunks):
    cursor, certain, so_far = TextCursor(), [], ""
    for chunk in chunks:
        fed = CODEC.feed(cursor, chunk)
        cursor, certain, so_far = fed.cursor, certain + fed.certain, so_far + chunk
        assert certain + fed.tail == CODEC.encode(so_far)
        assert cursor.num_tokens == len(certain)


@given(chunks_of_text)
def test_pending_text_is_bounded_and_there_is_always_a_tail(chunks):
    cursor = TextCursor()
    for chunk in chunks:
        fed = CODEC.feed(cursor, chunk)
        cursor = fed.cursor
        assert fed.tail
        assert len(cursor.pending) <= MAX_PIECE_CHARS + 2


@given(any_text | likely_text)
def test_no_visible_character_is_lost_or_doubled(text):
    pieces, pending = split_pieces(text)
    seen = "".join(piece.removeprefix("▁") if piece != "▁" else piece for piece in pieces)
    kept = "".join((text.replace("▁", "")).split())
    assert (seen + pending).replace("▁", "").replace(" ", "") == kept


def test_a_run_without_boundary_is_cut():
    pieces, pending = split_pieces(" " + "a" * 70)
    assert pieces == ["▁" + "a" * 32, "a" * 32]
    assert pending == "a" * 6


def test_an_empty_text_is_the_start_token_alone():
    assert CODEC.encode("") == [1]
    assert CODEC.encode("  \n ") == [1]


def test_decomposed_korean_gives_the_tokens_of_composed_korean():
    assert CODEC.encode("\u110e\u116c\u1100\u1169\u1103\u1161") == CODEC.encode("최고다")


def test_half_a_surrogate_pair_is_refused_with_its_place():
    with pytest.raises(TextError, match="character 2"):
        CODEC.feed(TextCursor(), "ab\ud83d")
