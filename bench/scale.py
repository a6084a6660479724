"""Growth of time and memory of `befriend validate` with the log: simulated logs of 0.1, 1 and 10 million events, as
Parquet and as CSV.

    python bench/scale.py [--events N ...]

Each command runs as a process of its own in a new folder; memory is the peak of that process. Prints a Markdown table,
a row for each size.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from befriend.files import read_json

COMMAND = [str(Path(sys.executable).with_name("befriend"))]
PARAMS = "data: {format: %s, actions: [accept, block, message, request, view], roles: {view: signal, block: exclude}}\n"


def timed(command: list[str], cwd: Path) -> tuple[float, float]:
    """Seconds and peak GiB of a command."""
    start = time.perf_counter()
    child = subprocess.Popen([*COMMAND, *command], cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed in {cwd}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    sizes = parser.parse_args().events
    print("| events | users | log | simulate | validate | memory | time for 10x the events | CSV | memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    previous: tuple[int, float] | None = None
    for num_events in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "params.yaml").write_text(PARAMS % "parquet")
            log_file = folder / "events.parquet"
            simulate, _ = timed(
                ["simulate", "--users", str(num_events // 20), "--events", str(num_events), "--out", "."], folder
            )
            seconds, memory = timed(["validate", "--source", str(log_file)], folder)
            pl.read_parquet(log_file).write_csv(folder / "events.csv")
            (folder / "params.yaml").write_text(PARAMS % "csv")
            csv_seconds, csv_memory = timed(["validate", "--source", str(folder / "events.csv")], folder)
            num_users, mib = read_json(folder / "reports/validation.json")["users"], log_file.stat().st_size / 2**20
        growth = f"{seconds / previous[1] / (num_events / previous[0]) * 10:.1f}x" if previous else ""
        cells = [
            f"{num_events:,}",
            f"{num_users:,}",
            f"{mib:.1f} MiB",
            f"{simulate:.0f} s",
            f"{seconds:.1f} s",
            f"{memory:.2f} GiB",
            growth,
            f"{csv_seconds:.1f} s",
            f"{csv_memory:.2f} GiB",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
        previous = num_events, seconds


if __name__ == "__main__":
    main()
