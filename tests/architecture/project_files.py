"""The files that make up the project, as git knows them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def project_files(*suffixes: str) -> list[Path]:
    """Tracked files that still exist, relative to ROOT; all of them without `suffixes`.

    Outside a git checkout (a source archive) every file counts that lies in no hidden folder.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if listed.returncode == 0:
        paths = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        paths = [path for path in paths if not any(part[0] == "." for part in path.parts[:-1])]
    kept = [p for p in paths if (ROOT / p).is_file() and (not suffixes or p.suffix in suffixes)]
    assert kept, f"no project files {suffixes} under {ROOT}"
    return kept
