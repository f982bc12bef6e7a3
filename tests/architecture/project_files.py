"""The files that make up the project, as git knows them."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MADE = {"build", "dist", "var", "runs", "__pycache__"}


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return [Path(name) for name in listed.stdout.decode().split("\0") if name]


def _is_made(part: str) -> bool:
    """Of a folder or file that some command of the project makes."""
    hidden = part[0] == "." and part not in (".ci", ".dockerignore", ".editorconfig", ".gitignore")
    return hidden or part in MADE or part.endswith(".egg-info")


def project_files(*suffixes: str) -> list[Path]:
    """Tracked files that still exist, relative to ROOT; all of them without `suffixes`.

    Without git, or outside a checkout, every file counts but those that our commands make.
    """
    paths = _tracked() if shutil.which("git") else []
    if not paths:
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        paths = [path for path in paths if not any(map(_is_made, path.parts))]
    kept = [
        p for p in sorted(paths) if (ROOT / p).is_file() and (not suffixes or p.suffix in suffixes)
    ]
    assert kept, f"no project files {suffixes} under {ROOT}"
    return kept
