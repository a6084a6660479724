"""Beam search over the trie of STUs: users a second, what masking and exclusion take of it, and what the beam loses.

    python bench/decoding.py [--users N ...] [--threads T]

STUs of 3 levels of 256 codes, whose use falls as rank^-0.5; a model of width 128 with random towers; requests in
batches of 256, with 20 users excluded each; lists of 10 by a beam of 50. `moment` adds to every user what they have
been doing lately, 45 features, exactly, as serving does. Masking is to find the tokens that may follow the beams'
prefixes (on a level with many, they are a part of the scores and take nothing); beside it stands the comparison of each
prefix with all STUs, vectorised. Everything in one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend.models.stu import NextTargetPredictionSTU
from befriend.retrieval import beam
from befriend.retrieval.knn import Neighbours
from befriend.tokens.trie import Trie

LEVELS, CODES, WIDTH, BEAM, K, BATCH, EXCLUDED, FEATURES = 3, 256, 128, 50, 10, 256, 20, 45


def population(users: int) -> Tensor:
    """int64[N, 3]: distinct STUs."""
    random = np.random.default_rng(0)
    share = np.arange(1, CODES + 1) ** -0.5
    drawn = random.choice(CODES, (3 * users, LEVELS), p=share / share.sum())
    return torch.from_numpy(random.permutation(np.unique(drawn, axis=0))[:users])


def timed(step: Callable[[], Any], seconds: float = 3.0) -> float:
    """Seconds of one call, the mean of as many as fit."""
    step()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        calls += 1
    return (time.perf_counter() - start) / calls


class Clock:
    """Adds up what some functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return counted


def share_of_masking(run: Callable[[Any], Neighbours], bounds: Any) -> float:
    """Of the time of a search: finding children, and asking who may be shown."""
    clock, children = Clock(), beam._children
    beam._children = clock(children)
    try:
        run(clock(bounds))
        clock.seconds = 0.0
        start = time.perf_counter()
        for _ in range(10):
            run(clock(bounds))
        return clock.seconds / (time.perf_counter() - start)
    finally:
        beam._children = children


def by_comparison(stus: Tensor, prefixes: Tensor) -> Tensor:
    """bool[P, CODES]: tokens that may follow prefixes, int64[P, l], found by comparing each with all STUs."""
    level = prefixes.shape[1]
    mask = torch.zeros(len(prefixes), CODES, dtype=torch.bool)
    for k, prefix in enumerate(prefixes):  # all at once would need users x prefixes x tokens of memory
        mask[k, stus[(stus[:, :level] == prefix).all(1), level]] = True
    return mask


def measure(users: int) -> list[str]:
    torch.manual_seed(0)
    stus = population(users)
    model = NextTargetPredictionSTU(1, LEVELS, CODES, WIDTH, WIDTH, stus=stus).eval()
    with torch.no_grad():
        for parameter in model.tower_layers.parameters():
            parameter.normal_(std=WIDTH**-0.5)
    trie = Trie.of(stus)
    following = beam.Following.of(model, trie, model.paths)
    asked, moment, query = torch.randn(BATCH, WIDTH), torch.randn(users, FEATURES), torch.randn(BATCH, FEATURES) / 10
    indptr, excluded = torch.arange(BATCH + 1) * EXCLUDED, torch.randint(users, (BATCH * EXCLUDED,))
    row = torch.repeat_interleave(torch.arange(BATCH), EXCLUDED)
    leaves = trie.leaves.long()

    def found(bounds: Any) -> Neighbours:
        return beam.search(model, trie, following, asked, bounds, BEAM, K)

    def plain() -> Neighbours:
        return found(beam.Shown(trie, trie.hide(indptr, excluded)))

    def terms() -> Tensor:
        added = moment @ query.T
        added[leaves[excluded], row] = -torch.inf
        return added

    exact = beam.exhaustive(model, trie, asked, terms(), K).ids
    beamed = found(beam.Maxima(trie, terms())).ids
    recall = torch.stack([torch.isin(a, b).float().mean() for a, b in zip(exact, beamed, strict=True)]).mean()
    fast, full = timed(plain), timed(lambda: found(beam.Maxima(trie, terms())))
    everyone = timed(lambda: beam.exhaustive(model, trie, asked, terms(), K))
    masking = share_of_masking(found, beam.Shown(trie, trie.hide(indptr, excluded)))
    nodes = torch.randint(len(trie.tokens[1]), (8, BEAM))
    prefixes = model.paths.prefixes[2][nodes].flatten(0, 1)
    ours = timed(lambda: beam._children(trie, 2, nodes, torch.zeros(nodes.shape)), 1)
    theirs = timed(lambda: by_comparison(stus, prefixes), 1)
    speeds = [f"{BATCH / seconds:,.0f}" for seconds in (fast, full, everyone)]
    return [f"{users:,}", *speeds, f"{masking:.0%}", f"{recall:.1%}", f"{theirs / ours:,.0f}x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[25_000, 250_000, 1_000_000])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads; users a second\n")
    heads = ["users", "beam", "beam with moment", "everyone with moment", "masking and exclusion", "beam's recall@10"]
    print(f"| {' | '.join([*heads, 'masking, beside comparison'])} |\n|{'---:|' * (len(heads) + 1)}")
    for users in arguments.users:
        with torch.no_grad():
            print(f"| {' | '.join(measure(users))} |", flush=True)


if __name__ == "__main__":
    main()
