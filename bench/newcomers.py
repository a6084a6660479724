"""Newcomers: lists from text alone for users without any event, compared with rules that can also serve them.

    python bench/newcomers.py EVENTS TEXTS [--draws 5] [--part test] [--set SECTION.NAME=VALUE]

EVENTS is a Parquet table with columns actor_id, action, target_id, timestamp; TEXTS one with user_id, timestamp, title,
tags, text. In each draw a fifth of the users are newcomers: all their events are removed from the log, their posts are
not. The text towers and the two-tower model learn from the training part of the remaining log. Each event of a newcomer
in the evaluated part is then predicted in the streaming regime, from what the newcomer and all others had written
before. Users with an event in the log or a text are eligible.

Prints a Markdown table: mean NDCG@10 of the model and the rules over the draws, and their ratio to the better of the
two baselines RULES in each draw, with a 95 % interval over newcomers.
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

from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.data.regimes import UNKNOWN_ACTION
from befriend.data.split import read_split
from befriend.features.text_vectors import TextVectors
from befriend.models.trained_model import load_two_tower
from befriend.objectives.objective_settings import TwoTowerSettings
from befriend.readers.data_settings import DataSettings, TextSettings
from befriend.retrieval.heuristics import Heuristics
from befriend.retrieval.recommender import Recommender
from befriend.retrieval.requests import RequestBatch
from befriend.retrieval.two_tower_retriever import TwoTowerRetriever
from befriend.settings import split_override
from befriend.stages import embed_text, train_two_tower, validate
from befriend.text.text_settings import EmbedTextSettings
from befriend.validation.validate_settings import ValidateSettings

NEWCOMER_SHARE = 0.2
RULES = ("last-received", "popularity-x-fresh")
# Chosen on newcomers' events of the validation part; the same for both logs.
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
    "id_dropout": 0.9,  # newcomers have no embedding
    "threads": 1,
}


def run_draw(
    events: pl.DataFrame, texts: Path, draw: int, part: str, overrides: dict[str, dict[str, object]], root: Path
) -> dict[str, np.ndarray]:
    """Name -> NDCG@10 of each evaluated event; "newcomer": the external id of its actor."""
    ids = pl.concat([events["actor_id"], events["target_id"]]).unique().sort()
    newcomers = ids.gather(
        np.random.default_rng(draw).permutation(len(ids))[: round(NEWCOMER_SHARE * len(ids))].tolist()
    )
    is_newcomer_event = pl.col("actor_id").is_in(newcomers.implode()) | pl.col("target_id").is_in(newcomers.implode())
    (root / "log").mkdir()
    events.filter(~is_newcomer_event).write_parquet(root / "log" / "events.parquet")
    (root / "log" / "texts.parquet").write_bytes(texts.read_bytes())
    data = DataSettings(texts=TextSettings(file="texts.parquet", title="title", tags="tags"))
    rules = ValidateSettings(max_rejected=1, previous_users=None)
    with contextlib.redirect_stderr(io.StringIO()):
        validate.run(data, rules, root / "log", root / "prepared", root / "reports")
        folders = root / "prepared", root / "models", root / "reports", root / ".checkpoints"
        embed_text.run(
            EmbedTextSettings(**TEXT | overrides.get("text", {}) | {"seed": draw}), *folders, Path(".cache/text")
        )
        settings = TwoTowerSettings(**MODEL | overrides.get("model", {}) | {"seed": draw})
        train_two_tower.run(settings, *folders)
    log = EventLog.read(root / "prepared")
    internal_id = {user: k for k, user in enumerate(log.user_ids.to_list())}
    split = read_split(root / "prepared", log)
    start, end = (split.t_validation, split.t_test) if part == "validation" else (split.t_test, 2**40)
    evaluated = events.filter(
        pl.col("actor_id").is_in(newcomers.implode()), pl.col("timestamp") >= start, pl.col("timestamp") < end
    )
    user = np.array([internal_id.get(u, log.num_users) for u in evaluated["actor_id"]])
    target = np.array([internal_id.get(u, -2) for u in evaluated["target_id"]])
    cutoff = evaluated["timestamp"].to_numpy()
    action = np.array([log.actions.index(a) if a in log.actions else UNKNOWN_ACTION for a in evaluated["action"]])
    no_exclusions = np.zeros(len(user) + 1, np.int64)
    regime = np.zeros_like(user)
    request = RequestBatch(
        user,
        np.asarray(log.count_before(cutoff)),
        cutoff,
        action,
        regime,
        no_exclusions,
        no_exclusions[:0],
        np.zeros(len(user), bool),
    )

    text_vectors = TextVectors.read(root / "models" / "text", log)
    trained_model = load_two_tower(root / "models" / "two_tower", log, Attributes.read(root / "prepared"))
    feature_view = trained_model.feature_view(log, text_vectors)
    retriever = TwoTowerRetriever(trained_model.model, feature_view, trained_model.settings)
    ranking = Recommender([retriever], Heuristics(feature_view)).rank(request, ("two-tower", *RULES))
    lists = {"two-tower with texts": ranking.top("two-tower").ids}
    lists |= {name: ranking.top(name).ids for name in RULES}
    lists["last to write"] = last_to_write(text_vectors, user, cutoff)
    ndcg_by_name = {name: ndcg(users, target) for name, users in lists.items()}
    return ndcg_by_name | {"newcomer": evaluated["actor_id"].to_numpy()}


def last_to_write(texts: TextVectors, user: np.ndarray, cutoff: np.ndarray) -> np.ndarray:
    """int64[n, 10]: the users who wrote last before each cutoff, without the requesting one. user, cutoff: int64[n]."""
    all_users, lists = torch.arange(texts.num_users), np.full((len(user), 10), -1)
    for row, (requester, at) in enumerate(zip(user, cutoff, strict=True)):
        post = texts.last_posts(all_users, torch.tensor(int(at)))
        written = torch.where(post >= 0, texts.timestamp[post.clamp(min=0)], -1)
        if requester < len(written):
            written[requester] = -1
        latest = written.topk(10)
        lists[row] = torch.where(latest.values >= 0, latest.indices, -1).numpy()
    return lists


def ndcg(lists: np.ndarray, target: np.ndarray) -> np.ndarray:
    """NDCG@10 of each list, one target each."""
    is_target = lists[:, :10] == target[:, None]
    return np.where(is_target.any(1), 1 / np.log2(is_target.argmax(1) + 2), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--set", action="append", default=[], help="text.NAME=VALUE or model.NAME=VALUE")
    arguments = parser.parse_args()
    overrides: dict[str, dict[str, object]] = {}
    for name, value in map(split_override, arguments.set):
        section, _, field = name.partition(".")
        overrides.setdefault(section, {})[field] = value
    events = (
        pl.read_parquet(arguments.events)
        .filter(pl.col("actor_id") != pl.col("target_id"))
        .sort("timestamp", maintain_order=True)
    )
    draws = []
    for draw in range(arguments.draws):
        with TemporaryDirectory() as name:
            draws.append(run_draw(events, arguments.texts, draw, arguments.part, overrides, Path(name)))
        means_text = ", ".join(f"{k} {v.mean():.3f}" for k, v in draws[-1].items() if k != "newcomer")
        print(f"draw {draw}: {len(draws[-1]['newcomer'])} events; {means_text}", file=sys.stderr, flush=True)
    names = [name for name in draws[0] if name != "newcomer"]
    means = {name: np.array([result[name].mean() for result in draws]) for name in names}
    best = np.max([means[name] for name in RULES], axis=0)  # the better rule of each draw
    num_events = sum(len(result["newcomer"]) for result in draws)
    print(f"\n{arguments.events.stem}, {arguments.part}: {num_events} events of newcomers\n")
    print("| | NDCG@10, mean over draws | ratio to the better rule of each draw |\n|---|---:|---:|")
    for name in names:
        low, high = interval(draws, name)
        print(
            f"| {name} | {means[name].mean():.3f} | {means[name].sum() / best.sum():.2f} x ({low:.2f} to {high:.2f}) |"
        )


def interval(draws: list[dict[str, np.ndarray]], name: str) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio to the better rule; resamples the newcomers of every draw."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(1000):
        model_sum = rule_sum = 0.0
        for draw in draws:
            users, user_row = np.unique(draw["newcomer"], return_inverse=True)
            weight = np.bincount(rng.integers(len(users), size=len(users)), minlength=len(users))[user_row]
            model_sum += (weight * draw[name]).sum() / weight.sum()
            rule_sum += max((weight * draw[rule]).sum() / weight.sum() for rule in RULES)
        ratios.append(model_sum / rule_sum)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
