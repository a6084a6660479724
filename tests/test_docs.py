"""The documents name files, sections, commands and options that exist, and the README is short."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from befriend.cli.main import app
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "bench" / "RESULTS.md"])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MAX_README_WORDS = 900
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The text of a page without blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_sections_that_exist(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


def test_every_page_of_docs_is_in_its_table_of_contents() -> None:
    listed = set(re.findall(r"\]\((\w+\.md)\)", prose(ROOT / "docs" / "README.md")))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_README_WORDS


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each call of `befriend`, `make` and `python` on a page, in blocks of code and in code spans."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()[1:-1]]
    for code in [*lines, *re.findall(r"`([^`\n]+)`", prose(page))]:
        if found := re.match(r"(?:\$ |[A-Z_]+=\S+ )*((befriend|make|python) \S.*)", code):
            yield shlex.split(found[1], comments=True)


def problem(arguments: list[str]) -> str | None:
    """What does not exist of a command; None if all of it does."""
    program, first = arguments[0], arguments[1]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return None if first in targets or first.startswith(".venv/") else f"make has no target {first}"
    if program == "python":
        path = f"{arguments[2].replace('.', '/')}.py" if first == "-m" else first
        return None if (ROOT / path).is_file() else f"there is no {path}"
    return _problem_of_befriend(typer.main.get_command(app), arguments[1:])


def _problem_of_befriend(command: Any, arguments: list[str]) -> str | None:
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    for argument in arguments:
        if isinstance(command, TyperGroup) and not argument.startswith("-"):
            if argument not in command.commands and not re.match(r"<|[A-Z]+$", argument):  # <stage>, COMMAND
                return f"befriend has no command {argument}"
            rest = arguments[arguments.index(argument) + 1 :]
            return _problem_of_befriend(command.commands[argument], rest) if argument in command.commands else None
        if re.match(r"--?[a-z]", argument) and argument not in options:
            return f"{command.name} has no option {argument}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_options_exist(page: Path) -> None:
    assert [found for arguments in commands(page) if (found := problem(arguments))] == []


def test_what_does_not_exist_is_found() -> None:
    calls = ["befriend recomend", "befriend text infer 1 x --sure", "make tests", "python bench/none.py", "make test"]
    assert [problem(call.split()) for call in calls] == [
        "befriend has no command recomend",
        "infer has no option --sure",
        "make has no target tests",
        "there is no bench/none.py",
        None,
    ]
