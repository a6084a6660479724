"""Overhead of Prefect: the pipeline as a flow against `dvc repro` alone, in seconds of whole processes.

    python bench/prefect_overhead.py [--runs N]

Runs the pipeline of this checkout with --force, alternately alone and as a flow. Each flow starts its own Prefect
server with an empty database, as on a machine where Prefect never ran. Prints a Markdown table with the fastest, median
and slowest run of each, and of the extra time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def seconds(*command: str, **variables: str) -> float:
    """Seconds of a command in this checkout, run with additional environment variables."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | variables
    start = time.perf_counter()
    subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    without_prefect, with_prefect = [], []
    for _ in range(parser.parse_args().runs):
        without_prefect.append(seconds("dvc", "repro", "--force"))
        with tempfile.TemporaryDirectory() as home:
            with_prefect.append(seconds("python", "-m", "flows.pipeline", "--force", PREFECT_HOME=home))
    print("| | fastest | median | slowest |\n|---|---:|---:|---:|")
    extra = [flow - alone for alone, flow in zip(without_prefect, with_prefect, strict=True)]
    for name, times in (("dvc repro --force", without_prefect), ("the same as a flow", with_prefect), ("extra", extra)):
        print(f"| {name} | {min(times):.1f} s | {statistics.median(times):.1f} s | {max(times):.1f} s |")
    print(f"\nratio of the medians: {statistics.median(with_prefect) / statistics.median(without_prefect):.2f}")


if __name__ == "__main__":
    main()
