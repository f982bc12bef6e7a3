import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from service.contract.text import TextCodec, TextCursor
from training.data.dataset import find_dataset
from training.data.labelled_texts import LabelledTexts, divide
from training.data.plain_text import read_text
from training.data.sets import fine_foods, imdb, nsmc
from training.data.text_batches import LikeLengthBatches, ShuffledRows, TokenRows, batches_by_length
from training.data.text_pairs import read_pairs
from training.data.tokenizer import NONE_TOKEN, START_TOKEN, train_tokenizer
from training.errors import DataError

TEXTS = [f"정말 재밌는 영화 {n}편! good film, bad ending {n}" for n in range(60)]
TOKENIZER = train_tokenizer(TEXTS, 400)
CODEC = TextCodec(TOKENIZER, START_TOKEN)


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_equal_texts_never_lie_on_both_sides_of_a_division():
    texts = [f"Film number {n}" for n in range(500)]
    copies = [f"  film   NUMBER {n} " for n in range(500)]
    parts = divide(LabelledTexts(texts + copies, np.zeros(1000, dtype=np.int64)), 0.3, 0.2)
    seen = [{" ".join(t.lower().split()) for t in part.texts} for part in parts.values()]
    assert sum(len(part) for part in seen) == 500
    assert [len(parts[name]) for name in parts] == pytest.approx([300, 200, 500], abs=60)


def test_every_text_is_in_one_part_whatever_else_is_in_the_file():
    texts = LabelledTexts([f"text {n}" for n in range(200)], np.arange(200))
    half = texts.take(np.arange(100))
    of_all, of_half = divide(texts, 0.3, 0.2), divide(half, 0.3, 0.2)
    for name, part in of_half.items():
        assert set(part.texts) == set(of_all[name].texts) & set(half.texts)
        assert [half.texts[label] for label in part.labels] == part.texts


def test_imdb_texts_come_without_breaks_and_escapes(tmp_path):
    lines = ["id\tlabel\ttext", '0_9\t1\tSo \\"good\\"<br /><br />See it', "1_1\t0\tBad"]
    path = tmp_path / "train.tsv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    read = imdb.read(path)
    assert read.texts == ['So "good"  See it', "Bad"]
    assert read.labels.tolist() == [1, 0]


def test_imdb_rows_about_phone_apps_are_left_out(tmp_path):
    rows = ["1\t1\tLove this App. It crashes", "2\t0\tOn the app store now", "3\t1\tA film"]
    path = write(tmp_path / "i.tsv", ["id\tlabel\ttext", *rows, "4\t0\tHum App Ke Hai Kaun"])
    assert imdb.read(path).texts == ["A film", "Hum App Ke Hai Kaun"]
    assert "apps are left out" in imdb.DATASET.note


def test_byte_order_marks_and_blank_lines_are_no_part_of_texts(tmp_path):
    path = tmp_path / "n.tsv"
    path.write_bytes("id\tdocument\tlabel\r\n1\t최고\t1\r\n2\t별로\t0\r\n\r\n".encode("utf-8-sig"))
    assert nsmc.read(path).texts == ["최고", "별로"]
    path = tmp_path / "f.csv"
    path.write_bytes("product,review,score\na,good,great\nb,bad,other\n\n".encode("utf-8-sig"))
    assert fine_foods.read(path).texts == ["good", "bad"]
    path.write_bytes("one\teins\ntwo\tzwei\n\n".encode("utf-8-sig"))
    assert [pair.source for pair in read_pairs(path)] == ["one", "two"]
    path.write_bytes("hello\r\n".encode("utf-8-sig"))
    assert read_text(path, "a text") == "hello\n"


@pytest.mark.parametrize(
    "read",
    [
        nsmc.read,
        fine_foods.read,
        read_pairs,
        lambda path: read_text(path, "a text"),
    ],
)
def test_a_line_that_is_not_utf8_is_named(tmp_path, read):
    header = "product,review,score" if read is fine_foods.read else "id\tdocument\tlabel"
    path = tmp_path / "t"
    path.write_bytes(f"{header}\n1\tcafé\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2: not UTF-8 .*save the file as UTF-8"):
        read(path)


def test_a_review_without_a_score_is_named(tmp_path):
    path = write(tmp_path / "f.csv", ["product,review,score", "a,good,great", "b,bad"])
    with pytest.raises(DataError, match="line 3: label '', not one of other, great"):
        fine_foods.read(path)


