"""The simulator: each pattern is in the events, and its setting changes its strength."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

import befriend.sample
from befriend.errors import SettingsError
from befriend.simulate.network import ACTIONS, simulate, write
from befriend.simulate.network_settings import PROFILES, SimulateSettings

DAY = 86_400
SMALL: dict[str, Any] = {"users": 300, "events": 4000, "communities": 10}


@cache
def network(**changes: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    return simulate(SimulateSettings(**{**SMALL, **changes}))


def events(action: str, **changes: Any) -> pl.DataFrame:
    return network(**changes)[0].filter(pl.col("action") == action)


def pair_columns() -> list[pl.Expr]:
    return [
        pl.min_horizontal("actor_id", "target_id").alias("lower"),
        pl.max_horizontal("actor_id", "target_id").alias("higher"),
    ]


def join_answers(questions: pl.DataFrame, replies: pl.DataFrame) -> pl.DataFrame:
    """Each event, of distinct pairs, with the timestamp `answered` of the event in the opposite direction, or null."""
    reversed_replies = replies.select(actor_id="target_id", target_id="actor_id", answered="timestamp")
    return questions.join(reversed_replies, on=["actor_id", "target_id"], how="left", maintain_order="left")


# -- the tables


def test_equal_settings_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for folder, seed in (("first", 0), ("second", 0), ("third", 1)):
        write(SimulateSettings(**SMALL, seed=seed), tmp_path / folder)
    for name in ("events.parquet", "truth.parquet"):
        first, second, third = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second", "third"))
        assert first == second != third


@pytest.mark.parametrize("size", [(600, 8000, 180), (2000, 1000, 30), (10, 500, 2), (50, 10, 1)])
def test_a_network_has_the_requested_numbers_of_events_users_and_days(size: tuple[int, int, int]) -> None:
    users, count, days = size
    log, truth = simulate(SimulateSettings(users=users, events=count, days=days, communities=5))
    assert (log.height, truth.height, truth["user_id"].n_unique()) == (count, users, users)
    assert log["timestamp"].is_sorted()
    start = SimulateSettings().start
    assert start < log["timestamp"].min() and log["timestamp"].max() <= start + days * DAY
    assert set(log["actor_id"]) | set(log["target_id"]) <= set(truth["user_id"])
    assert (log["actor_id"] != log["target_id"]).all()


def test_the_tables_have_their_documented_types() -> None:
    log, truth = network()
    assert log.schema == {"actor_id": pl.Int64, "action": pl.String, "target_id": pl.Int64, "timestamp": pl.Int64}
    assert truth.schema == {"user_id": pl.Int64, "community": pl.Int32, "joined": pl.Int64}
    assert log["action"].unique(maintain_order=True).sort().to_list() == sorted(ACTIONS)


def test_events_span_the_requested_days_and_include_almost_all_users() -> None:
    log, truth = network()
    assert log["timestamp"].max() - log["timestamp"].min() > 178 * DAY
    assert len(set(log["actor_id"]) | set(log["target_id"])) > 0.98 * truth.height


def test_ids_do_not_depend_on_when_users_joined() -> None:
    truth = network()[1]
    assert truth["user_id"].max() > 5 * truth.height
    assert abs(np.corrcoef(truth["user_id"], truth["joined"])[0, 1]) < 0.1


# -- who meets whom


def share_within_community(**changes: Any) -> float:
    truth = network(**changes)[1]
    community = dict(truth.select("user_id", "community").iter_rows())
    pairs = events("request", **changes).select("actor_id", "target_id").iter_rows()
    return float(np.mean([community[a] == community[b] for a, b in pairs]))


def test_homophily_raises_the_share_of_requests_within_a_community() -> None:
    shares = network()[1]["community"].value_counts()["count"] / SMALL["users"]
    chance = float((shares**2).sum())
    low, middle, high = (share_within_community(homophily=homophily) for homophily in (0.0, 0.4, 0.9))
    assert low == pytest.approx(chance, abs=0.06)
    assert low < middle < high
    assert share_within_community() > 4 * chance


def share_with_common_contact(**changes: Any) -> float:
    """Share of requests between users who had a common contact (by accepted requests) before."""
    contacts: dict[int, set[int]] = {}
    hits, requests = 0, 0
    for actor, action, target, _ in network(**changes)[0].iter_rows():
        of_actor, of_target = contacts.setdefault(actor, set()), contacts.setdefault(target, set())
        if action == "request" and of_actor and of_target:
            requests += 1
            hits += not of_actor.isdisjoint(of_target)
        elif action == "accept":
            of_actor.add(target)
            of_target.add(actor)
    return hits / requests


def test_closure_raises_the_share_of_requests_between_users_with_a_common_contact() -> None:
    low, middle, high = (share_with_common_contact(closure=closure) for closure in (0.0, 0.4, 0.9))
    assert low + 0.1 < middle < high - 0.1


def gini(**changes: Any) -> float:
    truth = network(**changes)[1]
    received = events("request", **changes)["target_id"].value_counts()["count"].to_numpy()
    degree = np.sort(np.concatenate([np.zeros(truth.height - len(received)), received]))
    rank = np.arange(1, len(degree) + 1)
    return float(2 * (rank * degree).sum() / (len(degree) * degree.sum()) - (len(degree) + 1) / len(degree))


def test_attachment_concentrates_requests_on_few_users() -> None:
    assert gini(attachment=0.0) + 0.05 < gini(attachment=0.5) < gini(attachment=1.0) - 0.05


def test_crowding_raises_the_share_of_requests_to_users_who_just_received_one() -> None:
    def share_repeated(**changes: Any) -> float:
        targets = events("request", **changes)["target_id"].to_list()
        return float(np.mean([target in targets[max(0, k - 10) : k] for k, target in enumerate(targets)]))

    assert share_repeated(crowding=0.0) + 0.1 < share_repeated(crowding=0.6)


# -- answers


def test_two_users_exchange_at_most_one_request() -> None:
    assert not events("request").select(pair_columns()).is_duplicated().any()


def test_an_accept_comes_after_its_request_and_often_late() -> None:
    accepted = join_answers(events("request"), events("accept")).drop_nulls("answered")
    assert accepted.height == events("accept").height  # no accept without its request, none twice
    delay = (accepted["answered"] - accepted["timestamp"]) / DAY
    assert delay.min() > 0
    assert delay.median() == pytest.approx(SimulateSettings().accept_days, rel=0.2)
    assert (delay > 16 * SimulateSettings().accept_days).mean() > 0.04


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_share_of_requests_never_accepted_is_as_set(share: float) -> None:
    early = events("request", never_accepted=share, accept_spread=1.0).head(1000)
    never = join_answers(early, events("accept", never_accepted=share, accept_spread=1.0))["answered"].null_count()
    assert never / early.height == pytest.approx(share, abs=0.05)


def test_a_block_is_the_last_event_of_its_pair() -> None:
    log = network(blocked=0.2)[0]
    blocks = log.filter(pl.col("action") == "block")
    requests = join_answers(events("request", blocked=0.2).head(1000), blocks)
    assert requests["answered"].is_not_null().mean() == pytest.approx(0.2, abs=0.04)
    assert (requests["answered"].drop_nulls() > requests.drop_nulls("answered")["timestamp"]).all()
    pairs = log.with_row_index("position").with_columns(pair_columns())
    last = pairs.group_by("lower", "higher", maintain_order=True).agg(pl.col("position").max().alias("last"))
    blocked = pairs.filter(pl.col("action") == "block").join(last, on=["lower", "higher"])
    assert blocked.height > 100
    assert (blocked["position"] == blocked["last"]).all()


def test_messages_go_between_contacts_and_are_answered() -> None:
    accepted = events("accept").select(*pair_columns(), since="timestamp")
    messages = events("message").with_columns(pair_columns()).join(accepted, on=["lower", "higher"], how="left")
    assert messages["since"].null_count() == 0
    assert (messages["timestamp"] > messages["since"]).all()

    def share_answered_soon(**changes: Any) -> float:
        messages = events("message", **changes).with_columns(pair_columns())
        by_pair = messages.sort("lower", "higher", "timestamp", maintain_order=True)
        answers = by_pair.select(
            soon=(pl.col("timestamp").shift(-1) - pl.col("timestamp")).is_between(1, DAY // 6)
            & (pl.col("actor_id").shift(-1) == pl.col("target_id"))
            & (pl.col("target_id").shift(-1) == pl.col("actor_id"))
        )
        return float(answers["soon"].fill_null(False).mean())

    assert share_answered_soon(answered=0.0) < 0.2
    assert share_answered_soon(answered=0.3) < share_answered_soon(answered=0.6)
    assert share_answered_soon(answered=0.6) == pytest.approx(0.6, abs=0.12)


def test_a_view_is_often_followed_by_a_request() -> None:
    def share_followed(**changes: Any) -> float:
        views = events("view", **changes).unique(["actor_id", "target_id"], keep="first", maintain_order=True)
        requests = events("request", **changes).select("actor_id", "target_id", requested="timestamp")
        pairs = views.join(requests, on=["actor_id", "target_id"])
        return float((pairs["requested"] > pairs["timestamp"]).sum() / views.height)

    assert share_followed(requested_after_view=0.2) + 0.2 < share_followed(requested_after_view=0.7)


# -- time


def test_no_event_precedes_the_join_time_of_its_users() -> None:
    log, truth = network()
    joined = dict(truth.select("user_id", "joined").iter_rows())
    for actor, _, target, time in log.iter_rows():
        assert joined[actor] < time and joined[target] < time


def share_of_newcomers(log: pl.DataFrame) -> float:
    """Share of test targets without an event in training, over the contact events."""
    contacts = log.filter(pl.col("action").is_in(["request", "accept", "message"]))
    train, test = contacts.head(int(contacts.height * 0.8)), contacts.tail(contacts.height // 10)
    trained = set(train["actor_id"]) | set(train["target_id"])
    return float(np.mean([target not in trained for target in test["target_id"]]))


def test_a_third_of_the_test_targets_joined_after_training() -> None:
    sample = pl.read_parquet(Path(befriend.sample.__file__).parent / "log" / "events.parquet")
    assert 0.28 < share_of_newcomers(sample) < 0.38
    founders, default, short_stays = (network(**changes)[0] for changes in ({"founders": 0.9}, {}, {"stay_days": 10}))
    assert share_of_newcomers(founders) < share_of_newcomers(default) < share_of_newcomers(short_stays)


def test_newcomers_send_and_receive_requests_soon() -> None:
    log, truth = network()
    later_users = truth.filter(pl.col("joined").is_between(log["timestamp"].min(), log["timestamp"].max() - 14 * DAY))
    for side in ("actor_id", "target_id"):
        requests = log.filter(pl.col("action") == "request").join(later_users, left_on=side, right_on="user_id")
        early = requests.filter(pl.col("timestamp") < pl.col("joined") + 14 * DAY)
        assert early.height / later_users.height > 1.5


def variation(log: pl.DataFrame) -> float:
    """Median over users with 20 events or more of the coefficient of variation of the time between their events.

    1 for a Poisson process.
    """
    values = []
    for times in log.group_by("actor_id", maintain_order=True).agg("timestamp")["timestamp"]:
        if len(times) >= 20:
            gaps = np.array([b - a for a, b in pairwise(times)])
            values.append(gaps.std() / gaps.mean())
    return float(np.median(values))


def test_activity_comes_in_bursts() -> None:
    assert variation(network()[0]) > 1.4
    steady: dict[str, Any] = {"eagerness": 0, "answered": 0, "attention": 0, "crowding": 0, "stay_days": 500}
    assert variation(network(dormant_days=0, **steady)[0]) + 0.3 < variation(network(dormant_days=10, **steady)[0])


def test_receiving_a_request_makes_users_active() -> None:
    def share_acting_within_a_day(attention: float) -> float:
        # Without accepts, the next action of a target is no answer to the request.
        options = {"users": 600, "events": 8000, "never_accepted": 1, "crowding": 0, "dormant_days": 10}
        log = network(attention=attention, **options)[0]
        seconds = dict(log.filter(pl.col("action") != "block").group_by("actor_id").agg("timestamp").iter_rows())
        requests = log.filter(pl.col("action") == "request").select("target_id", "timestamp")
        acts = [
            any(received < second <= received + DAY for second in seconds.get(user, []))
            for user, received in requests.iter_rows()
        ]
        return float(np.mean(acts))

    assert share_acting_within_a_day(0.0) + 0.05 < share_acting_within_a_day(0.8)


def test_evenings_are_busier_than_early_mornings() -> None:
    hour = network(daily_rhythm=1.0)[0]["timestamp"] % DAY // 3600
    assert hour.is_between(17, 21).sum() > 2 * hour.is_between(5, 9).sum()


# -- settings and the sample


def test_contradictory_settings_are_rejected() -> None:
    with pytest.raises(ValidationError, match="part of never_accepted"):
        SimulateSettings(blocked=0.5, never_accepted=0.4)
    with pytest.raises(ValidationError, match="more communities"):
        SimulateSettings(users=10, communities=11)


def test_a_network_too_small_for_its_events_is_rejected() -> None:
    with pytest.raises(SettingsError, match="Simulate more users"):
        simulate(SimulateSettings(users=10, events=5000, communities=1, never_accepted=1.0))


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in SimulateSettings.model_fields.values())


@pytest.mark.system
def test_the_simulator_reproduces_the_committed_sample(tmp_path: Path) -> None:
    write(PROFILES["sample"], tmp_path)
    committed = Path(befriend.sample.__file__).parent
    for name in ("log/events.parquet", "log/texts.parquet", "log/statements.parquet", "truth.parquet"):
        assert (tmp_path / Path(name).name).read_bytes() == (committed / name).read_bytes(), name
