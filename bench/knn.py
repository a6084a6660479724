"""Exact and approximate search for the nearest of a million vectors, side by side.

    python bench/knn.py [--targets N] [--queries B] [--width D] [--threads T]

Vectors as trained two towers leave them: a mixture of 1,000 topics, whose sizes fall as rank^-0.7 and whose spectrum
falls (dimension j has deviation (j + 1)^-0.5). A target's direction is its topic's plus 0.7 of noise (cosine with its
topic about .8), its norm is log-normal: deviation 0.4 (the upper 1 % have 2.5 times the median and more: popular
users), 0 for towers that normalise, and 0.8 for a heavy tail. A query's direction is drawn as a target's. On each list
20 users are excluded, the contacts, drawn from the user's own topic.

Lists of 100; seconds are the fastest of three searches, without the time to build the index; recall is the share of the
exact list's first 10, or of all 100, on the approximate list's first 10, or on all of it.
"""

from __future__ import annotations

import argparse
import time

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

from befriend.retrieval.knn import ExactIndex, IvfIndex, Neighbours

TOPICS, NOISE, K, CONTACTS, REPEATS = 1000, 0.7, 100, 20, 3


def vectors(count: int, queries: int, width: int, tail: float) -> tuple[Tensor, Tensor, Tensor]:
    """float32[count, width] targets, float32[queries, width] queries, int64[queries, CONTACTS] excluded."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, width + 1) ** -0.5
    share = torch.arange(1, TOPICS + 1) ** -0.7

    def directions(rows: int) -> Tensor:
        return F.normalize(torch.randn(rows, width, generator=generator) * spectrum, dim=1)

    centres = directions(TOPICS)

    def near_topics(rows: int) -> tuple[Tensor, Tensor]:
        topic = torch.multinomial(share, rows, replacement=True, generator=generator)
        return F.normalize(centres[topic] + NOISE * directions(rows), dim=1), topic

    targets, topic = near_topics(count)
    targets *= (tail * torch.randn(count, 1, generator=generator)).exp()
    asked, own = near_topics(queries)
    by_topic, size = topic.argsort(stable=True), torch.bincount(topic, minlength=TOPICS)
    place = (torch.rand(queries, CONTACTS, generator=generator) * size[own][:, None]).long()
    first = (size.cumsum(0) - size)[own][:, None]
    return targets, asked, by_topic[(first + place).clamp(max=count - 1)]


def timed(index: ExactIndex | IvfIndex, queries: Tensor, contacts: Tensor) -> tuple[Neighbours, float]:
    indptr = torch.arange(len(queries) + 1) * CONTACTS
    fastest = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        found = index.search(queries, K, indptr, contacts.flatten())
        fastest = min(fastest, time.perf_counter() - start)
    return found, fastest


def recall(exact: Neighbours, found: Neighbours, k: int) -> float:
    pairs = zip(exact.ids[:, :k], found.ids[:, :k], strict=True)
    return float(torch.stack([torch.isin(true, listed).float().mean() for true, listed in pairs]).mean())


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
        exact, slow = timed(ExactIndex(targets), queries, contacts)
        start = time.perf_counter()
        index = IvfIndex.build(targets)
        build = time.perf_counter() - start
        found, fast = timed(index, queries, contacts)
        shares = " | ".join(f"{recall(exact, found, k):.3f}" for k in (10, K))
        print(f"| {tail} | {slow:.2f} s | {fast:.3f} s | {slow / fast:.1f}x | {shares} | {build:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
