"""The stages of dvc.yaml and their dependencies, as a graph."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from tasks.dvc_process import DATA

PIPELINE = Path("dvc.yaml")


def read_stage_graph(path: Path = PIPELINE) -> dict[str, tuple[str, ...]]:
    """Name of each stage -> the stages whose outputs it reads, in the order of dvc.yaml. The import of the log, DATA,
    is a stage as well."""
    stages: dict[str, Any] = YAML(typ="safe").load(path)["stages"]
    stage_of_output = {DATA.removesuffix(".dvc"): DATA} | {
        output: name
        for name, stage in stages.items()
        for kind in ("outs", "metrics", "plots")
        for output in _paths(stage.get(kind, []))
    }
    graph: dict[str, tuple[str, ...]] = {DATA: ()}
    for name, stage in stages.items():
        parts = {part for path in _paths(stage.get("deps", [])) for part in _parts(path)}
        inputs = {stage_of_output[part] for part in parts & stage_of_output.keys()}
        graph[name] = tuple(other for other in (DATA, *stages) if other in inputs)
    return graph


def with_dependents(stages: Iterable[str], graph: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The part of the graph with these stages and all that depend on them, directly or not."""
    selected = set(stages)
    for name in TopologicalSorter(graph).static_order():
        if selected & set(graph[name]):
            selected.add(name)
    return {name: tuple(d for d in graph[name] if d in selected) for name in graph if name in selected}


def _paths(entries: list[Any]) -> list[str]:
    """The paths of a list of dvc.yaml, whose entries are paths or have options: {path: options}."""
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def _parts(path: str) -> list[str]:
    """A path and the folders that contain it."""
    return [path, *(str(parent) for parent in PurePosixPath(path).parents)]
