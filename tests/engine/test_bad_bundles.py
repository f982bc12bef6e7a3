"""Whatever is wrong inside one bundle is that bundle's affair: the others are loaded and served."""

import io
import json
import os
import re
import threading
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from service.contract import bundle as bundles
from service.contract.bundle import read_arrays, read_bundle, write_arrays
from service.contract.errors import BundleError, TokenizerError
from service.contract.text import TextCodec, TextCursor
from service.contract.tokenizer import PieceTokenizer
from service.engine.models.first_load import load_folder
from service.engine.models.registry import bundle_folders, load_registry
from service.engine.models.verifier import Verification, Verifier
from service.errors import ModelFailedError
from tests.engine.support import A, create_load, create_mood, rows, running_engine, step_text
from tests.fakes.bundles import write_classifier, write_forecaster
from tests.fakes.odd_bundles import reseal, with_tokenizer

PANICS = {
    "a normaliser that is none": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    },
    "a pattern without end": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(a+)+$"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "tokens without number": {
        "normalizer": {
            "type": "Replace",
            "pattern": {"String": "a"},
            "content": "zx" * 5000,
        }
    },
}
CUTS = {
    "truncation": {
        "max_length": 2,
        "stride": 5,
        "strategy": "LongestFirst",
        "direction": "Right",
    },
    "padding": {
        "strategy": {"Fixed": 1000},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
}


@pytest.fixture(scope="module")
def verifier():
    with closing(Verifier("cpu", 1, limit_s=60.0)) as verifier:
        yield verifier


@pytest.fixture
def folder(tmp_path):
    write_forecaster(tmp_path)
    write_classifier(tmp_path)
    return tmp_path


@pytest.fixture
def mood(folder):
    return folder / "mood" / "1"


def loaded(folder, verifier):
    """The models that are loaded, and why others are not."""
    registry = load_folder(folder, "cpu", 1, verifier)
    assert not registry.late
    return [model.name for model in registry.all()], registry.refused


@pytest.mark.parametrize("parts", PANICS.values(), ids=PANICS)
def test_a_tokenizer_that_fails_is_refused_alone(folder, mood, verifier, parts):
    with_tokenizer(mood, **parts)
    names, refused = loaded(folder, verifier)
    assert (names, list(refused)) == (["load"], ["mood/1"])
    assert "tokenizer" in refused["mood/1"]
    trusting = load_registry(folder, "cpu", 1)  # without a process of its own, too
    assert [model.name for model in trusting.all()] == ["load"]
    assert "tokenizer" in trusting.refused["mood/1"]


def test_truncation_and_padding_of_a_tokenizer_are_switched_off(mood):
    text = "a wonderful film, and not a waste of time"
    before = read_bundle(mood).text_codec().encode(text)
    with_tokenizer(mood, **CUTS)
    codec = read_bundle(mood).text_codec()
    codec.probe()
    assert codec.encode(text) == before


def fail_on_q(monkeypatch):
    """Make tokenizers fail on what holds a q."""
    encode = PieceTokenizer.encode

    class PanicException(BaseException):
        """As pyo3 makes it, of a module that cannot be imported."""

    PanicException.__module__ = "pyo3_runtime"

    class Library:
        def __init__(self, tokenizer):
            self._tokenizer = tokenizer

        def encode(self, piece, **how):
            if "q" in piece:
                raise PanicException("index out of bounds")
            return self._tokenizer.encode(piece, **how)

    def encode_by_library(tokenizer, piece):
        if not isinstance(tokenizer._tokenizer, Library):
            tokenizer._tokenizer = Library(tokenizer._tokenizer)
        return encode(tokenizer, piece)

    monkeypatch.setattr(PieceTokenizer, "encode", encode_by_library)


def test_a_panic_of_the_tokenizer_is_an_error_that_boundaries_catch(mood, monkeypatch):
    fail_on_q(monkeypatch)
    codec = read_bundle(mood).text_codec()
    assert isinstance(codec, TextCodec)
    with pytest.raises(TokenizerError, match="index out of bounds"):
        codec.feed(TextCursor(), "quite good ")
    with pytest.raises(BundleError, match="expected tokens for any text"):
        codec.probe()


async def test_a_text_that_the_tokenizer_fails_on_is_answered_and_the_session_goes_on(
    folder, monkeypatch
):
    registry = load_registry(folder, "cpu", 1)
    fail_on_q(monkeypatch)
    async with running_engine(registry=registry) as engine:
        await engine.submit(A, create_mood())
        with pytest.raises(ModelFailedError, match="failed on this text, and nothing was applied"):
            await engine.submit(A, step_text("quite a film ", 0))
        assert (await engine.submit(A, step_text("a film ", 0))).step == 1
        assert engine.failure is None


def grow(path, num_bytes):
    with path.open("r+b") as file:
        file.truncate(num_bytes)


BOUNDED = {
    "manifest.json": bundles.MAX_MANIFEST_BYTES,
    "tokenizer.json": bundles.MAX_TOKENIZER_BYTES,
    "golden.npz": bundles.MAX_ARRAYS_BYTES,
}


@pytest.mark.parametrize("name", BOUNDED)
def test_a_file_that_is_too_large_is_refused_before_it_is_read(folder, mood, name, monkeypatch):
    grow(mood / name, BOUNDED[name] + 1)
    monkeypatch.setattr(os, "fdopen", read_nothing_of(os.fdopen, BOUNDED[name]))
    with pytest.raises(BundleError, match=rf"{name}: expected at most {BOUNDED[name]} bytes"):
        read_bundle(mood)


def read_nothing_of(fdopen, most):
    def open_watched(descriptor, mode):
        file = fdopen(descriptor, mode)
        if os.fstat(descriptor).st_size > most:
            real, file = file, io.BytesIO()
            file.close = real.close
            file.read = None
        return file

    return open_watched


def test_an_archive_is_bounded_by_what_it_unpacks_to(folder, mood, verifier):
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("length.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (257 * 2**18,)}
        )
        for _ in range(257):
            file.write(bytes(2**20))
    assert len(packed.getvalue()) < 2**22
    with pytest.raises(BundleError, match=r"expected at most .* bytes unpacked"):
        read_arrays(packed.getvalue())
    reseal(mood, **{"golden.npz": packed.getvalue()})
    names, refused = loaded(folder, verifier)
    assert (names, list(refused)) == (["load"], ["mood/1"])


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(-1,)", "(2, 1.5)", "'x'"])
def test_an_array_that_says_more_than_it_holds_is_refused(shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("length.npy", array)
    with pytest.raises(BundleError, match="cannot be read"):
        read_arrays(packed.getvalue())


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


ODD_FILES = {
    "a pipe": make_fifo,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.rename(path.parent.parent / "moved"),
                            path.symlink_to(path.parent.parent / "moved")),
    "nothing": Path.unlink,
}  # fmt: skip


@pytest.mark.parametrize("name", ["manifest.json", "golden.npz"])
@pytest.mark.parametrize("make", ODD_FILES.values(), ids=ODD_FILES)
def test_what_is_no_plain_file_is_refused_and_never_waited_for(folder, mood, verifier, name, make):
    make(mood / name)
    names, refused = loaded(folder, verifier)
    assert (names, list(refused)) == (["load"], ["mood/1"])


def test_a_folder_of_more_files_than_a_bundle_has_is_refused(folder, mood):
    for number in range(bundles.MAX_FILES):
        (mood / f"more-{number}").touch()
    with pytest.raises(BundleError, match="expected at most 64 files"):
        read_bundle(mood)


@pytest.fixture
def unreadable(folder, monkeypatch):
    """`mood` cannot be listed. As root one may list everything, so the system's answer is faked."""
    listed = Path.iterdir

    def refuse(path):
        if path == folder / "mood":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    return folder


def test_a_folder_that_cannot_be_read_stops_neither_the_start_nor_the_watching(
    unreadable, verifier
):
    paths, reasons = bundle_folders(unreadable)
    assert [path.parent.name for path in paths] == ["load"]
    assert reasons == {"mood": "its folder cannot be read: Permission denied"}
    assert loaded(unreadable, verifier) == (["load"], reasons)


def test_a_folder_that_cannot_be_asked_what_it_is_stops_nothing(folder, monkeypatch):
    stat = Path.stat

    def refuse(path, **how):
        if path == folder / "mood":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", refuse)
    paths, reasons = bundle_folders(folder)
    assert ([path.parent.name for path in paths], list(reasons)) == (["load"], ["mood"])


def test_names_that_are_not_utf8_are_refused_and_can_be_shown(folder, verifier):
    odd = os.fsencode(folder) + b"/m\xff\xfe/1"
    for name in (odd, os.fsencode(folder) + b"/load/\xff"):
        Path(os.fsdecode(name)).mkdir(parents=True)
    (folder / "tone" / "1").mkdir(parents=True)
    names, refused = loaded(folder, verifier)
    assert names == ["mood"]
    assert json.dumps(refused, ensure_ascii=False).encode()
    assert sorted(refused) == ["load", r"m\xff\xfe", "tone/1"]


def test_a_state_of_gigabytes_is_refused(folder, mood, verifier):
    def enlarge(fields):
        [state] = fields["graph"]["states"]
        state["shape"] = ["batch", 2**34]

    reseal(mood, enlarge)
    names, refused = loaded(folder, verifier)
    assert (names, list(refused)) == (["load"], ["mood/1"])


def test_a_bundle_that_was_found_good_is_not_tried_again(folder, mood, verifier, monkeypatch):
    good = Verification(verifier, mood).run()
    monkeypatch.setattr(Verifier, "verify", None)
    assert Verification(verifier, mood).run() == good == read_bundle(mood).manifest_digest


def test_a_bundle_that_is_changed_while_it_is_tried_is_not_opened(folder, mood):
    digest = read_bundle(mood).manifest_digest
    write_classifier(folder, seed=9)
    with pytest.raises(BundleError, match="changed during verification"):
        read_bundle(mood, digest)


def test_a_process_that_ended_while_it_was_idle_costs_no_bundle_its_place(
    folder, mood, verifier, monkeypatch
):
    write_classifier(folder, seed=11)
    Verification(verifier, mood).run()
    [child] = verifier._idle
    child.kill()
    child._process.wait()
    write_classifier(folder, seed=12)
    assert Verification(verifier, mood).run()


def test_a_bundle_that_ends_the_process_is_refused_with_how_it_ended(mood, verifier, monkeypatch):
    write_classifier(mood.parents[1], seed=13)
    verifier.rest()
    verification = Verification(verifier, mood)
    ask = verifier._question

    def ask_nobody(folder):
        threading.Timer(0, verification._child.kill).start()
        return b" " * 100  # no whole line: it waits

    monkeypatch.setattr(verifier, "_question", ask_nobody)
    with pytest.raises(BundleError, match=r"ended \(SIGKILL\)"):
        verification.run()
    monkeypatch.setattr(verifier, "_question", ask)
    assert Verification(verifier, mood).run()
    assert re.fullmatch("[0-9a-f]{64}", read_bundle(mood).manifest_digest)


async def test_a_forecaster_is_served_beside_a_bundle_that_is_none(folder, mood, verifier):
    (mood / "manifest.json").write_bytes(b"{" * 100_000)
    registry = load_folder(folder, "cpu", 1, verifier)
    assert list(registry.refused) == ["mood/1"]
    async with running_engine(registry=registry) as engine:
        assert (await engine.submit(A, create_load(rows(2)))).step == 2


def test_arrays_that_were_written_are_read():
    arrays = {"a": np.arange(3.0), "b": np.zeros((2, 2), np.float32)}
    read = read_arrays(write_arrays(arrays))
    assert {name: value.tolist() for name, value in read.items()} == {
        name: value.tolist() for name, value in arrays.items()
    }
