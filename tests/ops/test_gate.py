"""Champion and challenger on the same events, on real runs: what the gate says follows from their lists."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend import files, layout
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.paired_comparison import compare_runs
from befriend.api import load
from befriend.config import Params
from befriend.data.erasure import erasure_digest, read_erased
from befriend.errors import CallError, DataError
from befriend.monitoring.monitoring_settings import DriftSettings, GateSettings
from befriend.objectives.cluster_settings import ClusterSettings
from befriend.ops import drift_check as drift
from befriend.ops import forget_people as forget
from befriend.ops import gate
from befriend.ops.champion_replay import replay_champion
from befriend.ops.registry import champion, promote
from befriend.ops.serve_lists import served_run
from befriend.readers.data_settings import DataSettings
from befriend.simulate.network import write
from befriend.simulate.network_settings import SimulateSettings
from befriend.stages import cluster, evaluate
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import embed, train_everything, validate_log

pytestmark = pytest.mark.system  # needs a run of every stage

EVALUATE = EvaluateSettings(events=250, bootstrap=100, regimes=["streaming", "daily"])
PARAMS = Params(evaluate=EVALUATE, gate=GateSettings(drift="severe", fall=0.9, floor=0.3), drift=DriftSettings())
CLUSTER = ClusterSettings(epochs=1, clusters=4, events_per_batch=128, validation_events=30, threads=1)


def run(root: Path, events: int) -> None:
    """All stages on the first events of the log."""
    table = pl.read_parquet(root / "log" / "events.parquet")[:events]
    table.write_parquet(root / "source")
    data = DataSettings(roles={"view": "signal", "block": "exclude"})
    folders = root / "prepared", root / "models", root / "reports"
    validate_log(data, ValidateSettings(), root / "source", root / "prepared", root / "reports")
    embed(root)
    train_everything(root)
    evaluate.run(EVALUATE, *folders)
    cluster.run(CLUSTER, *folders, root / ".checkpoints")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion of the first 2,400 events, and a run of 3,000 beside it."""
    root = tmp_path_factory.mktemp("served")
    write(SimulateSettings(users=120, events=3000, seed=1), root / "log")
    run(root, 2400)
    decision = gate.decide(root, PARAMS)
    assert (decision["verdict"], decision["champion"]) == ("promote", None)
    promote(root, decision, keep=5)
    assert gate.decide(root, PARAMS)["verdict"] == "unchanged"
    run(root, 3000)
    return root


@pytest.fixture(scope="module")
def decision(served: Path) -> dict[str, Any]:
    return gate.decide(served, PARAMS)


def test_each_rule_says_what_was_found_and_what_is_required(decision: dict[str, Any], served: Path) -> None:
    rules = {rule["name"]: rule for rule in decision["rules"]}
    parts = ("list new, streaming", "list new, daily", "list any, streaming", "list any, daily")
    names = {
        "validation",
        "figures",
        "served as measured",
        "not taken back",
        "drift",
        *(f"{rule}, {part}" for rule in ("floor", "level") for part in parts),
    }
    names |= {*parts, "newcomers, list new, streaming", "newcomers, list new, daily"}
    assert rules.keys() == names
    assert decision["verdict"] == ("promote" if all(rule["passed"] for rule in rules.values()) else "refuse")
    told = (served / layout.GATE / "decision.md").read_text()
    assert all(f"| {name} |" in told and rules[name]["found"] in told for name in names)


def test_the_champion_is_measured_on_the_newest_events_with_todays_histories(
    served: Path, decision: dict[str, Any], tmp_path: Path
) -> None:
    """The challenger's side of the comparison is its own evaluation; the champion's are lists for the same events."""
    now = champion(served)
    assert now is not None
    replay_champion(now.folder, served / "prepared", EVALUATE, tmp_path / "again")
    figures = compare_runs(tmp_path / "again", served, "both").figures
    metrics = files.read_json(served / layout.METRICS)
    for row in figures.filter(list="new", segment="new").iter_rows(named=True):
        cell = metrics[row["regime"]]["new"]["new"]["both"]
        assert row["n"] == cell["n"] > 0
        assert row["ndcg@10 b"] == pytest.approx(cell["ndcg@10"], abs=1e-6)
        rule = next(r for r in decision["rules"] if r["name"] == f"list new, {row['regime']}")
        assert rule["found"].startswith(f"{row['ndcg@10 b']:.4f} against {row['ndcg@10 a']:.4f}")


