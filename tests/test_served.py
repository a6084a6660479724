"""What is served is what was measured: the lists of an evaluation, asked for as applications and operators ask."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import befriend
from befriend.analysis.parity import count_differing_lists, request_rows
from befriend.api import Befriend, ListConstraints, RecommendOptions, Sampling
from befriend.data.regimes import REGIMES, Regime
from befriend.data.split import read_split
from befriend.evaluation.protocol import EvalQueries, make_eval_queries, make_requests
from befriend.evaluation.run_rankers import EvaluationLists, run_rankers
from befriend.recommendation.request_table import requests_table
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import Rankers
from befriend.retrieval.requests import LIST_DEPTH
from tests.conftest import call

pytestmark = pytest.mark.system  # needs a run of several stages

MODELS: tuple[Any, ...] = ("both", "two-tower", "stu")


@pytest.fixture(scope="module")
def project(trained_project_with_texts: Path) -> Path:
    return trained_project_with_texts


@pytest.fixture(scope="module")
def people(project: Path) -> Befriend:
    return befriend.load(project)


@pytest.fixture(scope="module")
def measured(
    project: Path, people: Befriend
) -> tuple[dict[Regime, EvalQueries], EvaluationLists, dict[str, dict[Any, Any]]]:
    """Questions, the lists that evaluation makes of them, and the scores: model -> (regime, row) -> float32[k]."""
    log = people.log
    models = LoadedModels.load(project / "prepared", project / "models", log)
    recommender = models.recommender(Rankers.read(project / "models" / "ranker"))
    split, histories = read_split(project / "prepared", log), models.activity.histories
    queries = {regime: make_eval_queries(log, split, "test", 25, regime, models.eligible_since) for regime in REGIMES}
    scores: dict[str, dict[Any, Any]] = {model: {} for model in MODELS}
    done = dict.fromkeys(queries, 0)
    for request, _, regimes in make_requests(log, histories, queries):
        ranking = recommender.rank(request, MODELS)
        for regime, rows in regimes:
            for k, row in enumerate(range(rows.start, rows.stop)):
                for model in MODELS:
                    scores[model][regime, done[regime] + k] = ranking.top(model).scores[row]
            done[regime] += rows.stop - rows.start
    return queries, run_rankers(recommender, log, histories, queries, MODELS, "lists"), scores


def same(lists: pl.DataFrame, ids: np.ndarray, scores: np.ndarray, people: Befriend) -> None:
    kept = ids >= 0
    assert people.log.internal_ids(lists["recommended"]).tolist() == ids[kept].tolist()
    assert lists["score"].to_numpy() == pytest.approx(scores[kept], abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_api_gives_the_measured_lists_alone_and_together(model: Any, people: Befriend, measured: Any) -> None:
    queries, lists, scores = measured
    rows = request_rows(people.log, queries).sample(fraction=1, shuffle=True, seed=3)  # in no order of time
    assert set(rows["regime"]) == set(REGIMES) and set(rows["list"]) == {"any", "new"}
    options = RecommendOptions(model, LIST_DEPTH)
    together = people.recommend_requests(rows.drop("row"), options)
    for k, (regime, row) in enumerate(rows.select("regime", "row").iter_rows()):
        ids, score = lists.served[regime][model][row], scores[model][regime, row]
        same(together.filter(request=k), ids, score, people)
        if k % 5 == 0:
            same(people.recommend_requests(rows.drop("row")[k], options), ids, score, people)


def test_a_source_that_was_better_on_validation_is_served(project: Path, people: Befriend, measured: Any) -> None:
    queries = measured[0]
    models = LoadedModels.load(project / "prepared", project / "models", people.log)
    rankers = Rankers.read(project / "models" / "ranker")
    rankers = replace(rankers, served_sources={"new": {"daily": "two-tower"}, "any": {"live": "ppr-x-attention"}})
    recommender = models.recommender(rankers)
    for request, _, regimes in make_requests(people.log, models.activity.histories, queries):
        ranking = recommender.rank(request, ("both", "two-tower"))
        for regime, rows in regimes:
            for row in range(rows.start, rows.stop):
                source = {("new", "daily"): "two-tower", ("any", "live"): "ppr-x-attention"}.get(
                    ("new" if request.excludes_contacts[row] else "any", regime)
                )
                assert ranking.served_source(row) == source
                both = ranking.top("both", 20)
                if source is not None:
                    expected = ranking.lists.ids[source][row, :20]
                    assert np.array_equal(both.ids[row][expected >= 0], expected[expected >= 0])
                    assert (np.diff(both.scores[row][both.ids[row] >= 0]) <= 0).all()
    assert rankers.served_sources != Rankers.read(project / "models" / "ranker").served_sources


@pytest.mark.parametrize("model", MODELS)
def test_a_file_of_requests_gives_them_too(
    model: Any, project: Path, people: Befriend, measured: Any, tmp_path: Path
) -> None:
    queries, lists, scores = measured
    rows = request_rows(people.log, queries)
    moment = pl.from_epoch("at", "s").dt.to_string("iso:strict").alias("at")
    rows.drop("row").with_columns(moment).write_ndjson(tmp_path / "requests.jsonl")
    rows.drop("row").write_parquet(tmp_path / "requests.parquet")
    for name in ("requests.jsonl", "requests.parquet"):
        out = str(tmp_path / "lists.parquet")
        more = ("--requests", str(tmp_path / name), "-k", str(LIST_DEPTH), "--model", model, "--out", out)
        done = call(project, "recommend", *more)
        assert done.returncode == 0, done.stderr
        found = pl.read_parquet(out)
        for k, (regime, row) in enumerate(rows.select("regime", "row").iter_rows()):
            same(found.filter(request=k), lists.served[regime][model][row], scores[model][regime, row], people)


def test_so_does_the_command_for_one_user(project: Path, people: Befriend, measured: Any) -> None:
    queries, lists, scores = measured
    rows = request_rows(people.log, queries).gather_every(11)
    for user, at, filter_at, regime, action, kind, row in rows.iter_rows():
        moments = (datetime.fromtimestamp(second, UTC).isoformat() for second in (at, filter_at))
        arguments = [*zip(("--at", "--filter-at"), moments, strict=True), ("--regime", regime), ("-k", str(LIST_DEPTH))]
        arguments += [("--action", action)] if action else []
        words = [word for pair in arguments for word in pair] + (["--new-only"] if kind == "new" else [])
        done = call(project, "recommend", "--user", str(user), "--json", *words)
        assert done.returncode == 0, done.stderr
        found = pl.DataFrame(json.loads(done.stdout))
        same(found, lists.served[regime]["both"][row], scores["both"][regime, row], people)


@pytest.mark.parametrize("model", MODELS)
def test_a_shorter_list_is_the_head_of_a_longer_one_and_rules_only_leave_people_out(
    model: Any, people: Befriend
) -> None:
    user = people.log.user_ids[int(np.bincount(people.log.actor).argmax())]
    ids = people.log.user_ids.to_list()
    whole = people.recommend([user], k=200, model=model)["recommended"].to_list()
    assert len(whole) > 60
    for k in (1, 5, 10, 50):
        assert people.recommend([user], k=k, model=model)["recommended"].to_list() == whole[:k]
    only = frozenset(ids[::7])
    found = people.recommend([user], k=6, model=model, constraints=ListConstraints(only=only))["recommended"].to_list()
    assert found == [person for person in whole if person in only][:6]
    last = people.recommend([user], k=3, model=model, constraints=ListConstraints(only=frozenset(whole[-3:])))
    assert last["recommended"].to_list() == whole[-3:]  # far behind everybody who was looked at


@pytest.mark.parametrize(
    "constraints",
    [ListConstraints(), ListConstraints(min_age_days=1e-6), ListConstraints(diversity=0.01), ListConstraints(cap=1000)],
    ids=str,
)
def test_rules_see_the_people_whom_the_search_sees(constraints: ListConstraints, people: Befriend) -> None:
    """Somebody who wrote something and has no event stays where no rule speaks of them."""
    silent = people.log.user_ids.filter(pl.Series(people.log.first_seen > people.log.timestamp[-1]))
    assert len(silent)
    users = people.log.user_ids.head(20)
    found = people.recommend(users, k=300, model="two-tower", constraints=constraints)
    assert found.filter(pl.col("recommended").is_in(silent.implode())).height == 20 * len(silent)


@pytest.mark.parametrize("model", MODELS)
def test_what_happens_later_changes_no_list_and_no_reason(
    model: Any, project: Path, people: Befriend, tmp_path: Path
) -> None:
    """As of a moment, a log that ends there gives the same to the last bit as one that goes on."""
    log = people.log
    for event in (700, 1300):
        moment = int(log.timestamp[event])
        cut = shutil.copytree(project / "prepared", tmp_path / str(event))
        for name in ("events.parquet", "texts.parquet"):
            table = pl.read_parquet(cut / name)
            table.filter(pl.col("timestamp") < moment).write_parquet(cut / name)
        then = Befriend(project, prepared=cut)
        requests = pl.concat(
            requests_table(log.user_ids[:6], datetime.fromtimestamp(moment, UTC), regime=regime, new_only=new)
            for regime, new in (("live", True), ("daily", False))
        )
        options = RecommendOptions(model, LIST_DEPTH)
        lists = people.recommend_requests(requests, options)
        assert_frame_equal(then.recommend_requests(requests, options), lists, check_exact=True)
        some = lists.filter(pl.col("rank") <= 3)
        assert then.explain_lists(requests, some, options) == people.explain_lists(requests, some, options)


def test_draws_leave_out_whom_the_rules_leave_out_and_nobody_else(people: Befriend) -> None:
    user, sampling = people.log.user_ids[3], Sampling(temperature=3.0, seed=1)
    drawn = people.recommend([user], k=20, sampling=sampling)["recommended"].to_list()
    left = people.recommend([user], k=10, sampling=sampling, constraints=ListConstraints(exclude=frozenset(drawn[:10])))
    assert left["recommended"].to_list() == drawn[10:]


def test_lists_that_are_drawn_stay_drawn_where_people_have_to_differ(people: Befriend) -> None:
    users = people.log.user_ids[:20]

    def lists(seed: int, diversity: float) -> list[Any]:
        constraints, sampling = ListConstraints(diversity=diversity), Sampling(temperature=3.0, seed=seed)
        return people.recommend(users, k=5, constraints=constraints, sampling=sampling)["recommended"].to_list()

    assert lists(1, 1e-6) == lists(1, 0.0)  # hardly any diversity leaves the draw as it is
    assert lists(1, 0.5) != lists(1, 0.0)
    assert np.mean([a == b for a, b in zip(lists(1, 0.1), lists(2, 0.1), strict=True)]) < 0.5


def test_draws_and_lists_of_different_people_are_those_of_the_request_whoever_else_is_asked_for(
    people: Befriend,
) -> None:
    users = people.log.user_ids[:5]
    for asked in (
        {"sampling": Sampling(temperature=2.0, seed=3)},
        {"constraints": ListConstraints(diversity=0.4)},
        {"constraints": ListConstraints(diversity=0.4), "sampling": Sampling(seed=1)},
    ):
        options: Any = asked
        together = people.recommend(users, k=8, **options)
        alone = [people.recommend([user], k=8, **options) for user in users]
        assert_frame_equal(together, pl.concat(alone))
        shorter = people.recommend(users, k=3, **options)
        assert_frame_equal(shorter, together.filter(pl.col("rank") <= 3))
    drawn = people.recommend(users, k=8, sampling=Sampling(temperature=2.0, seed=4))
    assert not drawn["recommended"].equals(people.recommend(users, k=8)["recommended"])


def test_protocol_lists_are_the_served_ones_without_people_who_have_no_event(people: Befriend, measured: Any) -> None:
    queries, lists, _ = measured
    some = 0
    for regime, q in queries.items():
        cutoff = q.cutoff[q.row_event]
        for model in MODELS:
            for made, served, at in zip(
                lists.protocol[regime][model], lists.served[regime][model], cutoff, strict=True
            ):
                has = people.log.first_seen[served] < at
                left = served[(served >= 0) & has]
                some += int((served >= 0).sum() - len(left))
                assert made[: len(left)].tolist() == left.tolist()
                assert (people.log.first_seen[made[made >= 0]] < at).all()
    assert some  # there are such people on lists


def test_lists_that_differ_are_counted(people: Befriend, measured: Any) -> None:
    queries, lists, _ = measured

    def shortened(table: pl.DataFrame, model: str) -> pl.DataFrame:
        return people.recommend_requests(
            table, RecommendOptions("both", LIST_DEPTH if model == "both" else LIST_DEPTH - 1)
        )

    one = count_differing_lists(people.log, queries, lists.served, [shortened], ["both"], 20, 0)
    assert one == {"requests": 20, "differ": 0}
    other = count_differing_lists(people.log, queries, lists.served, [shortened], ["both", "stu"], 20, 0)
    assert other["requests"] == 40 and 15 < other["differ"] <= 20


def test_threads_at_different_moments_get_the_lists_of_single_calls(project: Path, people: Befriend) -> None:
    log = people.log
    users = log.user_ids[:6]
    ats = [datetime.fromtimestamp(int(log.timestamp[k]), UTC) for k in range(300, 1500, 150)]
    expected = [people.recommend(users, at=at, k=20) for at in ats]
    other, start = befriend.load(project), threading.Barrier(len(ats))

    def ask_(number: int) -> list[pl.DataFrame]:
        start.wait()
        return [other.recommend(users, at=ats[(number + k) % len(ats)], k=20) for k in range(3)]

    with ThreadPoolExecutor(len(ats)) as threads:
        found = list(threads.map(ask_, range(len(ats))))
    for number, lists in enumerate(found):
        for k, one in enumerate(lists):
            assert one.equals(expected[(number + k) % len(ats)])
