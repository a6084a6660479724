"""People without a single event, found by what they wrote: lists for newcomers, beside the rules that serve them too.

python bench/newcomers.py EVENTS TEXTS [--draws 5] [--part test] [--set SECTION.NAME=VALUE]

EVENTS has actor_id, action, target_id, timestamp, TEXTS user_id, timestamp, title, tags, text. In each draw a fifth of
the users are newcomers: all their events are taken out of the log, their posts are not. The towers and the two-tower
model learn from what is left before the validation part. Then each event that a newcomer does in the test part is asked
for as it would have been then (streaming): who, given what the newcomer and everybody else had written before. Everyone
who was seen in the log or wrote something may be on a list.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch

from befriend.config import DataSettings, TextSettings, ValidateSettings
from befriend.data.attributes import Attributes
from befriend.data.log import EventLog
from befriend.data.split import read_split
from befriend.data.texts import TextVectors
from befriend.evaluation.regimes import HIDDEN
from befriend.models.folder import load
from befriend.models.settings import TwoTowerSettings
from befriend.retrieval.heuristics import Heuristics
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import Request
from befriend.retrieval.two_tower import TwoTowerRetriever
from befriend.settings import split_override
from befriend.stages import embed_text, train_two_tower, validate
from befriend.text.settings import EmbedTextSettings

NEW = 0.2
RULES = ("last-received", "popularity-x-fresh")
# Chosen on newcomers' events of the validation part, the same for both logs.
TEXT: dict[str, Any] = {
    "user_model_name": "minilm",
    "item_model_name": "minilm",
    "lexical_dim": 1024,
    "batch_size": 64,
    "num_epochs": 2,
    "threads": 1,
}
MODEL: dict[str, Any] = {
    "embedding_dim": 32,
    "hidden_dim": 64,
    "layers": 1,
    "epochs": 3,
    "positions_per_batch": 16,
    "regimes": ["streaming"],
    "learning_rate": 0.003,
    "id_dropout": 0.9,  # who is asked about has no embedding
    "threads": 1,
}


def one(
    events: pl.DataFrame, texts: Path, draw: int, part: str, given: dict[str, dict[str, object]], root: Path
) -> dict[str, np.ndarray]:
    """Name -> NDCG@10 of every event asked for; "newcomer": who asked."""
    ids = pl.concat([events["actor_id"], events["target_id"]]).unique().sort()
    new = ids.gather(np.random.default_rng(draw).permutation(len(ids))[: round(NEW * len(ids))].tolist())
    hidden = pl.col("actor_id").is_in(new.implode()) | pl.col("target_id").is_in(new.implode())
    (root / "log").mkdir()
    events.filter(~hidden).write_parquet(root / "log" / "events.parquet")
    (root / "log" / "texts.parquet").write_bytes(texts.read_bytes())
    data = DataSettings(texts=TextSettings(file="texts.parquet", title="title", tags="tags"))
    rules = ValidateSettings(max_rejected=1, previous_users=None)
    with contextlib.redirect_stderr(io.StringIO()):
        validate.run(data, rules, root / "log", root / "prepared", root / "reports")
        folders = root / "prepared", root / "models", root / "reports", root / ".checkpoints"
        embed_text.run(
            EmbedTextSettings(**TEXT | given.get("text", {}) | {"seed": draw}), *folders, Path(".cache/text")
        )
        settings = TwoTowerSettings(**MODEL | given.get("model", {}) | {"seed": draw})
        train_two_tower.run(settings, *folders)
    log = EventLog.read(root / "prepared")
    number = {user: k for k, user in enumerate(log.user_ids.to_list())}
    split = read_split(root / "prepared", log)
    low, high = (split.t_validation, split.t_test) if part == "validation" else (split.t_test, 2**40)
    asked = events.filter(
        pl.col("actor_id").is_in(new.implode()), pl.col("timestamp") >= low, pl.col("timestamp") < high
    )
    user = np.array([number.get(u, log.num_users) for u in asked["actor_id"]])
    target = np.array([number.get(u, -2) for u in asked["target_id"]])
    second = asked["timestamp"].to_numpy()
    action = np.array([log.actions.index(a) if a in log.actions else HIDDEN for a in asked["action"]])
    zero = np.zeros(len(user) + 1, np.int64)
    regime = np.zeros_like(user)
    request = Request(user, np.asarray(log.before(second)), second, action, regime, zero, zero[:0])

    texts_of = TextVectors.read(root / "models" / "text", log)
    trained = load(root / "models" / "two_tower", log, Attributes.read(root / "prepared"))
    observed = trained.look(log, texts_of)
    retriever = TwoTowerRetriever(trained.model, observed, trained.tower)
    ranking = Recommender([retriever], Heuristics(log, observed.activity)).rank(request, ("two-tower", *RULES))
    lists = {"two-tower with texts": ranking.head("two-tower").ids}
    lists |= {name: ranking.head(name).ids for name in RULES}
    lists["last to write"] = last_to_write(texts_of, user, second)
    found = {name: gain(made, target) for name, made in lists.items()}
    return found | {"newcomer": asked["actor_id"].to_numpy()}


def last_to_write(texts: TextVectors, user: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64[n, 10]: who wrote last before each second, but for the user."""
    everyone, out = torch.arange(texts.num_users), np.full((len(user), 10), -1)
    for row, (who, now) in enumerate(zip(user, second, strict=True)):
        place = texts.places(everyone, torch.tensor(int(now)))
        last = torch.where(place >= 0, texts.second[place.clamp(min=0)], -1)
        if who < len(last):
            last[who] = -1
        best = last.topk(10)
        out[row] = torch.where(best.values >= 0, best.indices, -1).numpy()
    return out