def test_a_clear_loss_is_refused(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The challenger's lists are turned around: every list ends with whom it should begin with."""
    lists = served / "reports" / "predictions" / "both" / "streaming.parquet"
    sound = lists.read_bytes()
    try:
        pl.read_parquet(lists).with_columns(pl.col("users").list.reverse()).write_parquet(lists)
        refused = gate.decide(served, PARAMS)
    finally:
        lists.write_bytes(sound)
    failed = {rule["name"] for rule in refused["rules"] if not rule["passed"]}
    assert refused["verdict"] == "refuse" and "list new, streaming" in failed


def test_floor_level_and_drift_bind(served: Path) -> None:
    strict = GateSettings(floor=5, fall=0, drift="ok")
    limits = DriftSettings(ks_warning=1e-6, ks_severe=2e-6, share_warning=1e-6, share_severe=2e-6)
    files.remove(served / layout.DRIFT)
    params = Params(evaluate=EVALUATE, gate=strict, drift=limits)
    failed = {rule["name"] for rule in gate.decide(served, params)["rules"] if not rule["passed"]}
    assert "floor, list new, daily" in failed
    files.remove(served / layout.DRIFT)


@pytest.mark.parametrize("found", [{"requests": 300, "differ": 1}, None])
def test_one_list_that_is_served_otherwise_than_measured_is_too_many(
    served: Path, found: dict[str, int] | None
) -> None:
    path = served / layout.METRICS
    sound = path.read_text()
    try:
        files.write_json(path, files.read_json(path) | {"served": found})
        refused = gate.decide(served, PARAMS)
    finally:
        path.write_text(sound)
    rule = next(rule for rule in refused["rules"] if rule["name"] == "served as measured")
    assert refused["verdict"] == "refuse" and not rule["passed"]
    assert rule["found"] == ("1 of 300 differ" if found else "no list was checked")


def test_figures_of_other_models_judge_nothing(served: Path) -> None:
    weights = served / "models" / "stu" / "weights.safetensors"
    sound = weights.read_bytes()
    try:
        weights.write_bytes(sound + b" ")
        failed = {rule["name"] for rule in gate.decide(served, PARAMS)["rules"] if not rule["passed"]}
    finally:
        weights.write_bytes(sound)
    assert "figures" in failed


def test_logs_that_cannot_be_compared_are_refused_with_a_reason(served: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(served, root, symlinks=True)
    users = root / "prepared" / "users.parquet"
    pl.read_parquet(users).with_columns(pl.col("user_id").cast(pl.String)).write_parquet(users)
    files.remove(root / layout.DRIFT)
    rules = {
        rule["name"]: rule for rule in gate.decide(root, PARAMS.model_copy(update={"gate": GateSettings()}))["rules"]
    }
    assert not rules["drift"]["passed"] and "they cannot be compared" in rules["drift"]["found"]
    assert not rules["against the champion"]["passed"]


def test_a_decision_is_of_one_run_beside_one_champion(served: Path) -> None:
    gate.decide(served, PARAMS)
    assert gate.read(served)["champion"] == 1
    events = served / "prepared" / "events.parquet"
    sound = events.read_bytes()
    pl.read_parquet(events)[:-1].write_parquet(events)
    with pytest.raises(DataError, match="Run `befriend gate` first"):
        gate.read(served)
    events.write_bytes(sound)


def test_the_champion_may_look_at_newer_events(served: Path) -> None:
    now = champion(served)
    assert now is not None
    with contextlib.chdir(served):
        own, newest = served_run(None), served_run(None, newest=True)
        lists = newest.recommend(newest.log.user_ids, k=5)
    assert (own.log.num_events, newest.log.num_events) == (2400, 3000)
    assert (
        lists["last_active"].max()
        > pl.from_epoch(pl.Series([int(own.log.timestamp[-1])]), "s").dt.replace_time_zone("UTC")[0]
    )
    assert newest.models.two_tower.model.state_dict().keys() == own.models.two_tower.model.state_dict().keys()


def test_drift_of_events_that_came_since(served: Path) -> None:
    now = champion(served)
    assert now is not None
    told = drift.measure(served, now, DriftSettings())
    assert told["compared"].startswith("600 events since")
    assert set(told["measures"]) >= {"actions", "first tokens", "contacts a user", "answered pairs"}
    assert (served / layout.DRIFT / "drift.png").stat().st_size > 5_000


def test_somebody_forgotten_is_nowhere_at_once_and_leaves_no_trace_after_the_next_run(
    served: Path, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    shutil.copytree(served, root, symlinks=True)
    people = load(root / layout.CHAMPION)
    lists = people.recommend(people.log.user_ids, k=5)
    gone = lists["recommended"].value_counts(sort=True)["recommended"][0]
    lists.write_parquet(root / layout.LISTS)
    assert "runs/lists.parquet" in forget.traces(root, str(gone))
    with pytest.raises(CallError, match="there is no user with the id 999999"):
        forget.forget(root, ["999999"])

    forget.forget(root, [str(gone)])
    for folder in (root, root / layout.CHAMPION):
        left = load(folder)
        assert read_erased(folder / layout.PREPARED) == {erasure_digest(gone)}
        again = left.recommend(left.log.user_ids, k=50)
        assert gone not in again["recommended"].to_list()
        assert not again.filter(user=gone, known=True).height
        assert gone not in left.vectors()["user_id"].to_list()
    assert "runs/lists.parquet" not in forget.traces(root, str(gone))

    run(root, 3000)
    assert forget.traces(root, str(gone)) == []
    forget.prove(root, [str(gone)])
    assert gate.decide(root, PARAMS)["champion"] == 1  # the champion's models still fit, with numbers that moved
    with pytest.raises(CallError, match="traces are left"):
        forget.prove(root, [str(people.log.user_ids[5])])
