"""Imports go one way: the core knows neither Prefect nor DVC, tasks know the core, flows know tasks."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT


def imports(folder: str) -> dict[Path, set[str]]:
    """File -> the first two parts of every module it imports, wherever in the file."""
    found: dict[Path, set[str]] = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[file] = {".".join(name.split(".")[:2]) for name in names}
    assert found
    return found


def breaches(folder: str, forbidden: set[str]) -> list[str]:
    return [
        f"{file}: {name}"
        for file, names in imports(folder).items()
        for name in names
        if {name, name.split(".")[0]} & forbidden
    ]


def test_the_core_knows_neither_prefect_nor_dvc_nor_the_layers_above() -> None:
    assert breaches("src", {"prefect", "dvc", "tasks", "flows"}) == []


def test_tasks_do_not_know_flows() -> None:
    assert breaches("tasks", {"flows", "dvc"}) == []


def test_flows_reach_the_core_through_tasks() -> None:
    assert breaches("flows", {"dvc", "befriend.data", "befriend.evaluation", "befriend.stages"}) == []


def test_inside_the_core_data_knows_nothing_of_what_is_built_on_it() -> None:
    above = {"befriend.evaluation", "befriend.stages", "befriend.ops", "befriend.cli"}
    assert breaches("src/befriend/data", above) == []
    assert breaches("src/befriend/evaluation", above - {"befriend.evaluation"}) == []
    assert breaches("src/befriend/stages", {"befriend.ops", "befriend.cli"}) == []
