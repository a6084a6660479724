"""Training throughput of the two-tower model: positions that carry a loss per second, and the share of the machine.

    python bench/throughput.py [--threads 2] [--batch 64] [--seconds 10]

Two configurations, histories of 50 events, widths 128 and 256, in-batch negatives, AdamW: the small one (pooled
attention, MLP) and the large one (transformer, mixture of 4 experts). Every history is encoded once and predicts the
target of each of its events; beside it the same model with one encoded window for each example. The arithmetic limit
is what a large matrix product reaches here, in the same run; operations are counted by torch's FlopCounterMode.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from befriend.models.batch import NextTargetPredictionBatch
from befriend.models.two_tower import NextTargetPredictionUserIDs

USERS, ACTIONS, LENGTH = 10_000, 5, 50
CONFIGURATIONS = {
    "simple attention + MLP": {"history_encoder_type": "simple_attention", "interaction_type": "mlp"},
    "transformer + MoE (4 experts)": {"history_encoder_type": "transformer", "interaction_type": "moe"},
}


def batch(rows: int) -> NextTargetPredictionBatch:
    """Full histories of events done, with hours between them."""
    shape = (rows, LENGTH)
    return NextTargetPredictionBatch(
        actor_id=torch.randint(USERS, (rows,)),
        actor_history_actions=torch.randint(ACTIONS, shape),
        actor_history_targets=torch.randint(USERS, shape),
        actor_history_mask=torch.ones(shape, dtype=torch.bool),
        example_action=torch.randint(ACTIONS, (rows,)),
        example_target=torch.randint(USERS, (rows,)),
        actor_history_timestamps=1_600_000_000 + torch.randint(60, 86_400, shape).cumsum(1),
    )


def per_second(step: Callable[[], int], seconds: float) -> float:
    """What a step returns, a second; the first step is not counted."""
    step()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += step()
    return done / (time.perf_counter() - start)


def limit(seconds: float) -> float:
    """Operations a second of a float32 matrix product of 2,048 x 2,048."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)

    def step() -> int:
        torch.mm(a, b)
        return 2 * 2048**3

    return per_second(step, seconds)


def measure(options: dict[str, str], rows: int, seconds: float) -> tuple[int, float, float, float]:
    """Parameters; positions a second; operations a position; examples a second with a window for each."""
    torch.manual_seed(0)
    model = NextTargetPredictionUserIDs(USERS, ACTIONS, negatives="in_batch", **options).train()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [batch(rows) for _ in range(4)]
    turn = iter(range(10**9))

    def train(temporal: bool) -> int:
        b = batches[next(turn) % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        forward = model.train_forward if temporal else model.train_forward_with_target
        forward(b, num_rand_negs=0)["loss"].backward()
        optimizer.step()
        return rows * (LENGTH + 1) if temporal else rows

    with FlopCounterMode(display=False) as counter:
        positions = train(True)
    operations = counter.get_total_flops() / positions
    count = sum(p.numel() for p in model.parameters())
    return count, per_second(lambda: train(True), seconds), operations, per_second(lambda: train(False), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="histories a step")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    most = limit(arguments.seconds / 5)
    print(f"{arguments.threads} threads; matrix products reach {most / 1e9:.0f} GFLOP/s\n")
    print("| | parameters | positions/s | MFLOP a position | share of the limit | a window for each example | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, options in CONFIGURATIONS.items():
        count, speed, operations, single = measure(options, arguments.batch, arguments.seconds)
        print(
            f"| {name} | {count:,} | {speed:,.0f} | {operations / 1e6:.1f} | {speed * operations / most:.0%} "
            f"| {single:,.0f}/s | {speed / single:.1f}x |"
        )


if __name__ == "__main__":
    main()
