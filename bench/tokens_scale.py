"""How the making of STUs grows with the number of users: vectors, codebooks, codes, one to one, trie; and joining them.

    python bench/tokens_scale.py [--users N ...] [--threads T]

Each size runs in a process of its own; memory is the peak of that process. The interaction graph has communities whose
sizes fall as rank^-0.7, 250 users each on average, and 20 ties a user, four of five within the community; how many a
user has is log-normal with deviation 1. A tenth as many more users join, each near somebody who is there.
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
from befriend.tokens.collisions import one_by_one, reassigned
from befriend.tokens.settings import TokenizeSettings
from befriend.tokens.trie import Trie
from befriend.tokens.user_vectors import Spectrum

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

COMMUNITY, TIES, WITHIN, DIMENSIONS = 250, 20, 0.8, 64
STEPS = ("vectors", "fit", "encode", "resolve", "trie", "join")
NEAR = 0.05  # deviation of who joins from somebody who is there, in each dimension


def network(users: int, seed: int = 0) -> csr_array:
    """float64[N, N], symmetric: ties of users with communities."""
    from scipy.sparse import coo_array

    random = np.random.default_rng(seed)
    share = np.arange(1, max(2, users // COMMUNITY) + 1) ** -0.7
    community = np.sort(random.choice(len(share), users, p=share / share.sum()))
    first, size = np.searchsorted(community, np.arange(len(share))), np.bincount(community, minlength=len(share))
    active = random.lognormal(0, 1, users)
    ties = users * TIES // 2
    actor = random.choice(users, ties, p=active / active.sum())
    own = community[actor]
    target = np.where(
        random.random(ties) < WITHIN,
        first[own] + (random.random(ties) * size[own]).astype(np.int64),
        random.integers(users, size=ties),
    )
    ends = np.concatenate([actor, target]), np.concatenate([target, actor])
    graph = coo_array((np.ones(2 * ties), ends), shape=(users, users)).tocsr()
    graph.data = np.log1p(graph.data)
    return graph


def people(graph: csr_array, seed: int = 0) -> Tensor:
    """float32[N, 64]: the users' vectors."""
    return torch.from_numpy(Spectrum.of(graph, DIMENSIONS, seed).place(graph))


def measure(users: int, threads: int) -> dict[str, float]:
    """Seconds of each step, and bytes of the trie a user."""
    torch.set_num_threads(threads)
    settings, graph = TokenizeSettings(), network(users)
    sizes = settings.sizes(users)
    clock = [time.perf_counter()]

    def lap() -> None:
        clock.append(time.perf_counter())

    vectors = people(graph)
    lap()
    quantizer = residual_kmeans.fit(vectors, sizes, settings.iterations, 0, threads)
    lap()
    codes = quantizer.codes(vectors)
    lap()
    stus = reassigned(vectors, quantizer.codebooks)
    lap()
    trie = Trie.of(stus)
    lap()
    near = vectors[torch.randperm(users, generator=torch.Generator().manual_seed(0))[: users // 10]]
    joining = near + NEAR * torch.randn(near.shape, generator=torch.Generator().manual_seed(1))
    double = quantizer.double()
    one_by_one(double.latents(torch.nn.functional.normalize(joining, dim=1).double()), double.codebooks, stus)
    lap()
    seconds = dict(zip(STEPS, np.diff(clock).tolist(), strict=True))
    arrays = (*trie.tokens, *trie.starts, trie.users, trie.leaves)
    return seconds | {
        "codes": sizes[0],
        "bytes": sum(x.numel() * x.element_size() for x in arrays) / users,
        "moved": float((stus != codes).any(1).float().mean()),
    }


def apart(users: int, threads: int) -> tuple[dict[str, float], float]:
    """What a process of its own measures, and its peak of memory in GiB."""
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
    heads = ["users", "codes", *STEPS[:-1], "fit to trie", "time for 10x", "trie, bytes a user", "moved", "peak memory"]
    heads.append("a tenth more join")
    print(f"| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
    before: tuple[int, float] | None = None
    for users in arguments.users:
        found, memory = apart(users, arguments.threads)
        total = sum(found[step] for step in STEPS[1:-1])
        growth = f"{(total / before[1]) ** (np.log(10) / np.log(users / before[0])):.1f}x" if before else ""
        cells = [f"{users:,}", f"{found['codes']:.0f} x 3", *(f"{found[step]:.1f} s" for step in STEPS[:-1])]
        cells += [f"{total:.1f} s", growth, f"{found['bytes']:.1f}", f"{found['moved']:.0%}", f"{memory:.2f} GiB"]
        cells.append(f"{found['join']:.1f} s")
        print(f"| {' | '.join(cells)} |", flush=True)
        before = users, total


if __name__ == "__main__":
    main()
