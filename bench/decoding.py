"""Beam search over the trie of STUs: users per second, the time that masking and exclusion take, and the beam's recall.

    python bench/decoding.py [--users N ...] [--threads T]

STUs of 3 levels of 256 codes, whose frequency falls as rank^-0.5; a model of width 128 with random towers; requests in
batches of 256, with 20 excluded users each; lists of 10 by a beam of 50. The dynamic term adds an exact value to every
user's score, from 45 features of recent activity, as in serving. Masking is to find the tokens that may follow the
prefixes of the beams (on dense levels it is part of the scores and takes no extra time). It is compared with a
vectorised comparison of each prefix with all STUs. Everything is measured in one run.

Prints a Markdown table, a row for each number of users.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.retrieval import beam
from befriend.retrieval.knn import SearchResult
from befriend.tokens.trie import Trie

LEVELS, CODES, WIDTH, BEAM, K, BATCH, EXCLUDED, FEATURES = 3, 256, 128, 50, 10, 256, 20, 45


def random_stus(users: int) -> Tensor:
    """int64[N, 3]: distinct STUs."""
    random = np.random.default_rng(0)
    code_share = np.arange(1, CODES + 1) ** -0.5
    drawn = random.choice(CODES, (3 * users, LEVELS), p=code_share / code_share.sum())
    return torch.from_numpy(random.permutation(np.unique(drawn, axis=0))[:users])


def seconds_per_call(step: Callable[[], Any], seconds: float = 3.0) -> float:
    """Seconds of one call, the mean of as many as fit into `seconds`."""
    step()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        calls += 1
    return (time.perf_counter() - start) / calls


class Clock:
    """Adds up the time that wrapped functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return timed


def masking_share(run: Callable[[Any], SearchResult], bounds: Any) -> float:
    """Share of the time of a search that is spent on finding children and on checking which users may be shown."""
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


def tokens_by_comparison(stus: Tensor, prefixes: Tensor) -> Tensor:
    """bool[P, CODES]: tokens that may follow prefixes, int64[P, l], by comparing each with all STUs."""
    level = prefixes.shape[1]
    mask = torch.zeros(len(prefixes), CODES, dtype=torch.bool)
    for k, prefix in enumerate(prefixes):  # one at a time: all at once would need users x prefixes x tokens of memory
        mask[k, stus[(stus[:, :level] == prefix).all(1), level]] = True
    return mask


def measure(users: int) -> list[str]:
    """The cells of the row for a number of users."""
    torch.manual_seed(0)
    stus = random_stus(users)
    model = NextTargetPredictionSTU(1, LEVELS, CODES, WIDTH, WIDTH, stus=stus).eval()
    with torch.no_grad():
        for parameter in model.tower_layers.parameters():
            parameter.normal_(std=WIDTH**-0.5)
    trie = Trie.of(stus)
    prefix_scores = beam.PrefixScores.of(model, trie, model.prefix_tree)
    queries, features, weights = (
        torch.randn(BATCH, WIDTH),
        torch.randn(users, FEATURES),
        torch.randn(BATCH, FEATURES) / 10,
    )
    indptr, excluded = torch.arange(BATCH + 1) * EXCLUDED, torch.randint(users, (BATCH * EXCLUDED,))
    row = torch.repeat_interleave(torch.arange(BATCH), EXCLUDED)
    leaves = trie.leaves.long()

    def search(bounds: Any) -> SearchResult:
        return beam.beam_search(model, trie, prefix_scores, queries, bounds, BEAM, K)

    def search_without_terms() -> SearchResult:
        return search(beam.ExclusionBounds(trie, trie.exclusions(indptr, excluded)))

    def dynamic_terms() -> Tensor:
        terms = features @ weights.T
        terms[leaves[excluded], row] = -torch.inf
        return terms

    exact = beam.exhaustive_search(model, trie, queries, dynamic_terms(), K).ids
    by_beam = search(beam.TermBounds(trie, dynamic_terms())).ids
    recall = torch.stack([torch.isin(a, b).float().mean() for a, b in zip(exact, by_beam, strict=True)]).mean()
    without_terms, with_terms = (
        seconds_per_call(search_without_terms),
        seconds_per_call(lambda: search(beam.TermBounds(trie, dynamic_terms()))),
    )
    exhaustive = seconds_per_call(lambda: beam.exhaustive_search(model, trie, queries, dynamic_terms(), K))
    masking = masking_share(search, beam.ExclusionBounds(trie, trie.exclusions(indptr, excluded)))
    nodes = torch.randint(len(trie.tokens[1]), (8, BEAM))
    prefixes = model.prefix_tree.prefixes[2][nodes].flatten(0, 1)
    by_trie = seconds_per_call(lambda: beam._children(trie, 2, nodes, torch.zeros(nodes.shape)), 1)
    by_comparison = seconds_per_call(lambda: tokens_by_comparison(stus, prefixes), 1)
    speeds = [f"{BATCH / seconds:,.0f}" for seconds in (without_terms, with_terms, exhaustive)]
    return [f"{users:,}", *speeds, f"{masking:.0%}", f"{recall:.1%}", f"{by_comparison / by_trie:,.0f}x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[25_000, 250_000, 1_000_000])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads; users per second\n")
    heads = [
        "users",
        "beam",
        "beam with dynamic term",
        "exhaustive with dynamic term",
        "masking and exclusion",
        "beam's recall@10",
    ]
    print(f"| {' | '.join([*heads, 'masking: speed-up over comparison'])} |\n|{'---:|' * (len(heads) + 1)}")
    for users in arguments.users:
        with torch.no_grad():
            print(f"| {' | '.join(measure(users))} |", flush=True)


if __name__ == "__main__":
    main()
