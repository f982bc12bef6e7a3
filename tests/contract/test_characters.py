import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.characters import CharacterCodec, GenerateSpec
from service.contract.errors import TextError
from service.contract.text import UNREAD
from tests.fakes.bundles import CHARACTERS

CODEC = CharacterCodec(GenerateSpec(characters=CHARACTERS, start="ab"))


@given(st.lists(st.text(CHARACTERS, max_size=6), max_size=6))
def test_chunks_give_the_characters_of_the_whole_text_at_every_moment(chunks):
    cursor, certain, so_far = UNREAD, [], ""
    for chunk in chunks:
        fed = CODEC.feed(cursor, chunk)
        cursor, so_far = fed.cursor, so_far + chunk
        certain += fed.certain if so_far else []
        if so_far:
            assert certain + fed.tail == CODEC.encode(so_far)
        assert cursor.num_tokens == len(so_far)


def test_the_last_character_is_always_pending():
    fed = CODEC.feed(UNREAD, "abc")
    assert (fed.certain, fed.tail) == ([0, 1], [2])
    again = CODEC.feed(fed.cursor, "")
    assert (again.certain, again.tail, again.cursor) == ([], [2], fed.cursor)


def test_a_space_is_not_mistaken_for_an_empty_text():
    behind = CODEC.feed(UNREAD, " ").cursor
    assert CODEC.feed(behind, "a").certain == CODEC.encode(" ")


def test_the_start_is_used_until_text_is_read():
    nothing = CODEC.feed(UNREAD, "")
    assert (nothing.certain, nothing.tail, nothing.cursor) == ([0], [1], UNREAD)
    assert CODEC.feed(nothing.cursor, "c").tail == [2]


def test_a_character_outside_the_alphabet_is_refused_with_its_index():
    with pytest.raises(TextError, match=r"expected characters .* found 'x' \(character 2\)"):
        CODEC.feed(UNREAD, "abx")
