"""Growth of the time to make STUs with the number of users: vectors, codebooks, codes, unique STUs, trie, new users.

    python bench/tokens_scale.py [--users N ...] [--threads T]

Each size runs in a process of its own; memory is the peak of that process. The interaction graph has communities whose
sizes fall as rank^-0.7, of 250 users on average, and 20 ties per user, four of five within the community; the number of
ties of a user is log-normal with deviation 1. Then a tenth as many more users join, each with a vector similar to that
of an existing user.

Prints a Markdown table, a row for each size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from befriend.tokens import residual_kmeans
from befriend.tokens.collisions import assign_by_distance, assign_in_order
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.trie import Trie
from befriend.tokens.user_vectors import SpectralEmbedding

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

COMMUNITY, TIES, WITHIN, DIMENSIONS = 250, 20, 0.8, 64
STEPS = ("vectors", "fit", "encode", "resolve", "trie", "join")
JOINER_NOISE = 0.05  # deviation of a joining user's vector from that of an existing user, in each dimension


def network(users: int, seed: int = 0) -> csr_array:
    """float64[N, N], symmetric: a random interaction graph with communities."""
    from scipy.sparse import coo_array

    random = np.random.default_rng(seed)
    community_share = np.arange(1, max(2, users // COMMUNITY) + 1) ** -0.7
    community = np.sort(random.choice(len(community_share), users, p=community_share / community_share.sum()))
    community_start, community_size = (
        np.searchsorted(community, np.arange(len(community_share))),
        np.bincount(community, minlength=len(community_share)),
    )
    user_activity = random.lognormal(0, 1, users)
    ties = users * TIES // 2
    actor = random.choice(users, ties, p=user_activity / user_activity.sum())
    actor_community = community[actor]
    target = np.where(
        random.random(ties) < WITHIN,
        community_start[actor_community] + (random.random(ties) * community_size[actor_community]).astype(np.int64),
        random.integers(users, size=ties),
    )
    ends = np.concatenate([actor, target]), np.concatenate([target, actor])
    graph = coo_array((np.ones(2 * ties), ends), shape=(users, users)).tocsr()
    graph.data = np.log1p(graph.data)
    return graph


def user_vectors(graph: csr_array, seed: int = 0) -> Tensor:
    """float32[N, 64]: spectral embedding of the users."""
    return torch.from_numpy(SpectralEmbedding.of(graph, DIMENSIONS, seed).embed(graph))


def measure(users: int, threads: int) -> dict[str, float]:
    """Seconds of each step; codes per level, bytes of the trie per user, share of users moved to another code."""
    torch.set_num_threads(threads)
    settings, graph = TokenizeSettings(), network(users)
    sizes = settings.sizes(users)
    times = [time.perf_counter()]

    def lap() -> None:
        times.append(time.perf_counter())

    vectors = user_vectors(graph)
    lap()
    quantizer = residual_kmeans.fit_residual_kmeans(vectors, sizes, settings.iterations, 0, threads)
    lap()
    codes = quantizer.codes(vectors)
    lap()
    stus = assign_by_distance(vectors, quantizer.codebooks)
    lap()
    trie = Trie.of(stus)
    lap()
    similar_users = vectors[torch.randperm(users, generator=torch.Generator().manual_seed(0))[: users // 10]]
    joining = similar_users + JOINER_NOISE * torch.randn(
        similar_users.shape, generator=torch.Generator().manual_seed(1)
    )
    double = quantizer.double()
    assign_in_order(double.latents(torch.nn.functional.normalize(joining, dim=1).double()), double.codebooks, stus)
    lap()
    seconds = dict(zip(STEPS, np.diff(times).tolist(), strict=True))
    arrays = (*trie.tokens, *trie.child_ptr, trie.users, trie.leaves)
    return seconds | {
        "codes": sizes[0],
        "bytes": sum(x.numel() * x.element_size() for x in arrays) / users,
        "moved": float((stus != codes).any(1).float().mean()),
    }


def measure_in_process(users: int, threads: int) -> tuple[dict[str, float], float]:
    """The result of `measure` in a process of its own, and that process's peak memory in GiB."""
    command = [sys.executable, __file__, "--threads", str(threads), "--single", str(users)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{users:,} users failed")
    return json.loads(printed), usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--single", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.single:
        print(json.dumps(measure(arguments.single, arguments.threads)))
        return
    header = [
        "users",
        "codes",
        *STEPS[:-1],
        "fit to trie",
        "time for 10x",
        "trie, bytes per user",
        "moved",
        "peak memory",
    ]
    header.append("a tenth more join")
    print(f"| {' | '.join(header)} |\n|{'---:|' * len(header)}")
    previous: tuple[int, float] | None = None
    for users in arguments.users:
        figures, memory = measure_in_process(users, arguments.threads)
        total = sum(figures[step] for step in STEPS[1:-1])
        growth = f"{(total / previous[1]) ** (np.log(10) / np.log(users / previous[0])):.1f}x" if previous else ""
        cells = [f"{users:,}", f"{figures['codes']:.0f} x 3", *(f"{figures[step]:.1f} s" for step in STEPS[:-1])]
        cells += [f"{total:.1f} s", growth, f"{figures['bytes']:.1f}", f"{figures['moved']:.0%}", f"{memory:.2f} GiB"]
        cells.append(f"{figures['join']:.1f} s")
        print(f"| {' | '.join(cells)} |", flush=True)
        previous = users, total


if __name__ == "__main__":
    main()
