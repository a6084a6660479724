"""Stage evaluate: its metrics follow from the lists it writes, and a second run gives the same bytes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure

from befriend import files
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.evaluation_report import draw
from befriend.analysis.metric_tables import headline
from befriend.analysis.paired_comparison import compare_runs
from befriend.data.regimes import REGIMES
from befriend.errors import DataError
from befriend.ops.summary import show
from befriend.readers.data_settings import DataSettings
from befriend.stages import evaluate
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import PARAMS, train_everything, validate_log

pytestmark = pytest.mark.system  # needs a run of several stages

FOLDERS = ("prepared", "models", "reports")


@pytest.fixture(scope="module")
def project(evaluated_project: Path) -> Path:
    return evaluated_project


def test_metrics_follow_from_the_written_lists(project: Path) -> None:
    """Recomputed from the files alone: prepared log, predictions, metrics."""
    events = pl.read_parquet(project / "prepared" / "events.parquet")
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    metrics = files.read_json(project / "reports" / "metrics.json")
    for regime in REGIMES:
        for model in ("popularity", "recency", "adamic-adar", "two-tower", "stu", "both", "boosted"):
            table = pl.read_parquet(project / "reports" / "predictions" / model / f"{regime}.parquet")
            assert table.schema == {"event": pl.Int64, "list": pl.String, "users": pl.List(pl.Int64)}
            new = table.filter(list="new")
            gains, hits, reciprocal_ranks = [], [], []
            for event, users in new.select("event", "users").iter_rows():
                target = ids[events["target_id"][event]]
                rank = users.index(target) + 1 if target in users else math.inf
                gains.append(1 / math.log2(rank + 1) if rank <= 10 else 0)
                hits.append(rank <= 10)
                reciprocal_ranks.append(1 / rank)
            model_metrics = metrics[regime]["new"]["new"][model]
            assert model_metrics["n"] == new.height > 0
            for name, values in (("ndcg@10", gains), ("hit@10", hits), ("mrr@100", reciprocal_ranks)):
                assert model_metrics[name] == pytest.approx(sum(values) / len(values), abs=1e-6)
            assert model_metrics["ndcg@10_low"] <= model_metrics["ndcg@10"] <= model_metrics["ndcg@10_high"]


def test_newcomers_have_metrics_of_their_own(project: Path) -> None:
    """Recomputed from the files alone: newcomers are users whose first event is after the training part."""
    events = pl.read_parquet(project / "prepared" / "events.parquet").with_row_index("event")
    end_of_training = files.read_json(project / "prepared" / "split.json")["t_validation"]
    users = pl.concat([events.select("timestamp", user=side) for side in ("actor_id", "target_id")])
    first_seen = users.group_by("user").agg(pl.col("timestamp").min())
    newcomers = first_seen.filter(pl.col("timestamp") >= end_of_training)
    table = pl.read_parquet(project / "reports" / "predictions" / "both" / "streaming.parquet")
    rows = table.filter(list="new").join(events.with_columns(pl.col("event").cast(pl.Int64)), on="event")
    expected = rows.filter(pl.col("actor_id").is_in(newcomers["user"].implode())).height
    metrics = files.read_json(project / "reports" / "metrics.json")
    assert metrics["streaming"]["new"]["newcomers"]["both"]["n"] == expected > 0


def test_latency_is_recorded_outside_the_metrics(project: Path) -> None:
    latency = files.read_json(project / "runs" / "evaluate.json")["latency"]
    assert set(latency) == {"two-tower", "stu", "both"}
    for milliseconds in latency.values():
        assert 0 < milliseconds["p50"] <= milliseconds["p95"] <= milliseconds["p99"]


def test_the_comparison_of_two_models_agrees_with_their_metrics(project: Path) -> None:
    metrics = files.read_json(project / "reports" / "metrics.json")
    comparison = compare_runs(project, project, "two-tower", "both", max_events=5)
    assert comparison.metrics.height > 12
    for row in comparison.metrics.iter_rows(named=True):
        by_model = metrics[row["regime"]][row["list"]][row["segment"]]
        assert row["n"] == by_model["both"]["n"]
        for metric in ("ndcg@10", "hit@10", "mrr@100"):
            assert row[f"{metric} a"] == pytest.approx(by_model["two-tower"][metric], abs=1e-6)
            assert row[f"{metric} b"] == pytest.approx(by_model["both"][metric], abs=1e-6)
            assert row[f"{metric} low"] <= row[f"{metric} difference"] <= row[f"{metric} high"]
    assert comparison.events.height == 5
    assert comparison.events["change"].abs().is_sorted(descending=True)
    for row in comparison.events.iter_rows(named=True):
        before, after = (0 if (r := row[f"rank_{run}"]) is None or r > 10 else 1 / math.log2(r + 1) for run in "ab")
        assert row["change"] == pytest.approx(after - before, abs=1e-4)


def test_a_run_does_not_differ_from_itself(project: Path) -> None:
    comparison = compare_runs(project, project, "stu")
    assert comparison.events.height == 0
    assert (comparison.metrics["ndcg@10 difference"] == 0).all() and (comparison.metrics["mrr@100 high"] == 0).all()
    with pytest.raises(DataError, match=r"no lists of unknown in .*Models with lists: .*two-tower"):
        compare_runs(project, project, "unknown")


def test_only_events_of_both_runs_are_compared(project: Path, tmp_path: Path) -> None:
    """The other run has evaluated fewer events; those of both are matched by their content."""
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    shutil.copytree(project / "reports" / "predictions", tmp_path / "reports" / "predictions")
    for path in (tmp_path / "reports" / "predictions" / "both").iterdir():
        lists = pl.read_parquet(path)
        lists.filter(pl.col("event") % 2 == 0).write_parquet(path)
    whole, half = compare_runs(project, project, "both"), compare_runs(tmp_path, project, "both")
    num_lists_whole, num_lists_half = (
        dict(comparison.metrics.filter(segment="all").select("regime", "n").iter_rows()) for comparison in (whole, half)
    )
    for regime, count in num_lists_half.items():
        assert 0 < count < num_lists_whole[regime]


def test_decoding_lists_only_eligible_users(project: Path) -> None:
    for metrics in files.read_json(project / "reports" / "stu.json").values():
        assert metrics["invalid"] == 0
        assert metrics["beam_recall"] > 0.9
        assert metrics["lists"] > 0
        levels = [metrics[f"accuracy_{level}"] for level in range(3)]
        assert 0 <= metrics["overall_accuracy"] <= min(levels) <= max(levels) <= 1
        assert 0 < metrics["coverage_beam"] < 1 and 0 < metrics["coverage_sampled"] <= 1


def test_every_model_has_lists_in_every_regime(project: Path) -> None:
    metrics = files.read_json(project / "reports" / "metrics.json")
    for regime in REGIMES:
        models = set(metrics[regime]["any"]["all"])
        assert models == {p.parent.name for p in (project / "reports" / "predictions").rglob(f"{regime}.parquet")}
        counts = {kind: {name: m["both"]["n"] for name, m in metrics[regime][kind].items()} for kind in ("any", "new")}
        assert counts["any"]["all"] == sum(counts["any"].get(k, 0) for k in ("repeat", "reply", "new"))
        assert counts["new"]["new"] == counts["any"]["new"]


def test_the_report_shows_each_regime_and_the_slices(project: Path) -> None:
    folder = project / "reports" / "evaluation"
    report = (folder / "report.md").read_text()
    assert "| model | streaming | live | daily | frozen |" in report
    slices = pl.read_csv(folder / "slices.csv")
    assert set(slices["by"]) == {"segment", "events of the actor", "actor", "target", "contact back"}
    for (_, _), part in slices.filter(list="any", model="popularity").group_by("regime", "by"):
        if part["by"][0] != "segment":  # the slices of each other attribute cover all events
            assert (
                part["n"].sum()
                == slices.filter(regime=part["regime"][0], list="any", by="segment", slice="all", model="popularity")[
                    "n"
                ].item()
            )
    exposure = pl.read_csv(folder / "exposure.csv")
    assert exposure["users_covered"].is_between(0, 1).all()


def test_the_figure_shows_the_best_models_of_each_regime(
    project: Path, tmp_path: Path, figures: dict[str, Figure]
) -> None:
    metrics = files.read_json(project / "reports" / "metrics.json")
    draw(headline(metrics), ["streaming", "daily"], tmp_path / "headline.png", top=3)
    panels = {axes.get_title(): axes for axes in figures["headline.png"].axes}
    assert panels.keys() == {f"{regime}, list {kind}" for regime in ("streaming", "daily") for kind in ("any", "new")}
    for title, axes in panels.items():
        regime, list_kind = title.split(", list ")
        values = [
            cell["ndcg@10"] for cell in metrics[regime][list_kind]["new" if list_kind == "new" else "all"].values()
        ]
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(sorted(values)[-3:])


@pytest.mark.usefixtures("pictures")
def test_a_second_run_gives_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("befriend.analysis.latency.MAX_LISTS", 1)

    def digests() -> dict[str, str]:
        paths = [p for p in (project / "reports").rglob("*") if p.is_file() and "data_docs" not in p.parts]
        return {str(p.relative_to(project)): files.sha256(p) for p in paths}

    folders = (project / name for name in FOLDERS)
    evaluate.run(PARAMS.evaluate, *folders)  # `project` has no pictures
    before = digests()
    evaluate.run(PARAMS.evaluate, project / "prepared", project / "models", project / "reports")
    assert digests() == before


def test_a_log_whose_test_targets_are_all_cold_has_lists_but_no_headline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training_events = [(k % 7, (k + 1 + k // 7 % 5) % 7, k) for k in range(90)]
    events = [*training_events, *((k % 7, 1000 + k, k) for k in range(90, 100))]
    table = pl.DataFrame(events, schema=["actor_id", "target_id", "timestamp"], orient="row").with_columns(
        action=pl.lit("m")
    )
    table.write_parquet(tmp_path / "log")
    rules = ValidateSettings(max_cold_targets=1)
    validate_log(DataSettings(), rules, tmp_path / "log", tmp_path / "prepared", tmp_path / "reports")
    train_everything(tmp_path)
    result = evaluate.run(
        EvaluateSettings(bootstrap=100), tmp_path / "prepared", tmp_path / "models", tmp_path / "reports"
    )
    assert (result.num_events, result.best_models) == (10, {})
    show(tmp_path)
    assert "no evaluated event belongs to this list" in " ".join(capsys.readouterr().out.split())
    metrics = files.read_json(tmp_path / "reports" / "metrics.json")
    assert metrics["streaming"]["any"]["cold"]["popularity"]["n"] == 10
    assert set(metrics["streaming"]["any"]) == {"cold"}
    assert pl.read_parquet(tmp_path / "reports" / "predictions" / "popularity" / "daily.parquet").height == 10


def test_a_split_of_another_log_is_rejected(project: Path, tmp_path: Path) -> None:
    for file in (project / "prepared").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    split = files.read_json(tmp_path / "split.json")
    files.write_json(tmp_path / "split.json", split | {"lineage": "0" * 64})
    with pytest.raises(DataError, match="made with another log"):
        evaluate.run(EvaluateSettings(), tmp_path, project / "models", tmp_path / "reports")
    (tmp_path / "split.json").unlink()
    with pytest.raises(DataError, match="Run `dvc repro validate` first"):
        evaluate.run(EvaluateSettings(), tmp_path, project / "models", tmp_path / "reports")
