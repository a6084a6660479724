"""A wrong call and a light command answer at once: they import neither PyTorch nor anything else that takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.small_project import make_project

STAGES = (
    "validate",
    "embed-text",
    "tokenize",
    "train-two-tower",
    "train-stu",
    "train-ranker",
    "evaluate",
    "cluster",
    "report",
)
SLOW = {
    "torch",
    "lightgbm",
    "sklearn",
    "sentence_transformers",
    "great_expectations",
    "prefect",
    "matplotlib",
    "pandera",
    "pandas",
}
TABLES = {"polars", "numpy", "pyarrow"}
"""packages that take a fifth of a second each; calls that read a table need polars"""

CALLS_WITHOUT_TABLES: dict[str, int] = {
    "--version": 0,
    "--help": 0,
    "recommend --help": 0,
    "settings": 0,
    "settings train_stu.epochs --json": 0,
    "settings nothing": 2,
    "champion": 0,
    "doctor": 0,
    "rollback": 2,
    "recommend": 2,
    "recommend --user 10 --all": 2,
    "recommend --user 10 --at 2024-13-01": 2,
    "recommend --user 10 --filter-at soon": 2,
    "recommend --user 10 --regime frozen": 2,
    "recommend --user 10 --regime streaming": 2,
    "recommend --user 10 --regime weekly": 2,
    "recommend --user 10 --model tower": 2,
    "recommend --user 10 -k 0": 2,
    "recommend --user 10 --clusters --model stu": 2,
    "recommend --all": 2,
    "recommend --user 10 --run nowhere": 2,
    "recommend --user 10 --newest": 2,
    "export prepared": 2,
    "gate --params nowhere": 2,
    "drift": 2,
    "drift --params nowhere": 2,
    "promote": 1,
    "promote --params nowhere": 2,
    "use": 2,
    "use nowhere": 2,
    "use x --unit min": 2,
    "use x --text-column text": 2,
    "simulate --out x --size huge": 2,
    "simulate --out x --users 0": 2,
    "text similar 10 --run nowhere": 2,
    "text demo": 2,
    **{f"{stage} --set nothing=1": 2 for stage in STAGES},
    **{f"{stage} --params nowhere": 2 for stage in STAGES},
    "validate --source nowhere": 2,
}
"""call in a project -> exit code"""
CALLS_WITH_TABLES: dict[str, int] = {
    "recommend --user 100": 2,
    "recommend --user 10 --action poke": 2,
    "recommend --user 10 --at 1999-01-01": 1,
    "recommend --user 10 --same town": 2,
    "recommend --users nowhere.txt": 2,
    "recommend --requests nowhere.jsonl": 2,
    "recommend --user 10 --only nowhere.txt": 2,
    "tokens show 100": 2,
    "tokens like 10 --prefix 3": 2,
    "tokens assign nowhere --out x": 2,
    "text similar 100": 2,
    "text infer 10 hiking": 2,
    "forget 100": 2,
    "summary": 0,
    "compare nowhere": 2,
    "compare .": 2,
}
RUN_CALLS = """
import contextlib, io, json, sys
from befriend.cli.main import main

answers = {}
for call in json.load(sys.stdin):
    sys.argv, code, output = ["befriend", *call.split()], 0, io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    answers[call] = code, output.getvalue(), sorted(name for name in sys.modules if "." not in name)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("small") / "project")


def run_in_one_process(project: Path, calls: list[str]) -> dict[str, Any]:
    """call -> (exit code, output, packages imported until then), of a new process that makes the calls one by one."""
    process = subprocess.run(
        [sys.executable, "-c", RUN_CALLS], cwd=project, input=json.dumps(calls), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    ("calls", "forbidden"),
    [(CALLS_WITHOUT_TABLES, SLOW | TABLES), (CALLS_WITH_TABLES, SLOW)],
    ids=["without tables", "with tables"],
)
def test_answers_without_slow_imports(project: Path, calls: dict[str, int], forbidden: set[str]) -> None:
    answers = run_in_one_process(project, list(calls))
    assert {call: code for call, (code, _, _) in answers.items()} == calls
    assert {call: found for call, (_, _, names) in answers.items() if (found := sorted(forbidden & set(names)))} == {}
    for call, (code, output, _) in answers.items():
        assert output and "Traceback" not in output, call
        assert "loading" not in output, call
        if code == 2:
            assert output.startswith("befriend: ") or "Usage: befriend" in output, call


def cpu_seconds(arguments: list[str], folder: Path, runs: int = 3) -> float:
    """The shortest processor time of several runs of Python, which other processes on the machine hardly change."""
    times = []
    for _ in range(runs):
        with subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0  # it has been waited for
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


@pytest.mark.system
def test_answers_take_a_small_multiple_of_the_time_that_python_needs_to_start(project: Path) -> None:
    """PyTorch alone takes a multiple of 100 and more."""
    start = cpu_seconds(["-c", "pass"], project)
    ratios = {
        call: cpu_seconds(["-m", "befriend.cli", *call.split()], project) / start
        for call in ("recommend", "recommend --user 10 --at x", "train-stu --set x=1", "settings", "champion")
    }
    print(f"a multiple of {start:.3f} s:", ratios)
    assert max(ratios.values()) < 45
    slower = cpu_seconds(["-m", "befriend.cli", "recommend", "--user", "100"], project) / start
    print("with a table:", slower)
    assert slower < 70
    assert cpu_seconds(["-c", "import torch"], project, 1) / start > 70
