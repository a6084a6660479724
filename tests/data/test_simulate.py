"""What the simulator plants is there, and its setting moves it."""

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
from befriend.data.simulate import ACTIONS, simulate, write
from befriend.data.traits import PROFILES, SimulateSettings
from befriend.errors import SettingsError

DAY = 86_400
SMALL: dict[str, Any] = {"users": 600, "events": 8000, "communities": 10}


@cache
def network(**changed: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    return simulate(SimulateSettings(**{**SMALL, **changed}))


def events(action: str, **changed: Any) -> pl.DataFrame:
    return network(**changed)[0].filter(pl.col("action") == action)


def pair() -> list[pl.Expr]:
    return [
        pl.min_horizontal("actor_id", "target_id").alias("one"),
        pl.max_horizontal("actor_id", "target_id").alias("two"),
    ]


def answers(asking: pl.DataFrame, answering: pl.DataFrame) -> pl.DataFrame:
    """Each (unique) request with the moment `answered` of what came back, null where nothing did."""
    back = answering.select(actor_id="target_id", target_id="actor_id", answered="timestamp")
    return asking.join(back, on=["actor_id", "target_id"], how="left", maintain_order="left")


# -- the tables


def test_equal_settings_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for folder, seed in (("first", 0), ("second", 0), ("third", 1)):
        write(SimulateSettings(**SMALL, seed=seed), tmp_path / folder)
    for name in ("events.parquet", "truth.parquet"):
        first, second, third = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second", "third"))
        assert first == second != third


@pytest.mark.parametrize("size", [(600, 8000, 180), (2000, 1000, 30), (10, 500, 2), (50, 10, 1)])
def test_there_are_exactly_the_events_and_users_asked_for(size: tuple[int, int, int]) -> None:
    users, count, days = size
    log, truth = simulate(SimulateSettings(users=users, events=count, days=days, communities=5))
    assert (log.height, truth.height, truth["user_id"].n_unique()) == (count, users, users)
    assert log["timestamp"].is_sorted()
    start = SimulateSettings().start
    assert start < log["timestamp"].min() and log["timestamp"].max() <= start + days * DAY
    assert set(log["actor_id"]) | set(log["target_id"]) <= set(truth["user_id"])
    assert (log["actor_id"] != log["target_id"]).all()


def test_the_tables_have_the_types_they_are_said_to_have() -> None:
    log, truth = network()
    assert log.schema == {"actor_id": pl.Int64, "action": pl.String, "target_id": pl.Int64, "timestamp": pl.Int64}
    assert truth.schema == {"user_id": pl.Int64, "community": pl.Int32, "joined": pl.Int64}
    assert log["action"].unique(maintain_order=True).sort().to_list() == sorted(ACTIONS)


def test_the_log_fills_its_days_and_few_users_never_appear() -> None:
    log, truth = network()
    assert log["timestamp"].max() - log["timestamp"].min() > 178 * DAY
    assert len(set(log["actor_id"]) | set(log["target_id"])) > 0.98 * truth.height


def test_an_id_says_nothing_of_when_its_user_joined() -> None:
    truth = network()[1]
    assert truth["user_id"].max() > 5 * truth.height
    assert abs(np.corrcoef(truth["user_id"], truth["joined"])[0, 1]) < 0.1


# -- whom one meets


def within(**changed: Any) -> float:
    truth = network(**changed)[1]
    community = dict(truth.select("user_id", "community").iter_rows())
    asked = events("request", **changed)
    return float(np.mean([community[a] == community[b] for a, b in asked.select("actor_id", "target_id").iter_rows()]))


def test_homophily_keeps_requests_inside_the_community() -> None:
    shares = network()[1]["community"].value_counts()["count"] / SMALL["users"]
    chance = float((shares**2).sum())
    assert within(homophily=0.0) == pytest.approx(chance, abs=0.06)
    assert within(homophily=0.0) < within(homophily=0.4) < within(homophily=0.9)
    assert within() > 4 * chance


def closed(**changed: Any) -> float:
    """Share of requests between users who had a common contact (by accepted requests) before."""
    contacts: dict[int, set[int]] = {}
    hits, asked = 0, 0
    for actor, action, target, _ in network(**changed)[0].iter_rows():
        mine, theirs = contacts.setdefault(actor, set()), contacts.setdefault(target, set())
        if action == "request" and mine and theirs:
            asked += 1
            hits += not mine.isdisjoint(theirs)
        elif action == "accept":
            mine.add(target)
            theirs.add(actor)
    return hits / asked


def test_closure_makes_contacts_of_contacts_meet() -> None:
    assert closed(closure=0.0) + 0.1 < closed(closure=0.4) < closed(closure=0.9) - 0.1


def gini(**changed: Any) -> float:
    truth = network(**changed)[1]
    received = events("request", **changed)["target_id"].value_counts()["count"].to_numpy()
    degree = np.sort(np.concatenate([np.zeros(truth.height - len(received)), received]))
    place = np.arange(1, len(degree) + 1)
    return float(2 * (place * degree).sum() / (len(degree) * degree.sum()) - (len(degree) + 1) / len(degree))


def test_attachment_concentrates_requests_on_few() -> None:
    assert gini(attachment=0.0) + 0.05 < gini(attachment=0.5) < gini(attachment=1.0) - 0.05


def test_crowding_brings_requests_to_whoever_just_got_one() -> None:
    def again(**changed: Any) -> float:
        targets = events("request", **changed)["target_id"].to_list()
        return float(np.mean([target in targets[max(0, k - 10) : k] for k, target in enumerate(targets)]))

    assert again(crowding=0.0) + 0.1 < again(crowding=0.6)


# -- what comes back


def test_a_request_is_made_once_whoever_asks() -> None:
    assert not events("request").select(pair()).is_duplicated().any()


def test_an_accept_comes_after_its_request_and_often_late() -> None:
    both = answers(events("request"), events("accept")).drop_nulls("answered")
    assert both.height == events("accept").height  # no accept without its request, none twice
    delay = (both["answered"] - both["timestamp"]) / DAY
    assert delay.min() > 0
    assert delay.median() == pytest.approx(SimulateSettings().accept_days, rel=0.2)
    assert (delay > 16 * SimulateSettings().accept_days).mean() > 0.04


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_share_of_requests_never_accepted_is_as_set(share: float) -> None:
    early = events("request", never_accepted=share, accept_spread=1.0).head(1000)
    never = answers(early, events("accept", never_accepted=share, accept_spread=1.0))["answered"].null_count()
    assert never / early.height == pytest.approx(share, abs=0.05)


def test_after_a_block_the_two_never_meet_again() -> None:
    log = network(blocked=0.2)[0]
    blocks = log.filter(pl.col("action") == "block")
    asked = answers(events("request", blocked=0.2).head(1000), blocks)
    assert asked["answered"].is_not_null().mean() == pytest.approx(0.2, abs=0.04)
    assert (asked["answered"].drop_nulls() > asked.drop_nulls("answered")["timestamp"]).all()
    of_pairs = log.with_row_index("place").with_columns(pair())
    last = of_pairs.group_by("one", "two", maintain_order=True).agg(pl.col("place").max().alias("last"))
    blocked = of_pairs.filter(pl.col("action") == "block").join(last, on=["one", "two"])
    assert blocked.height > 100
    assert (blocked["place"] == blocked["last"]).all()


def test_messages_go_between_contacts_and_are_answered() -> None:
    accepted = events("accept").select(*pair(), since="timestamp")
    talked = events("message").with_columns(pair()).join(accepted, on=["one", "two"], how="left")
    assert talked["since"].null_count() == 0
    assert (talked["timestamp"] > talked["since"]).all()

    def answered_soon(**changed: Any) -> float:
        sent = events("message", **changed).with_columns(pair())
        same = sent.sort("one", "two", "timestamp", maintain_order=True)
        after = same.select(
            soon=(pl.col("timestamp").shift(-1) - pl.col("timestamp")).is_between(1, DAY // 6)
            & (pl.col("actor_id").shift(-1) == pl.col("target_id"))
            & (pl.col("target_id").shift(-1) == pl.col("actor_id"))
        )
        return float(after["soon"].fill_null(False).mean())

    assert answered_soon(answered=0.0) < 0.2
    assert answered_soon(answered=0.3) < answered_soon(answered=0.6)
    assert answered_soon(answered=0.6) == pytest.approx(0.6, abs=0.12)


def test_a_view_is_often_followed_by_a_request() -> None:
    def followed(**changed: Any) -> float:
        first = events("view", **changed).unique(["actor_id", "target_id"], keep="first", maintain_order=True)
        asked = events("request", **changed).select("actor_id", "target_id", asked="timestamp")
        both = first.join(asked, on=["actor_id", "target_id"])
        return float((both["asked"] > both["timestamp"]).sum() / first.height)

    assert followed(requested_after_view=0.2) + 0.2 < followed(requested_after_view=0.7)


# -- when


def test_nobody_acts_or_is_acted_on_before_joining() -> None:
    log, truth = network()
    joined = dict(truth.select("user_id", "joined").iter_rows())
    for actor, _, target, time in log.iter_rows():
        assert joined[actor] < time and joined[target] < time


def newcomers(log: pl.DataFrame) -> float:
    """Share of test targets whom training never saw, over the actions that make contacts."""
    contacts = log.filter(pl.col("action").is_in(["request", "accept", "message"]))
    train, test = contacts.head(int(contacts.height * 0.8)), contacts.tail(contacts.height // 10)
    known = set(train["actor_id"]) | set(train["target_id"])
    return float(np.mean([target not in known for target in test["target_id"]]))


def test_a_third_of_the_test_targets_joined_after_training() -> None:
    sample = pl.read_parquet(Path(befriend.sample.__file__).parent / "log" / "events.parquet")
    assert 0.28 < newcomers(sample) < 0.38
    assert newcomers(network(founders=0.9)[0]) < newcomers(network()[0]) < newcomers(network(stay_days=10)[0])


def test_newcomers_ask_and_are_asked_soon() -> None:
    log, truth = network()
    late = truth.filter(pl.col("joined").is_between(log["timestamp"].min(), log["timestamp"].max() - 14 * DAY))
    for side in ("actor_id", "target_id"):
        first = log.filter(pl.col("action") == "request").join(late, left_on=side, right_on="user_id")
        soon = first.filter(pl.col("timestamp") < pl.col("joined") + 14 * DAY)
        assert soon.height / late.height > 1.5


def variation(log: pl.DataFrame) -> float:
    """Median over busy users of the coefficient of variation of the time between own actions; 1 is Poisson."""
    values = []
    for times in log.group_by("actor_id", maintain_order=True).agg("timestamp")["timestamp"]:
        if len(times) >= 20:
            gaps = np.array([b - a for a, b in pairwise(times)])
            values.append(gaps.std() / gaps.mean())
    return float(np.median(values))


def test_activity_comes_in_bursts() -> None:
    assert variation(network()[0]) > 1.4
    even: dict[str, Any] = {"eagerness": 0, "answered": 0, "attention": 0, "crowding": 0, "stay_days": 500}
    assert variation(network(dormant_days=0, **even)[0]) + 0.3 < variation(network(dormant_days=10, **even)[0])


def test_receiving_wakes() -> None:
    def acts_within_a_day(attention: float) -> float:
        # nobody answers, so whatever a target does next is of their own accord
        log = network(attention=attention, never_accepted=1, crowding=0, dormant_days=10)[0]
        times = dict(log.filter(pl.col("action") != "block").group_by("actor_id").agg("timestamp").iter_rows())
        asked = log.filter(pl.col("action") == "request").select("target_id", "timestamp")
        return float(np.mean([any(t < own <= t + DAY for own in times.get(who, [])) for who, t in asked.iter_rows()]))

    assert acts_within_a_day(0.0) + 0.05 < acts_within_a_day(0.8)


def test_evenings_are_busier_than_early_mornings() -> None:
    hour = network(daily_rhythm=1.0)[0]["timestamp"] % DAY // 3600
    assert hour.is_between(17, 21).sum() > 2 * hour.is_between(5, 9).sum()


# -- settings and the sample


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="part of never_accepted"):
        SimulateSettings(blocked=0.5, never_accepted=0.4)
    with pytest.raises(ValidationError, match="more communities"):
        SimulateSettings(users=10, communities=11)


def test_a_network_too_small_for_its_events_is_refused() -> None:
    with pytest.raises(SettingsError, match="Simulate more users"):
        simulate(SimulateSettings(users=10, events=5000, communities=1, never_accepted=1.0))


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in SimulateSettings.model_fields.values())


def test_the_committed_sample_is_what_the_simulator_makes(tmp_path: Path) -> None:
    write(PROFILES["sample"], tmp_path)
    committed = Path(befriend.sample.__file__).parent
    for name in ("log/events.parquet", "log/texts.parquet", "log/statements.parquet", "truth.parquet"):
        assert (tmp_path / Path(name).name).read_bytes() == (committed / name).read_bytes(), name
