"""Writes the client for threads from the client for asyncio: `make client`."""

import re
import subprocess
import sys
from pathlib import Path

from tests.architecture.project_files import ROOT

FOLDER = ROOT / "service" / "client"
SOURCES = [FOLDER / "asynchronous.py", FOLDER / "streaming" / "asynchronous.py"]
HEADER = "# Written by `make client` from {source}: change that file.\n"

# In this order: later patterns would match parts of what earlier ones replace.
REPLACEMENTS = {
    r"\n\n`make client` writes its twin for threads, `synchronous.py`.\n": "",
    r" `make client` writes its twin for threads.": "",
    r"for asyncio\. A session belongs to one task": "for threads. A session belongs to one thread",
    r"for asyncio\.": "for threads.",
    r"Awaitable\[(.+?)\](?=\]| =)": r"\1",
    r"asyncio\.sleep|(?<=import )asyncio": lambda match: match[0].replace("asyncio", "time"),
    r"websockets\.asyncio": "websockets.sync",
    r"\basync (?=def|with|for)|`async (?=with)": lambda match: match[0].replace("async ", ""),
    r"\bawait ": "",
    r"\b(each|receive)_async\b": r"\1",
    r"Iterable\[Rows\] \| AsyncIterable\[Rows\]": "Iterable[Rows]",
    r"\bAsync(?=Client|Session|Iterator|Iterable|ExitStack|BaseTransport)": "",
    r"streaming\.asynchronous": "streaming.synchronous",
    r"\bpush_async_callback\b": "callback",
    r"\benter_async_context\b": "enter_context",
    r"\b__a(?=enter__|exit__)": "__",
    r"\ba(?=close\b|read\b|iter_bytes\b)": "",
    r"\banext\b": "next",
}


def twin_of(source: Path) -> Path:
    return source.with_name("synchronous.py")


def generate(source: Path) -> str:
    """The text of the twin of `source`."""
    text = source.read_text()
    for pattern, replacement in REPLACEMENTS.items():
        text = re.sub(pattern, replacement, text)
    ruff = [Path(sys.executable).with_name("ruff")]
    name = ["--stdin-filename", twin_of(source), "-"]
    for command in (["check", "--quiet", "--fix", "--unsafe-fixes"], ["format", "--quiet"]):
        done = subprocess.run(
            ruff + command + name, input=text, capture_output=True, text=True, check=True, cwd=ROOT
        )
        text = done.stdout
    return HEADER.format(source=source.name) + text


if __name__ == "__main__":
    for source in SOURCES:
        twin_of(source).write_text(generate(source))
