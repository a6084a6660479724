"""How time and memory of `befriend validate` grow with the log: simulated logs of 0.1, 1 and 10 million events.

    python bench/scale.py [--events N ...]

Each stage runs as a whole process in a folder of its own; memory is the peak of that process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from befriend.files import read_json

COMMAND = [str(Path(sys.executable).with_name("befriend"))]
PARAMS = "data: {actions: [accept, block, message, request, view], roles: {view: signal, block: exclude}}\n"


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
    print("| events | users | log | simulate | validate | peak memory | time for 10x the events before |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    before: tuple[int, float] | None = None
    for events in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "params.yaml").write_text(PARAMS)
            log = folder / "events.parquet"
            simulate, _ = timed(
                ["simulate", "--users", str(events // 20), "--events", str(events), "--out", "."], folder
            )
            seconds, memory = timed(["validate", "--source", str(log)], folder)
            users, size = read_json(folder / "reports/validation.json")["users"], log.stat().st_size / 2**20
        growth = f"{seconds / before[1] / (events / before[0]) * 10:.1f}x" if before else ""
        cells = [
            f"{events:,}",
            f"{users:,}",
            f"{size:.1f} MiB",
            f"{simulate:.0f} s",
            f"{seconds:.1f} s",
            f"{memory:.2f} GiB",
        ]
        print("| " + " | ".join([*cells, growth]) + " |", flush=True)
        before = events, seconds


if __name__ == "__main__":
    main()
