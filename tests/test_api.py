"""befriend from Python: the lists of the command line, reasons that hold in the log, vectors to take elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import befriend
from befriend.api import Befriend, Sampling
from befriend.data.activity import DAY
from befriend.errors import CallError
from befriend.retrieval.explain import Event, Evidence, sentences
from tests.conftest import call
from tests.stages.conftest import small_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def people(project: Path) -> Befriend:
    return befriend.load(project)


def test_lists_are_those_of_the_command_line(project: Path, people: Befriend) -> None:
    user = people.log.user_ids[int(np.bincount(people.log.actor).argmax())]
    for model in ("two-tower", "stu", "both"):
        found = people.recommend([user], k=7, new_only=True, model=model)  # type: ignore[arg-type]
        shown = call(project, "recommend", "--user", str(user), "-k", "7", "--new-only", "--model", model, "--json")
        assert found["recommended"].to_list() == [row["recommended"] for row in json.loads(shown.stdout)]
    drawn = people.recommend([user], k=5, sampling=Sampling(temperature=2.0, seed=3))
    assert drawn["recommended"].n_unique() == 5


def evidence_of(people: Befriend, user: int, persons: list[int], model: str = "both") -> list[Evidence]:
    kept: list[Evidence] = []

    def keep(found: Evidence) -> list[str]:
        kept.append(found)
        return sentences(found)

    people.explain(user, persons, model=model, wording=keep)  # type: ignore[arg-type]
    return kept


@pytest.mark.parametrize("model", ["two-tower", "stu"])
def test_all_that_is_said_is_in_the_log(people: Befriend, model: str) -> None:
    log, ids = people.log, people.log.user_ids.to_list()
    events = list(zip(log.actor.tolist(), log.target.tolist(), log.is_contact, log.timestamp.tolist(), strict=True))
    for user in ids[:6]:
        asked = [person for person in ids if person != user][:10]
        for e in evidence_of(people, user, asked, model):
            u, p = ids.index(e.user), ids.index(e.person)
            done = [t for a, b, contact, t in events if contact and (a, b) == (u, p)]
            received = [t for a, b, contact, t in events if contact and (a, b) == (p, u)]
            assert (e.done, e.received) == (len(done), len(received))
            assert e.last == max([*done, *received], default=None)
            circles = [{a + b - x for a, b, contact, _ in events if contact and x in (a, b)} for x in (u, p)]
            assert {ids.index(c) for c in e.common} == circles[0] & circles[1]
            since = e.moment - 7 * DAY
            assert e.lately == sum(contact and b == p and t >= since for _, b, contact, t in events)
            one, other = people.models.stus[u].tolist(), people.models.stus[p].tolist()
            assert one[: e.prefix] == other[: e.prefix] and (e.prefix == 3 or one[e.prefix] != other[e.prefix])
            for event in e.carried:
                o = ids.index(event.other)
                pair = (o, u) if event.received else (u, o)
                found = np.flatnonzero(
                    (log.actor == pair[0]) & (log.target == pair[1]) & (log.timestamp == event.second)
                )
                assert event.action in {log.actions[log.action[k]] for k in found}


def test_sentences_name_nothing_but_the_evidence() -> None:
    e = Evidence(
        user=1, person=42, moment=100 * DAY, common=(7, 8, 9, 10), done=1, received=3, last=98 * DAY,
        last_active=100 * DAY - 3 * 3600, lately=2, prefix=2, tokens=3,
        carried=(Event("message", 8, True, 99 * DAY, 0.4),),
    )  # fmt: skip
    assert sentences(e) == [
        "42 and you have been in contact, once from you, 3 times to you, last 2 days ago.",
        "You have 4 contacts in common: 7, 8, 9 and 1 more.",
        "You lie close in the network: your STUs begin with the same 2 of 3 tokens.",
        "42 was last active 3 hours ago, and was contacted 2 times within a week.",
        "Your history points there: message from 8 to you, 1 day ago.",
    ]
    nothing = Evidence(1, 42, 100 * DAY, (), 0, 0, None, 50 * DAY, 0, 0, 3, ())
    assert sentences(nothing) == ["Nothing in the log ties you to 42 yet."]
    assert set(re.findall(r"\d+", " ".join(sentences(e)))) <= {"42", "3", "2", "4", "7", "8", "9", "1"}


def test_an_event_carries_who_falls_without_it(people: Befriend) -> None:
    """Leaving events out one by one by hand gives the weights that are told."""
    import torch

    from befriend.evaluation.protocol import Request
    from befriend.retrieval.explain import LEAST, influences

    log = people.log
    user = int(np.bincount(log.actor).argmax())
    one, zero = np.array([user]), np.zeros(2, np.int64)
    moment = int(log.timestamp[-1]) + 1
    request = Request(one, np.array([log.num_events]), np.array([moment]), np.array([0]), zero, zero[:0], 0)
    persons = np.array([k for k in range(12) if k != user])
    for ranker in people.models.rankers():
        model = ranker.retriever.model
        with torch.no_grad():  # so that histories matter
            torch.manual_seed(0)
            kept = {name: p.clone() for name, p in model.named_parameters()}
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))
            found = influences(ranker.retriever, request, persons)
            for name, p in model.named_parameters():
                p.copy_(kept[name])
        assert any(found)
        for events in found:
            weights = [event.weight for event in events]
            assert weights == sorted(weights, reverse=True) and all(w >= LEAST for w in weights)


def test_nothing_is_said_of_whom_nothing_is_known(people: Befriend) -> None:
    known = people.log.user_ids[0]
    with pytest.raises(CallError, match="nothing is known of 987654321"):
        people.explain(known, [987654321])
    with pytest.raises(CallError, match="nothing is known of 987654321"):
        people.explain(987654321, [known])


def test_reasons_on_the_command_line(project: Path, people: Befriend) -> None:
    user = str(people.log.user_ids[3])
    rows = json.loads(call(project, "recommend", "--user", user, "-k", "3", "--explain", "--json").stdout)
    assert all(row["why"] for row in rows)
    shown = call(project, "recommend", "--user", user, "-k", "3", "--explain").stdout
    assert "why" in shown


def test_vectors_and_stus_of_everyone(project: Path, people: Befriend, tmp_path: Path) -> None:
    done = call(project, "export", str(tmp_path / "vectors.parquet"))
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "vectors.parquet")
    assert table["user_id"].to_list() == people.log.user_ids.to_list()
    assert table["vector"].to_numpy().shape == (people.log.num_users, 8)
    stus = pl.read_parquet(project / "models" / "tokens" / "table.parquet")
    assert np.array_equal(table["stu"].to_numpy()[: stus.height], stus.drop("user_id").to_numpy())
