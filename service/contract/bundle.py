"""A bundle folder, read as a whole or refused as a whole.

Rule 1: every file is opened once, hashed, and used from those bytes. It must be a plain file within
        the size limit of its role; an archive also has a limit for its unpacked size.
Rule 2: the folder contains only plain files that the manifest names: no links, no sub-folders.
Rule 3: nothing is unpickled, and no file of the bundle can name a path.
"""

import hashlib
import io
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from service.contract.characters import CharacterCodec, Codec
from service.contract.errors import BundleError
from service.contract.graph_scan import refuse_external_data
from service.contract.manifest import MANIFEST_FILE, Manifest, parse_manifest
from service.contract.state import StateLayout
from service.contract.text import TextCodec

MAX_BUNDLE_BYTES: Final = 2 * 1024**3
MAX_FILES: Final = 64
MAX_MANIFEST_BYTES: Final = 2**20
MAX_TOKENIZER_BYTES: Final = 16 * 2**20
MAX_ARRAYS_BYTES: Final = 256 * 2**20
"""Limit for an archive of arrays, both packed and unpacked."""


_UNREADABLE: Final = (
    ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""The exceptions of `zipfile` and numpy for an invalid archive."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A manifest, and the verified bytes of the files that it names."""

    manifest: Manifest
    files: Mapping[str, bytes]
    manifest_digest: str = ""
    """SHA-256 of the manifest file, which contains the digests of all other files."""

    @property
    def graph(self) -> bytes:
        return self.files[self.manifest.graph.file]

    def state_layout(self) -> StateLayout:
        spec = self.manifest
        arrays = read_arrays(self.files[spec.initial_states]) if spec.initial_states else {}
        return StateLayout(spec.graph.carried, arrays, spec.graph.state_schema)

    def text_codec(self) -> Codec | None:
        text, generate = self.manifest.text, self.manifest.generate
        if generate is not None:
            return CharacterCodec(generate)
        if text is None:
            return None
        return TextCodec(self.files[text.tokenizer].decode(), text.start_token)

    def golden_arrays(self) -> dict[str, np.ndarray]:
        return read_arrays(self.files[self.manifest.golden.file])


def read_bundle(folder: Path, checked_digest: str | None = None) -> Bundle:
    """Read `models/<name>/<version>/` and check every file against the manifest.

    `checked_digest`: the `manifest_digest` of a bundle that another process has verified. A bundle
    with another digest is refused before it is parsed.

    Raises:
        BundleError: names the file, what was expected and what was found.
    """
    where = f"{folder.parent.name}/{folder.name}"
    found = _list_files(folder, where)
    manifest_bytes = read_manifest(folder)
    manifest_digest = hashlib.sha256(manifest_bytes).hexdigest()
    if checked_digest not in (None, manifest_digest):
        raise BundleError(f"{where}: the bundle changed during verification: load it again")
    manifest = parse_manifest(manifest_bytes, f"{where}/{MANIFEST_FILE}")
    found.remove(MANIFEST_FILE)
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BundleError(
            f"{where}: expected the manifest of this name and version, found that of"
            f" {manifest.name}/{manifest.version}: rename the folder accordingly"
        )
    unknown = sorted(set(found) - set(manifest.files))
    missing = sorted(set(manifest.files) - set(found))
    if unknown or missing:
        raise BundleError(
            f"{where}: expected exactly the files of the manifest; missing {missing}, not in the"
            f" manifest {unknown}: restore the folder as it was exported"
        )
    bounds = _bounds_of(manifest)
    files = {}
    for name in found:
        max_bytes = bounds.get(name, MAX_BUNDLE_BYTES)
        files[name] = data = _read_file(folder / name, f"{where}/{name}", max_bytes)
        digest = hashlib.sha256(data).hexdigest()
        if digest != manifest.files[name]:
            raise BundleError(
                f"{where}/{name}: expected SHA-256 {manifest.files[name][:12]}…, found"
                f" {digest[:12]}…: the file was changed or cut; restore it"
            )
    if checked_digest is None:
        refuse_external_data(files[manifest.graph.file], f"{where}/{manifest.graph.file}")
    return Bundle(manifest, files, manifest_digest)


def read_manifest(folder: Path) -> bytes:
    """The bytes of a bundle's manifest, which contains the hashes of all other files.

    Raises:
        BundleError: it is missing, not a plain file, or too large.
    """
    where = f"{folder.parent.name}/{folder.name}"
    try:
        return _read_file(folder / MANIFEST_FILE, f"{where}/{MANIFEST_FILE}", MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        raise BundleError(
            f"{where}: expected a folder written by export, found no {MANIFEST_FILE}"
        ) from None


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle folder atomically; returns the manifest with its hashes.

    Sets `manifest.files` and `manifest.manifest_sha256`. Replaces an existing folder of the same
    version.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    complete = manifest.model_copy(update={"files": hashes}).with_own_hash()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    staging.chmod(0o755)
    for name, data in files.items():
        (staging / name).write_bytes(data)
    (staging / MANIFEST_FILE).write_text(complete.to_json(), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    staging.rename(folder)
    return complete


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz. Never unpickles, nor unpacks more than `MAX_ARRAYS_BYTES`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            num_bytes = sum(each.file_size for each in packed.infolist())
        if num_bytes > MAX_ARRAYS_BYTES:
            raise BundleError(
                f"arrays of the bundle: expected at most {MAX_ARRAYS_BYTES} bytes unpacked, found"
                f" {num_bytes}; export it again with a shorter golden run"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise BundleError(
            f"arrays of the bundle cannot be read ({error}): export it again"
        ) from None


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz; equal arrays give equal bytes, so that retrained bundles can be compared."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{k: arrays[k] for k in sorted(arrays)})
    return buffer.getvalue()


def _bounds_of(manifest: Manifest) -> dict[str, int]:
    """Size limits of files whose role is known."""
    arrays = [manifest.golden.file, manifest.initial_states]
    bounds = {name: MAX_ARRAYS_BYTES for name in arrays if name is not None}
    if manifest.text is not None:
        bounds[manifest.text.tokenizer] = MAX_TOKENIZER_BYTES
    return bounds


def _list_files(folder: Path, where: str) -> list[str]:
    names, total = [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise BundleError(
                    f"{where}/{entry.name}: expected plain files only, no links or folders"
                )
            total += entry.stat(follow_symlinks=False).st_size
            names.append(entry.name)
            if len(names) > MAX_FILES:
                raise BundleError(f"{where}: expected at most {MAX_FILES} files, found more")
    if total > MAX_BUNDLE_BYTES:
        raise BundleError(f"{where}: expected at most {MAX_BUNDLE_BYTES} bytes, found {total}")
    if MANIFEST_FILE not in names:
        raise BundleError(f"{where}: expected a folder written by export, found no {MANIFEST_FILE}")
    return sorted(names)


def _read_file(path: Path, where: str, max_bytes: int) -> bytes:
    """The bytes of a plain file. Never follows a link, nor blocks on a pipe or device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link
        raise BundleError(f"{where}: cannot be read ({error.strerror})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # `fdopen` refuses a folder, and names its descriptor
        os.close(descriptor)
        raise BundleError(f"{where}: expected plain files only, no links or folders")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > max_bytes:
            raise BundleError(
                f"{where}: expected at most {max_bytes} bytes, found {status.st_size}; export a"
                " smaller one"
            )
        data = file.read(status.st_size + 1)
    if len(data) != status.st_size:
        raise BundleError(f"{where}: the file changed while it was read: load it again")
    return data
