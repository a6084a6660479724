"""STUs of real logs: both quantizers, and how early users who join after training get the first token they end up with.

    python bench/tokens.py PREPARED [PREPARED ...] [--seeds 3] [--threads T]

PREPARED is the folder that stage `validate` wrote. Prints two Markdown tables, with mean and range over the seeds.

The first has the metrics of stage tokenize: distinct codes per user before collisions are resolved, the share of codes
in use on the least used level, residual variance, users who share an STU in the end, homogeneity of first tokens with
the communities of the graph (and of shuffled users), and seconds.

The second is about users who joined after training and have more than 10 events: the share who already have, after
their first 1, 3 and 10 events, the first token that the same codebook gives them once all their events are known. The
last column is the share of the commonest final token: the accuracy of always guessing that one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from befriend import files
from befriend.data.event_log import EventLog
from befriend.features.text_vectors import TextVectors
from befriend.stages import tokenize
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.tokenizer import load_tokenizer

QUANTIZERS = ("residual_kmeans", "rqvae")
FIRST = (1, 3, 10)
COLUMNS = (
    "unique codes",
    "least used level",
    "residual variance",
    "share an STU",
    "homogeneity",
    "shuffled",
    "seconds",
)


def token_metrics(settings: TokenizeSettings, prepared: Path, root: Path) -> list[float]:
    """Runs stage tokenize: the columns of the first table for one seed. Writes the tokens to root/models."""
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


def event_ranks(log: EventLog) -> np.ndarray:
    """int64[2, M]: for each event, the number of earlier events of its actor (row 0) and of its target (row 1)."""
    users = np.stack([log.actor, log.target], 1).ravel()
    order = np.argsort(users, kind="stable")
    rank = np.empty(len(users), dtype=np.int64)
    rank[order] = np.arange(len(users)) - np.searchsorted(users[order], users[order])
    return rank.reshape(-1, 2).T


def fold_in(prepared: Path, models: Path) -> tuple[int, list[float]]:
    """Number of users; shares with their final first token after FIRST events, and the share of the commonest token."""
    log = EventLog.read(prepared)
    tokens = load_tokenizer(models / "tokens", log, TextVectors.none(log.num_users))
    rank, users = event_ranks(log), np.arange(log.num_users)
    num_events = np.bincount(log.actor, minlength=len(users)) + np.bincount(log.target, minlength=len(users))
    joined = users[(users >= len(tokens.table)) & (num_events > max(FIRST))]

    def first_token(events: np.ndarray) -> torch.Tensor:
        return tokens.quantizer.codes(tokens.vectors(log, events, joined))[:, 0]

    final = first_token(np.arange(log.num_events))
    is_new = np.stack([log.actor, log.target]) >= len(tokens.table)
    shares = []
    for count in FIRST:
        events = np.flatnonzero(((rank < count) & is_new).any(0))
        shares.append(float((first_token(events) == final).float().mean()))
    return len(joined), [*shares, float(final.bincount().max()) / len(joined)]


def mean_and_range(values: np.ndarray, fmt: str) -> str:
    """Mean and range of values, float64[seeds]. fmt: format specification of each."""
    return f"{values.mean():{fmt}} ({values.min():{fmt}} to {values.max():{fmt}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()

    header = ["log", "quantizer", "users x codes", *COLUMNS]
    print(f"| {' | '.join(header)} |\n|---|---|{'---:|' * (len(header) - 2)}")
    fold_in_results: dict[tuple[Path, str], list[tuple[int, list[float]]]] = {}
    for prepared in arguments.prepared:
        for quantizer in QUANTIZERS:
            rows = []
            for seed in range(arguments.seeds):
                settings = TokenizeSettings(quantizer=quantizer, seed=seed, threads=arguments.threads)  # type: ignore[arg-type]
                with tempfile.TemporaryDirectory() as name:
                    rows.append(token_metrics(settings, prepared, Path(name)))
                    fold_in_results.setdefault((prepared, quantizer), []).append(
                        fold_in(prepared, Path(name) / "models")
                    )
                    tokens_info = files.read_json(Path(name) / "models" / "tokens" / "tokens.json")
            size = f"{tokens_info['users']:,} x {' x '.join(map(str, tokens_info['vocabulary']))}"
            formats = [".1%", ".1%", ".1%", ".1%", ".3f", ".3f", ".0f"]
            cells = [mean_and_range(column, fmt) for column, fmt in zip(np.array(rows).T, formats, strict=True)]
            print(f"| {prepared} | {quantizer} | {size} | {' | '.join(cells)} |", flush=True)

    header = ["log", "quantizer", "users who joined", *(f"after {count}" for count in FIRST), "commonest token"]
    print(f"\n| {' | '.join(header)} |\n|---|---|{'---:|' * (len(header) - 2)}")
    for (prepared, quantizer), results in fold_in_results.items():
        shares = np.array([share for _, share in results])
        cells = [mean_and_range(column, ".1%") for column in shares.T]
        print(f"| {prepared} | {quantizer} | {results[0][0]:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
