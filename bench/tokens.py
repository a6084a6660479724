"""STUs of real logs: both quantizers side by side, and how soon those who join later get the token that they keep.

    python bench/tokens.py PREPARED [PREPARED ...] [--seeds 3] [--threads T]

PREPARED is the folder `prepared` that stage validate left behind. The first table has what the metrics file of stage
tokenize says, as mean and range over seeds: users with codes of their own before collisions are resolved, the least
used level, variance left over, users who share an STU in the end, agreement of first tokens with the communities of the
graph. The second is about users who joined after training and have had more than 10 events: how many have, after their
first 1, 3 and 10, the first token that the same codebook gives once all their events are known. Beside it stands the
share of the token that most of them have in the end: what one would reach without looking.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from befriend import files
from befriend.data.log import EventLog
from befriend.data.texts import TextVectors
from befriend.stages import tokenize
from befriend.tokens import folder
from befriend.tokens.settings import TokenizeSettings

QUANTIZERS = ("residual_kmeans", "rqvae")
FIRST = (1, 3, 10)
COLUMNS = ("own code", "least used level", "variance left", "share an STU", "homogeneity", "shuffled", "seconds")


def catalogue(settings: TokenizeSettings, prepared: Path, root: Path) -> list[float]:
    """The columns of the first table, for one seed; leaves the tokens in root/models."""
    log = EventLog.read(prepared)
    (root / "models" / "text").mkdir(parents=True, exist_ok=True)
    TextVectors.none(log.num_users).save(root / "models" / "text", log)
    start = time.perf_counter()
    tokenize.run(settings, prepared, root / "models", root / "reports", root / "checkpoints")
    seconds = time.perf_counter() - start
    figures = files.read_json(root / "reports" / "tokens.json")
    levels, groups = figures["level"].values(), figures["communities"]
    return [
        figures["before"]["unique_share"],
        min(level["used_share"] for level in levels),
        [level["error"] for level in levels][-1],
        figures["after"]["collision_rate"],
        groups["homogeneity"],
        groups["shuffled"],
        seconds,
    ]


def ranked(log: EventLog) -> np.ndarray:
    """int64[2, M]: which event in the life of its actor, and of its target, each event is, from 0."""
    who = np.stack([log.actor, log.target], 1).ravel()
    order = np.argsort(who, kind="stable")
    rank = np.empty(len(who), dtype=np.int64)
    rank[order] = np.arange(len(who)) - np.searchsorted(who[order], who[order])
    return rank.reshape(-1, 2).T


def fold_in(prepared: Path, models: Path) -> tuple[int, list[float]]:
    """Users looked at; shares with the final first token after their first events, and that of the commonest token."""
    log = EventLog.read(prepared)
    tokens = folder.load(models / "tokens", log, TextVectors.none(log.num_users))
    rank, users = ranked(log), np.arange(log.num_users)
    life = np.bincount(log.actor, minlength=len(users)) + np.bincount(log.target, minlength=len(users))
    joined = users[(users >= len(tokens.table)) & (life > max(FIRST))]

    def first_token(events: np.ndarray) -> torch.Tensor:
        return tokens.quantizer.codes(tokens.vectors(log, events, joined))[:, 0]

    final = first_token(np.arange(log.num_events))
    new = np.stack([log.actor, log.target]) >= len(tokens.table)
    shares = []
    for count in FIRST:
        events = np.flatnonzero(((rank < count) & new).any(0))
        shares.append(float((first_token(events) == final).float().mean()))
    return len(joined), [*shares, float(final.bincount().max()) / len(joined)]


def mean_and_range(values: np.ndarray, form: str) -> str:
    """values: float64[seeds]."""
    return f"{values.mean():{form}} ({values.min():{form}} to {values.max():{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()

    heads = ["log", "quantizer", "users x codes", *COLUMNS]
    print(f"| {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) - 2)}")
    later: dict[tuple[Path, str], list[tuple[int, list[float]]]] = {}
    for prepared in arguments.prepared:
        for quantizer in QUANTIZERS:
            rows = []
            for seed in range(arguments.seeds):
                settings = TokenizeSettings(quantizer=quantizer, seed=seed, threads=arguments.threads)  # type: ignore[arg-type]
                with tempfile.TemporaryDirectory() as name:
                    rows.append(catalogue(settings, prepared, Path(name)))
                    later.setdefault((prepared, quantizer), []).append(fold_in(prepared, Path(name) / "models"))
                    about = files.read_json(Path(name) / "models" / "tokens" / "tokens.json")
            size = f"{about['users']:,} x {' x '.join(map(str, about['vocabulary']))}"
            forms = [".1%", ".1%", ".1%", ".1%", ".3f", ".3f", ".0f"]
            cells = [mean_and_range(column, form) for column, form in zip(np.array(rows).T, forms, strict=True)]
            print(f"| {prepared} | {quantizer} | {size} | {' | '.join(cells)} |", flush=True)

    heads = ["log", "quantizer", "users who joined", *(f"after {count}" for count in FIRST), "commonest token"]
    print(f"\n| {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) - 2)}")
    for (prepared, quantizer), found in later.items():
        shares = np.array([share for _, share in found])
        cells = [mean_and_range(column, ".1%") for column in shares.T]
        print(f"| {prepared} | {quantizer} | {found[0][0]:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
