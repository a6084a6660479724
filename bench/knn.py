"""Exact and approximate nearest-neighbour search among a million vectors: time and recall.

    python bench/knn.py [--targets N] [--queries B] [--width D] [--threads T] [--tails 0.4 0.0 0.8]

The vectors imitate those of trained two-tower models: a mixture of 1,000 topics, whose sizes fall as rank^-0.7 and
whose spectrum falls (dimension j has deviation (j + 1)^-0.5). A target's direction is that of its topic plus 0.7 of
noise (cosine with the topic about .8); its norm is log-normal. The deviation of the log norm is 0.4 (the upper 1 % are
at least 2.5 times as long as the median: popular users), 0 for towers that normalise, and 0.8 for a heavy tail. A
query's direction is drawn as a target's. Each query excludes 20 users, its contacts, drawn from the user's own topic.

Prints a Markdown table, a row for each deviation, for lists of 100: seconds are the fastest of three searches, without
the time to build the index; recall@10 and recall@100 are the shares of the exact list's first 10, or of all 100, that
are among the first 10, or all, of the approximate list.
"""

from __future__ import annotations

import argparse
import time

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

from befriend.retrieval.knn import ExactIndex, IvfIndex, SearchResult

TOPICS, NOISE, K, EXCLUDED, REPEATS = 1000, 0.7, 100, 20, 3


def vectors(count: int, queries: int, width: int, tail: float) -> tuple[Tensor, Tensor, Tensor]:
    """float32[count, width] targets, float32[queries, width] queries, int64[queries, CONTACTS] excluded."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, width + 1) ** -0.5
    topic_share = torch.arange(1, TOPICS + 1) ** -0.7

    def directions(rows: int) -> Tensor:
        return F.normalize(torch.randn(rows, width, generator=generator) * spectrum, dim=1)

    centres = directions(TOPICS)

    def draw_around_topics(rows: int) -> tuple[Tensor, Tensor]:
        topic = torch.multinomial(topic_share, rows, replacement=True, generator=generator)
        return F.normalize(centres[topic] + NOISE * directions(rows), dim=1), topic

    targets, topic = draw_around_topics(count)
    targets *= (tail * torch.randn(count, 1, generator=generator)).exp()
    query_vectors, query_topic = draw_around_topics(queries)
    targets_by_topic, topic_size = topic.argsort(stable=True), torch.bincount(topic, minlength=TOPICS)
    offset = (torch.rand(queries, EXCLUDED, generator=generator) * topic_size[query_topic][:, None]).long()
    topic_start = (topic_size.cumsum(0) - topic_size)[query_topic][:, None]
    return targets, query_vectors, targets_by_topic[(topic_start + offset).clamp(max=count - 1)]


def timed(index: ExactIndex | IvfIndex, queries: Tensor, contacts: Tensor) -> tuple[SearchResult, float]:
    """Lists of K for all queries, and the seconds of the fastest search. contacts: int64[B, EXCLUDED], excluded."""
    indptr = torch.arange(len(queries) + 1) * EXCLUDED
    fastest = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = index.search(queries, K, indptr, contacts.flatten())
        fastest = min(fastest, time.perf_counter() - start)
    return result, fastest


def recall(exact: SearchResult, approximate: SearchResult, k: int) -> float:
    """Mean share of the first k of the exact lists that are among the first k of the approximate ones."""
    pairs = zip(exact.ids[:, :k], approximate.ids[:, :k], strict=True)
    return float(torch.stack([torch.isin(expected, listed).float().mean() for expected, listed in pairs]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tails", type=float, nargs="+", default=[0.4, 0.0, 0.8], help="deviation of log norms")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    print(f"{arguments.queries:,} queries, {arguments.targets:,} targets of width {arguments.width}, k = {K}")
    print("| tail of norms | exact | approximate | ratio | recall@10 | recall@100 | build |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for tail in arguments.tails:
        targets, queries, contacts = vectors(arguments.targets, arguments.queries, arguments.width, tail)
        exact, exact_s = timed(ExactIndex(targets), queries, contacts)
        start = time.perf_counter()
        index = IvfIndex.build(targets)
        build_s = time.perf_counter() - start
        approximate, approx_s = timed(index, queries, contacts)
        shares = " | ".join(f"{recall(exact, approximate, k):.3f}" for k in (10, K))
        print(
            f"| {tail} | {exact_s:.2f} s | {approx_s:.3f} s | {exact_s / approx_s:.1f}x | {shares} | {build_s:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
