"""Training throughput of the two-tower model: positions with a loss per second, and the share of the machine's peak.

    python bench/throughput.py [--threads 2] [--batch 64] [--seconds 10]

Two configurations, with histories of 50 events, widths 128 and 256, in-batch negatives, AdamW: a small one (pooled
attention, MLP) and a large one (transformer, mixture of 4 experts). Every history is encoded once and predicts the
target of each of its events; for comparison, the same model encodes a window for each example. The peak is what a large
matrix product reaches in the same run; operations are counted by torch's FlopCounterMode.

Prints a Markdown table, a row for each configuration.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from befriend.models.model_inputs import NextTargetPredictionBatch
from befriend.models.two_tower_model import NextTargetPredictionUserIDs

USERS, ACTIONS, LENGTH = 10_000, 5, 50
CONFIGURATIONS = {
    "simple attention + MLP": {"history_encoder_type": "simple_attention", "interaction_type": "mlp"},
    "transformer + MoE (4 experts)": {"history_encoder_type": "transformer", "interaction_type": "moe"},
}


def random_batch(rows: int) -> NextTargetPredictionBatch:
    """Random histories of full length, of events that the actors did, with hours between them."""
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
    """Sum of what `step` returns, per second; the first call is a warm-up."""
    step()
    total, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        total += step()
    return total / (time.perf_counter() - start)


def peak_operations(seconds: float) -> float:
    """Operations per second of a float32 matrix product of 2,048 x 2,048."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)

    def step() -> int:
        torch.mm(a, b)
        return 2 * 2048**3

    return per_second(step, seconds)


def measure(options: dict[str, str], rows: int, seconds: float) -> tuple[int, float, float, float]:
    """Parameters; positions per second; operations per position; examples per second with a window for each."""
    torch.manual_seed(0)
    model = NextTargetPredictionUserIDs(USERS, ACTIONS, negatives="in_batch", **options).train()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = [random_batch(rows) for _ in range(4)]
    batch_number = iter(range(10**9))

    def train(all_positions: bool) -> int:
        batch = batches[next(batch_number) % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        forward = model.train_forward if all_positions else model.train_forward_with_target
        forward(batch, num_rand_negs=0)["loss"].backward()
        optimizer.step()
        return rows * (LENGTH + 1) if all_positions else rows

    with FlopCounterMode(display=False) as counter:
        positions = train(True)
    operations = counter.get_total_flops() / positions
    parameters = sum(p.numel() for p in model.parameters())
    return parameters, per_second(lambda: train(True), seconds), operations, per_second(lambda: train(False), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="histories per step")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peak = peak_operations(arguments.seconds / 5)
    print(f"{arguments.threads} threads; matrix products reach {peak / 1e9:.0f} GFLOP/s\n")
    print("| | parameters | positions/s | MFLOP per position | share of the peak | a window for each example | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, options in CONFIGURATIONS.items():
        parameters, speed, operations, windowed = measure(options, arguments.batch, arguments.seconds)
        print(
            f"| {name} | {parameters:,} | {speed:,.0f} | {operations / 1e6:.1f} | {speed * operations / peak:.0%} "
            f"| {windowed:,.0f}/s | {speed / windowed:.1f}x |"
        )


if __name__ == "__main__":
    main()
