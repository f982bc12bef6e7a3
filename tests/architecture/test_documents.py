"""Links of every page lead somewhere, and its commands are understood."""

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.project_files import ROOT, project_files

PAGES = project_files(".md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:service|training|tests|deploy)/[\w./-]+)`")
COMMAND = re.compile(r"python -m (service|training|tests)((?:[.\w]|[ \t]+(?![|&>#])[^\s`]+)*)")


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def anchors_of(page: Path) -> set[str]:
    """As the headings of a page are linked to on the web."""
    titles = re.findall(r"^#+ +(.+?) *$", text_of(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def leads_nowhere(page: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return False
    file, _, anchor = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    if not target.exists():
        return True
    return bool(anchor) and target.suffix == ".md" and anchor not in anchors_of(target)


def test_every_link_leads_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in LINK.findall(text_of(page))]
    assert len(links) > 100
    assert not [f"{page}: {link}" for page, link in links if leads_nowhere(page, link)]


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_a_page_that_everyone_reads_is_short(page: str) -> None:
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 250


def test_every_file_of_the_project_that_a_page_names_exists() -> None:
    """Decisions too: where the code has moved, they name its place of today."""
    pages = [page for page in PAGES if page.parts[0] == "docs" or page.name == "ARCHITECTURE.md"]
    named = {(page, path) for page in pages for path in FILE.findall(text_of(page))}
    assert len(named) > 100
    assert not [f"{page}: {path}" for page, path in sorted(named) if not (ROOT / path).exists()]


def commands() -> list[str]:
    found = {match[0] for page in PAGES for match in COMMAND.finditer(text_of(page))}
    return sorted(found)


@pytest.mark.parametrize("module", sorted({command.split()[2] for command in commands()}))
def test_every_module_that_a_command_names_exists(module: str) -> None:
    assert importlib.util.find_spec(module)


def test_every_command_of_training_is_understood() -> None:
    """Its options are parsed, and the recipe, the bundle and the experiment named exist."""
    from typer.main import get_group

    from training.__main__ import app
    from training.experiments.experiment import find_experiment

    lines = [command for command in commands() if command.split()[2] == "training"]
    assert len(lines) > 20
    for line in lines:
        if re.search(r" NAME$| <|\\$| --help$|/my-", line):
            continue  # a placeholder, or the first of several lines
        name, *arguments = shlex.split(line)[3:] or [""]
        if not arguments:
            assert not name or name in get_group(app).commands, line
            continue
        command = get_group(app).commands[name]
        params = command.make_context(name, arguments).params
        for path in ("recipe", "path"):
            assert path not in params or (ROOT / params[path]).exists(), line
        if name == "experiment":
            find_experiment(params["name"], params["variant"], "a file")
