"""How the code hangs together: imports in one direction, stages that depend on what they use, one name for one thing.

The layers themselves are contracts of import-linter in pyproject.toml, which `make check` holds.
"""

from __future__ import annotations

import ast
import pkgutil
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

SRC = ROOT / "src" / "befriend"
CODE = sorted(path for folder in ("src", "tasks", "flows") for path in (ROOT / folder).rglob("*.py"))
BIN = Path(sys.executable).parent
STAGES = (
    "validate",
    "embed_text",
    "tokenize",
    "train_two_tower",
    "train_stu",
    "train_ranker",
    "evaluate",
    "cluster",
    "report",
)
TALK = {"errors", "layout", "progress"}
"""modules that no output depends on: messages, and the names of places that dvc.yaml names itself"""
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 400, 60, 8


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("befriend")


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "befriend"


def test_packages_hang_together_in_one_direction(graph: grimp.ImportGraph) -> None:
    """Every strongly connected component of the packages is a single one: none imports itself by way of another."""
    reached = {
        package: {package_of(module) for part in parts for module in graph.find_upstream_modules(part)} - {package}
        for package, parts in _packages(graph).items()
    }
    assert [(a, b) for a in reached for b in reached[a] if a < b and a in reached.get(b, ())] == []


def _packages(graph: grimp.ImportGraph) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for module in graph.modules - {"befriend"}:
        found[package_of(module)].append(module)
    return found


@pytest.mark.system
def test_an_upward_import_breaks_a_contract(tmp_path: Path) -> None:
    """What `make check` runs does see it, also where it is hidden in a function."""
    for name in ("src", "tasks", "flows"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.parquet", "*.egg-info", "__pycache__")
        )
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)

    def lint() -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "lint-imports"), "--no-cache", "--contract", "layers", "--contract", "core"]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={"PYTHONPATH": f"{tmp_path / 'src'}:{tmp_path}", "PATH": str(BIN)},
            capture_output=True,
            text=True,
        )

    assert lint().returncode == 0, lint().stdout
    low = tmp_path / "src" / "befriend" / "data" / "split.py"
    low.write_text(
        low.read_text() + "\n\ndef seeded() -> None:\n    from befriend.retrieval import knn\n\n    import prefect\n"
    )
    broken = lint()
    assert broken.returncode != 0
    assert "Contracts: 0 kept, 2 broken" in broken.stdout


def needed(graph: grimp.ImportGraph, stage: str) -> set[str]:
    """Paths of what a stage imports, directly or not: packages, modules, and of the stages single files."""
    entry = f"befriend.stages.{stage}"
    found = set()
    for module in graph.find_upstream_modules(entry) | {entry, "befriend.kernels"}:  # the command line loads kernels
        parts = module.split(".")[1:]
        if not parts or parts[0] in TALK:
            continue
        path = "/".join(parts) if parts[0] == "stages" else parts[0]
        found.add(f"src/befriend/{path}" + ("" if (SRC / path).is_dir() else ".py"))
    return found


def declared(stage: str) -> set[str]:
    entry = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]
    return {path for path in entry["deps"] if path.startswith("src/")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_what_it_imports(graph: grimp.ImportGraph, stage: str) -> None:
    """Nothing missing, or a change would not run it; nothing idle, or it would run for nothing."""
    assert sorted(declared(stage)) == sorted(needed(graph, stage))


def reruns() -> dict[str, list[str]]:
    """Package -> the stages that run anew when it changes."""
    packages = {path.name for path in SRC.iterdir() if (path / "__init__.py").is_file()} - {"stages", "sample"}
    found: dict[str, list[str]] = {name: [] for name in packages}
    for stage in STAGES:
        for path in declared(stage):
            if not path.endswith(".py"):
                found[Path(path).name].append(stage)
    return found


def test_wording_trains_nothing() -> None:
    table = reruns()
    width = max(map(len, table))
    print(
        "\n".join(
            [
                "touch | stages that run anew",
                *(f"{name:{width}} | {', '.join(stages) or 'none'}" for name, stages in sorted(table.items())),
            ]
        )
    )
    assert table["simulate"] == table["ops"] == table["cli"] == []
    for name in ("validation", "readers", "report", "monitoring", "analysis", "recommendation"):
        assert not {"train_two_tower", "train_stu", "train_ranker", "tokenize", "embed_text"} & set(table[name]), name


def test_the_architecture_page_tells_the_same_table() -> None:
    rows = [
        f"| `{name}/` | {', '.join(f'`{stage}`' for stage in stages) or 'none'} |"
        for name, stages in sorted(reruns().items())
    ]
    assert "\n".join(rows) in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def definitions() -> Iterator[tuple[str, str, ast.AST]]:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield str(path.relative_to(ROOT)), node.name, node


def test_no_file_and_no_function_is_two_ideas() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in CODE
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}
    wide = {
        f"{path}: {name}": lines
        for path, name, node in definitions()
        if not isinstance(node, ast.ClassDef) and (lines := _lines(node)) > MOST_LINES_OF_A_FUNCTION
    }
    assert wide == {}


def _lines(node: ast.AST) -> int:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_one_name_is_one_thing() -> None:
    """No public class, and no module, is called like another one."""
    classes: dict[str, set[str]] = defaultdict(set)
    for path, name, node in definitions():
        if isinstance(node, ast.ClassDef) and not name.startswith("_"):
            classes[name].add(path)
    assert {name: sorted(paths) for name, paths in classes.items() if len(paths) > 1} == {}
    modules: dict[str, set[str]] = defaultdict(set)
    for path in CODE:
        if path.stem not in ("__init__", "__main__"):
            modules[path.stem].add(str(path.relative_to(ROOT)))
    same = {name: sorted(paths) for name, paths in modules.items() if len(paths) > 1 and name not in SAME}
    assert same == {}


SAME = {"validate": "the stage, and the flow that runs it alone"}
"""modules that are called alike since they are about one thing"""


def test_every_name_in_the_glossary_exists() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    names = re.findall(r"`(befriend(?:\.\w+)+)` \|$", text, re.MULTILINE)
    assert len(names) > 40
    for name in names:
        pkgutil.resolve_name(name)
