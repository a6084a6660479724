"""The graph of the stages, as dvc.yaml has it."""

from __future__ import annotations

from pathlib import Path

from tasks.stage_graph import read_stage_graph, with_dependents

DVC_YAML = """
stages:
  last: {cmd: x, deps: [models/b/part.json, other.json], outs: [report]}
  first: {cmd: x, deps: [data, code.py], outs: [models/a, {split.json: {cache: false}}]}
  second: {cmd: x, deps: [models/a], outs: [models/b], metrics: [{other.json: {cache: false}}]}
  alone: {cmd: x, deps: [code.py]}
"""


def test_a_stage_depends_on_those_whose_outputs_it_reads_in_whatever_order_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    graph = read_stage_graph(tmp_path / "dvc.yaml")
    assert graph == {
        "data.dvc": (), "last": ("second",), "first": ("data.dvc",), "second": ("first",), "alone": ()
    }  # fmt: skip
    assert with_dependents(["second"], graph) == {"last": ("second",), "second": ()}
    assert with_dependents([], graph) == {}


def test_both_models_can_be_trained_at_the_same_time_and_the_report_comes_last() -> None:
    graph = read_stage_graph(Path("dvc.yaml"))
    assert "train_two_tower" not in graph["train_stu"] and "train_stu" not in graph["train_two_tower"]
    assert set(with_dependents(["validate"], graph)) == set(graph) - {"data.dvc"}
    assert set(graph["report"]) >= {"evaluate", "cluster", "validate"}
