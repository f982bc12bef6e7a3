import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from service.contract import text as text_module
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
    visible = "".join((text.replace("▁", "")).split())
    assert (seen + pending).replace("▁", "").replace(" ", "") == visible


def test_a_run_without_boundary_is_cut():
    pieces, pending = split_pieces(" " + "a" * 70)
    assert pieces == ["▁" + "a" * 32, "a" * 32]
    assert pending == "a" * 6


def test_an_empty_text_is_the_start_token_alone():
    assert CODEC.encode("") == [1]
    assert CODEC.encode("  \n ") == [1]


def test_decomposed_korean_gives_the_tokens_of_composed_korean():
    assert CODEC.encode("\u110e\u116c\u1100\u1169\u1103\u1161") == CODEC.encode("최고다")


def test_half_a_surrogate_pair_is_refused_with_its_index():
    with pytest.raises(TextError, match="character 2"):
        CODEC.feed(TextCursor(), "ab\ud83d")


def stripping_codec():
    """A codec whose normaliser deletes all characters of some pieces."""
    tokenizer = small_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    return TextCodec(tokenizer.to_str(), start_token=1)


def test_a_piece_deleted_by_the_normaliser_still_has_a_token():
    codec = stripping_codec()
    alone = codec.feed(TextCursor(), "\u20dd")
    assert (alone.certain, len(alone.tail)) == ([], 2)
    later = codec.feed(codec.feed(TextCursor(), "a film").cursor, "\u20dd")
    assert later.tail == [1]
    assert codec.encode("a\u20dd") == [*codec.encode("a"), 1]


@given(st.lists(st.text("a\u20dd\u0301 !", max_size=6), max_size=6))
def test_chunks_give_the_tokens_of_the_whole_text_where_characters_are_deleted(chunks):
    codec, cursor, certain = stripping_codec(), TextCursor(), []
    for chunk in chunks:
        fed = codec.feed(cursor, chunk)
        cursor, certain = fed.cursor, certain + fed.certain
        assert fed.tail
    assert codec.encode("".join(chunks)) == certain + codec.feed(cursor, "").tail


def test_the_cache_of_pieces_is_bounded(monkeypatch):
    monkeypatch.setattr(text_module, "_MAX_CACHED_PIECES", 2)
    codec = TextCodec(small_tokenizer().to_str(), start_token=1)
    for _ in range(2):
        assert codec.encode("a waste of time") == CODEC.encode("a waste of time")
        assert len(codec._cache) <= 2


@pytest.mark.timeout(60)
def test_a_million_spaces_are_read_in_linear_time():
    pieces, pending = split_pieces("a waste" + " " * 1_000_000)
    assert (pieces, pending) == (["a"], " waste ")