def gain(lists: np.ndarray, target: np.ndarray) -> np.ndarray:
    """NDCG@10 of each list, one target each."""
    hit = lists[:, :10] == target[:, None]
    return np.where(hit.any(1), 1 / np.log2(hit.argmax(1) + 2), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--set", action="append", default=[], help="text.NAME=VALUE or model.NAME=VALUE")
    arguments = parser.parse_args()
    given: dict[str, dict[str, object]] = {}
    for name, value in map(split_override, arguments.set):
        section, _, field = name.partition(".")
        given.setdefault(section, {})[field] = value
    events = (
        pl.read_parquet(arguments.events)
        .filter(pl.col("actor_id") != pl.col("target_id"))
        .sort("timestamp", maintain_order=True)
    )
    found = []
    for draw in range(arguments.draws):
        with TemporaryDirectory() as name:
            found.append(one(events, arguments.texts, draw, arguments.part, given, Path(name)))
        told = ", ".join(f"{k} {v.mean():.3f}" for k, v in found[-1].items() if k != "newcomer")
        print(f"draw {draw}: {len(found[-1]['newcomer'])} events; {told}", file=sys.stderr, flush=True)
    names = [name for name in found[0] if name != "newcomer"]
    means = {name: np.array([run[name].mean() for run in found]) for name in names}
    best = np.max([means[name] for name in RULES], axis=0)  # the better of both in each draw
    asked = sum(len(run["newcomer"]) for run in found)
    print(f"\n{arguments.events.stem}, {arguments.part}: {asked} events of newcomers\n")
    print("| | NDCG@10, mean of the draws | beside the better rule of each draw |\n|---|---:|---:|")
    for name in names:
        low, high = interval(found, name)
        print(
            f"| {name} | {means[name].mean():.3f} | {means[name].sum() / best.sum():.2f} x ({low:.2f} to {high:.2f}) |"
        )


def interval(found: list[dict[str, np.ndarray]], name: str) -> tuple[float, float]:
    """95 % of the ratio to the better rule, resampling the newcomers of every draw."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(1000):
        ours = theirs = 0.0
        for run in found:
            people, of = np.unique(run["newcomer"], return_inverse=True)
            weight = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))[of]
            ours += (weight * run[name]).sum() / weight.sum()
            theirs += max((weight * run[rule]).sum() / weight.sum() for rule in RULES)
        ratios.append(ours / theirs)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
