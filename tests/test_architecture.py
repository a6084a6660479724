"""The structure of the code: imports in one direction, stages that depend on what they import, one name for one thing.

The layers themselves are contracts of import-linter in pyproject.toml, which `make check` checks.
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
NO_OUTPUT = {"errors", "layout", "progress"}
"""modules on which no output depends: messages, and paths, which dvc.yaml names itself"""
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 8


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("befriend")


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "befriend"


def test_every_strongly_connected_component_of_packages_is_a_single_package(graph: grimp.ImportGraph) -> None:
    imports: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules - {"befriend"}:
        imports[package_of(module)] |= {package_of(name) for name in graph.find_modules_directly_imported_by(module)}
    reached = {package: _reachable(package, imports) for package in list(imports)}
    components = {package: {a for a in reached[package] if package in reached.get(a, ())} for package in reached}
    print("\n".join(" ".join(sorted(component | {package})) for package, component in sorted(components.items())))
    assert {package for package, component in components.items() if component - {package}} == set()


def _reachable(package: str, imports: dict[str, set[str]]) -> set[str]:
    """All packages that a package imports, directly or not."""
    seen: set[str] = set()
    queue = imports[package] - {package}
    while queue:
        name = queue.pop()
        seen.add(name)
        queue |= imports.get(name, set()) - seen
    return seen


@pytest.mark.system
def test_an_upward_import_breaks_a_contract(tmp_path: Path) -> None:
    """Also if it is inside a function."""
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


def imported_paths(graph: grimp.ImportGraph, stage: str) -> set[str]:
    """Paths of what a stage imports, directly or not: packages, and single modules of the root and of stages/."""
    entry = f"befriend.stages.{stage}"
    paths = set()
    for module in graph.find_upstream_modules(entry) | {entry, "befriend.kernels"}:  # the command line loads kernels
        parts = module.split(".")[1:]
        if not parts or parts[0] in NO_OUTPUT:
            continue
        path = "/".join(parts) if parts[0] == "stages" else parts[0]
        paths.add(f"src/befriend/{path}" + ("" if (SRC / path).is_dir() else ".py"))
    return paths


def declared(stage: str) -> set[str]:
    entry = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]
    return {path for path in entry["deps"] if path.startswith("src/")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_what_it_imports(graph: grimp.ImportGraph, stage: str) -> None:
    """A missing dependency would leave outdated outputs, an idle one would run the stage for nothing."""
    assert sorted(declared(stage)) == sorted(imported_paths(graph, stage))


def reruns() -> dict[str, list[str]]:
    """Package -> the stages that run again when it changes."""
    packages = {path.name for path in SRC.iterdir() if (path / "__init__.py").is_file()} - {"stages", "sample"}
    stages: dict[str, list[str]] = {name: [] for name in packages}
    for stage in STAGES:
        for path in declared(stage):
            if not path.endswith(".py"):
                stages[Path(path).name].append(stage)
    return stages


def test_a_change_of_wording_retrains_nothing() -> None:
    table = reruns()
    width = max(map(len, table))
    print(
        "\n".join(
            [
                "changed package | stages that run again",
                *(f"{name:{width}} | {', '.join(stages) or 'none'}" for name, stages in sorted(table.items())),
            ]
        )
    )
    assert table["simulate"] == table["ops"] == table["cli"] == []
    for name in ("validation", "readers", "report", "monitoring", "analysis", "recommendation"):
        assert not {"train_two_tower", "train_stu", "train_ranker", "tokenize", "embed_text"} & set(table[name]), name


def test_the_architecture_page_has_this_table() -> None:
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


def test_files_functions_and_signatures_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in CODE
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert long == {}
    wide = {
        f"{path}: {name}": lines
        for path, name, node in definitions()
        if not isinstance(node, ast.ClassDef) and (lines := _lines(node)) > MAX_FUNCTION_LINES
    }
    assert wide == {}
    signatures = {
        f"{path}: {name}": count
        for path, name, node in definitions()
        if not isinstance(node, ast.ClassDef) and (count := _num_parameters(node)) > MAX_PARAMETERS
    }
    exempt = {name for name in signatures if name.startswith("src/befriend/cli/")} | EXEMPT
    assert signatures.keys() - exempt == set()


EXEMPT = {
    "flows/retrain.py: retrain",  # its parameters are the options of a command line
    "src/befriend/models/stu_model.py: __init__",  # these two are given
    "src/befriend/models/two_tower_model.py: __init__",
}


def _num_parameters(node: ast.AST) -> int:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def _lines(node: ast.AST) -> int:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_one_name_is_one_thing() -> None:
    """No two public classes have the same name, and no two modules or packages."""
    classes: dict[str, set[str]] = defaultdict(set)
    for path, name, node in definitions():
        if isinstance(node, ast.ClassDef) and not name.startswith("_"):
            classes[name].add(path)
    assert {name: sorted(paths) for name, paths in classes.items() if len(paths) > 1} == {}
    modules: dict[str, set[str]] = defaultdict(set)
    for path in CODE:
        name = path.parent.name if path.stem == "__init__" else path.stem
        if name != "__main__":
            modules[name].add(str(path.relative_to(ROOT)))
    same = {name: sorted(paths) for name, paths in modules.items() if len(paths) > 1 and name not in SAME}
    assert same == {}


SAME = {
    "validate": "the stage, and the flow that runs it alone",
    "report": "the stage, and the package that it calls",
}
"""modules that share a name because they are about the same thing"""


def test_every_name_in_the_glossary_exists() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    names = re.findall(r"`(befriend(?:\.\w+)+)` \|$", text, re.MULTILINE)
    assert len(names) > 40
    for name in names:
        pkgutil.resolve_name(name)
