"""A bundle folder, read as a whole or refused as a whole.

Rule 1: every file is read once, hashed, and used from those bytes; nothing is opened again.
Rule 2: only plain files that the manifest names may lie in the folder: no links, no sub-folders.
Rule 3: nothing here is unpickled and no file of the bundle can name a path.
"""

import hashlib
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.contract.characters import CharacterCodec, Codec
from service.contract.errors import BundleError
from service.contract.graph_scan import refuse_external_data
from service.contract.manifest import MANIFEST_FILE, Manifest, parse_manifest
from service.contract.state import StateLayout
from service.contract.text import TextCodec

MAX_BUNDLE_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Bundle:
    """A manifest together with the checked bytes of the files that it names."""

    manifest: Manifest
    files: Mapping[str, bytes]

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


def read_bundle(folder: Path) -> Bundle:
    """Read `models/<name>/<version>/` and check every file against the manifest.

    Raises:
        BundleError: with the file, what was expected of it, and what was found.
    """
    where = f"{folder.parent.name}/{folder.name}"
    found = _list_plain_files(folder, where)
    if MANIFEST_FILE not in found:
        raise BundleError(f"{where}: no {MANIFEST_FILE}; expected a folder written by export")
    manifest = parse_manifest(found.pop(MANIFEST_FILE).read_bytes(), f"{where}/{MANIFEST_FILE}")
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BundleError(
            f"{where}: the manifest is that of {manifest.name}/{manifest.version};"
            " put the folder where its name and version say"
        )
    strangers = sorted(set(found) - set(manifest.files))
    missing = sorted(set(manifest.files) - set(found))
    if strangers or missing:
        raise BundleError(
            f"{where}: files missing {missing}, files that the manifest does not name {strangers};"
            " restore the folder as it was exported"
        )
    files = {name: path.read_bytes() for name, path in found.items()}
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest != manifest.files[name]:
            raise BundleError(
                f"{where}/{name}: SHA-256 is {digest[:12]}…, the manifest says"
                f" {manifest.files[name][:12]}…: the file was changed or cut; restore it"
            )
    refuse_external_data(files[manifest.graph.file], f"{where}/{manifest.graph.file}")
    return Bundle(manifest, files)


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle so that the folder is complete or absent; returns the sealed manifest.

    `manifest.files` and `manifest.manifest_sha256` are filled in here. An older folder of the
    same version is replaced.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    sealed = manifest.model_copy(update={"files": hashes}).sealed()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    staging.chmod(0o755)
    for name, data in files.items():
        (staging / name).write_bytes(data)
    (staging / MANIFEST_FILE).write_text(sealed.to_json(), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    staging.rename(folder)
    return sealed


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Arrays of an .npz, never unpickling anything."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"arrays of the bundle cannot be read: {error}") from None


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The same arrays give the same bytes, so that a retrained bundle can be compared."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{k: arrays[k] for k in sorted(arrays)})
    return buffer.getvalue()


def _list_plain_files(folder: Path, where: str) -> dict[str, Path]:
    found = {}
    total = 0
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise BundleError(
                f"{where}/{path.name}: expected plain files only, no links or folders"
            )
        total += path.stat().st_size
        found[path.name] = path
    if total > MAX_BUNDLE_BYTES:
        raise BundleError(f"{where}: {total} bytes, at most {MAX_BUNDLE_BYTES} are read")
    return found
