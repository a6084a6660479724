"""`befriend doctor`: what is missing and what to type, from small files of the project and of the system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from befriend import files, layout
from befriend.ops import machine
from befriend.ops.project_state import describe_log, missing_outputs, outdated_stages, unfinished_stage
from tests.cli.small_project import make_project
from tests.conftest import call

DVC_YAML = """
stages:
  validate: {cmd: befriend validate, deps: [data], params: [data], outs: [prepared/events.parquet]}
  tokenize: {cmd: befriend tokenize, deps: [prepared/events.parquet], params: [tokenize], outs: [models/tokens]}
"""
DVC_LOCK = """
stages:
  validate:
    deps: [{path: data, md5: a1}, {path: prepared/forgotten.txt, md5: d41d8cd98f00b204e9800998ecf8427e}]
    params: {params.yaml: {data: {format: csv}}}
    outs: [{path: prepared/events.parquet, md5: b1}]
  tokenize:
    deps: [{path: prepared/events.parquet, md5: b1}]
    params: {params.yaml: {tokenize: {seed: 0}}}
    outs: [{path: models/tokens, md5: c1}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a run that is up to date."""
    root = make_project(tmp_path / "project")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "dvc.lock").write_text(DVC_LOCK)
    (root / "params.yaml").write_text("data: {format: csv}\ntokenize: {seed: 0}\n")
    (root / "data.dvc").write_text("deps: [{path: \"s3://bucket/log\"}]\nouts: [{path: data, md5: a1}]\n")
    (root / "prepared" / "forgotten.txt").touch()
    return root


def diagnose(project: Path) -> tuple[int, dict[str, Any]]:
    done = call(project, "doctor", "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_complete_run_lacks_only_a_champion(project: Path) -> None:
    code, diagnosis = diagnose(project)
    assert code == 0
    assert diagnosis["project"]["run"] == {"complete": True, "outdated": {}}
    assert diagnosis["project"]["log"]["source"] == "s3://bucket/log"
    assert [(row["remedy"], row["is_needed"]) for row in diagnosis["missing"]] == [
        ("befriend gate, then befriend promote", False)
    ]
    text = call(project, "doctor").stdout
    for part in ("befriend   ", "torch ", "cores usable", "GB free here", "2 events of 10 users", "champion   none"):
        assert part in text


@pytest.mark.parametrize(
    ("path", "text", "outdated"),
    [
        ("data.dvc", "outs: [{path: data, md5: a2}]", {"validate": "data has changed"}),
        (
            "params.yaml",
            "data: {format: csv}\ntokenize: {seed: 1}",
            {"tokenize": "section tokenize of params.yaml has changed"},
        ),
        ("prepared/forgotten.txt", "digest\n", {"validate": "prepared/forgotten.txt has changed"}),
        ("dvc.lock", DVC_LOCK.replace("outs: [{path: prepared/events.parquet, md5: b1}]", "outs: []"), {}),
        (
            "dvc.lock",
            DVC_LOCK.replace("outs: [{path: prepared/events.parquet, md5: b1}]", "outs: [{path: prepared/events.parquet, md5: b2}]"),
            {"tokenize": "prepared/events.parquet has changed"},
        ),
        ("dvc.lock", "stages: {}", {"validate": "it has not run yet", "tokenize": "it has not run yet"}),
    ],
)
def test_stages_that_are_out_of_date(project: Path, path: str, text: str, outdated: dict[str, str]) -> None:
    assert outdated_stages(project) == {}
    (project / path).write_text(text)
    assert outdated_stages(project) == outdated
    code, diagnosis = diagnose(project)
    assert (code, diagnosis["project"]["run"]["outdated"]) == (0, outdated)
    assert ("make run" in [row["remedy"] for row in diagnosis["missing"]]) == bool(outdated)


def test_what_is_needed_gives_exit_code_1_and_a_remedy(project: Path) -> None:
    files.remove(project / layout.RANKER)
    files.write_json(
        project / "runs" / "train_ranker.json",
        {"stage": "train_ranker", "started": "2026-01-01", "status": "failed", "error": "the disk is full"},
    )
    assert missing_outputs(project) == [layout.RANKER]
    assert unfinished_stage(project) == "stage train_ranker failed: the disk is full"
    done = call(project, "doctor")
    assert done.returncode == 1
    assert (
        "missing: the run is not complete: there is no models/ranker; stage train_ranker failed: the disk is full\n"
        "  -> make run" in done.stdout
    )
    (project / "params.yaml").write_text("tokenize: {seed: x}")
    assert "tokenize.seed: must be a whole number (found 'x').\n  -> correct params.yaml" in call(project, "doctor").stdout
    (project / "params.yaml").write_text("")
    (project / "data.dvc").write_text("outs: [")
    assert "missing: data.dvc is not valid YAML" in call(project, "doctor").stdout
    for path in ("data", "data.dvc"):
        files.remove(project / path)
    assert describe_log(project) is None
    assert "missing: the project has no log\n  -> befriend use SOURCE" in call(project, "doctor").stdout


def test_memory_is_that_of_the_container_if_it_is_limited(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:       8000 kB\nMemFree:        1000 kB\nMemAvailable:   6000 kB\n")
    assert machine.memory(meminfo, limit) == {"total": 8_192_000, "available": 6_144_000}
    limit.write_text("max\n")
    assert machine.memory(meminfo, limit)["total"] == 8_192_000
    limit.write_text("7000000\n")
    assert machine.memory(meminfo, limit) == {"total": 7_000_000, "available": 6_144_000}


def test_versions_are_those_of_the_packages() -> None:
    import torch

    assert machine.package_version("torch") == torch.__version__
    assert machine.describe_cuda()["built_for"] == torch.version.cuda
    assert machine.package_version("no-such-package") is None
    assert machine.missing_packages() == [] and machine.missing_programs() == []


@pytest.mark.parametrize("content", [b"", b"PAR1 and its end is missing"])
@pytest.mark.parametrize("path", ["prepared/users.parquet", "reports/metrics.json"])
def test_damaged_outputs_are_found(path: str, content: bytes, project: Path) -> None:
    (project / path).write_bytes(content)
    done = call(project, "doctor")
    assert done.returncode == 1
    assert f"missing: {path} is damaged\n  -> rm {path}, then make run\n" in done.stdout


def test_refused_log_is_to_be_corrected_first(project: Path) -> None:
    validation = json.loads((project / "reports" / "validation.json").read_text())
    (project / "reports" / "validation.json").write_text(json.dumps(validation | {"passed": False}))
    assert "missing: the log was refused\n  -> correct the log, or params.yaml" in call(project, "doctor").stdout
    (project / "reports" / "metrics.json").unlink()
    assert "the log was refused, and nothing was trained" in call(project, "summary").stderr