def test_nsmc_rows_without_text_are_left_out(tmp_path):
    path = write(tmp_path / "n.tsv", ["id\tdocument\tlabel", "1\t최고\t1", "2\t \t1", "3\t별로\t0"])
    assert nsmc.read(path).texts == ["최고", "별로"]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["text\tlabel", "a\t1"], "first line"),
        (["id\tdocument\tlabel", "1\ta\tb\t1"], "line 2: 4 columns"),
        (["id\tdocument\tlabel", "1\ta\tgood"], "line 2: label 'good'"),
        (["id\tdocument\tlabel", "1\ta\t1"], "every label"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_it_must_look_like(tmp_path, lines, what):
    with pytest.raises(DataError) as refused:
        nsmc.read(write(tmp_path / "n.tsv", lines))
    assert what in str(refused.value)
    assert "header id, document, label" in str(refused.value)


def test_a_table_of_other_columns_or_bytes_is_no_fine_foods_table(tmp_path):
    with pytest.raises(DataError, match="columns product, review, score"):
        fine_foods.read(write(tmp_path / "f.csv", ["review,score", "a,great"]))
    path = tmp_path / "f.csv.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        fine_foods.read(path)


def test_the_packaged_reviews_are_found_and_read():
    dataset = find_dataset("fine_foods")
    read = fine_foods.read(dataset.locate(None))
    assert len(read) == 5000
    assert 0.6 < read.labels.mean() < 0.7


def test_the_same_texts_make_the_same_tokenizer():
    assert train_tokenizer(TEXTS, 400) == TOKENIZER


def test_the_tokenizer_learns_whole_words_and_the_last_word_of_a_text_too():
    assert len(CODEC.encode("정말 재밌는 영화")) == 4
    codec = TextCodec(train_tokenizer(["a rare ending"] * 9, 400), START_TOKEN)
    assert len(codec.encode("ending")) == 2


@given(
    st.lists(st.sampled_from(["재밌는 ", "영화", "!!", " good", "fil", "m, ", "\n"]), max_size=9)
)
def test_a_stream_feeds_the_tokens_that_the_whole_text_trains_on(chunks):
    cursor, tokens, tail = TextCursor(), [], [START_TOKEN]
    for chunk in chunks:
        fed = CODEC.feed(cursor, chunk)
        cursor, tail = fed.cursor, fed.tail
        tokens += fed.certain
    assert tokens + tail == CODEC.encode("".join(chunks))


def test_long_texts_keep_their_start_and_more_of_their_end():
    texts = LabelledTexts([TEXTS[0] * 5], np.zeros(1, dtype=np.int64))
    whole = CODEC.encode(texts.texts[0])
    tokens, length, _ = TokenRows(texts, CODEC, max_tokens=16).batch([0])
    assert length.tolist() == [16]
    assert tokens[0].tolist() == whole[:4] + whole[-12:]


def test_a_batch_is_padded_behind_its_texts():
    texts = LabelledTexts(["영화", "영화 영화 영화"], np.array([1, 0]))
    tokens, length, labels = TokenRows(texts, CODEC, None).batch([0, 1])
    assert tokens[0].tolist() == CODEC.encode("영화") + [NONE_TOKEN] * 2
    assert (length.tolist(), labels.tolist()) == ([2, 4], [1, 0])


def random_rows(num_rows):
    texts = ["영화 " * n for n in np.random.default_rng(0).integers(1, 60, num_rows)]
    return TokenRows(LabelledTexts(texts, np.zeros(num_rows, dtype=np.int64)), CODEC, None)


def test_an_epoch_has_every_row_once_among_rows_of_like_length():
    rows = random_rows(1000)
    torch.manual_seed(0)
    batches = LikeLengthBatches(ShuffledRows(rows), 16, drop_last=False)
    first, second = list(batches), list(batches)
    assert len(first) == len(batches)
    assert sorted(row for batch in first for row in batch) == list(range(1000))
    assert first != second
    padded = sum(rows.length[batch].max() * len(batch) for batch in first)
    assert padded < 1.1 * rows.length.sum()


def test_processes_share_the_rows_of_an_epoch():
    rows = random_rows(1000)
    shares = [DistributedSampler(rows, num_replicas=2, rank=rank) for rank in (0, 1)]
    batches = [list(LikeLengthBatches(share, 16, drop_last=False)) for share in shares]
    assert len(batches[0]) == len(batches[1])
    assert sorted(row for part in batches for batch in part for row in batch) == list(range(1000))


def test_evaluation_batches_are_bounded_and_miss_no_row():
    length = np.random.default_rng(0).integers(1, 300, 1000)
    batches = list(batches_by_length(length, 2000))
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert all(length[batch].max() * len(batch) <= 2000 for batch in batches)
