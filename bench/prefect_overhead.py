"""What the pipeline costs under Prefect beside `dvc repro` alone: whole process against whole process.

    python bench/prefect_overhead.py [--runs N]

Runs the pipeline of this checkout with --force, alone and as a flow in turn. Each flow starts a Prefect server of its
own with an empty database, as on a machine where Prefect never ran.
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
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | variables
    start = time.perf_counter()
    subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    alone, flow = [], []
    for _ in range(parser.parse_args().runs):
        alone.append(seconds("dvc", "repro", "--force"))
        with tempfile.TemporaryDirectory() as home:
            flow.append(seconds("python", "-m", "flows.pipeline", "--force", PREFECT_HOME=home))
    print("| | fastest | median | slowest |\n|---|---:|---:|---:|")
    extra = [b - a for a, b in zip(alone, flow, strict=True)]
    for name, found in (("dvc repro --force", alone), ("the same as a flow", flow), ("extra", extra)):
        print(f"| {name} | {min(found):.1f} s | {statistics.median(found):.1f} s | {max(found):.1f} s |")
    print(f"\nratio of the medians: {statistics.median(flow) / statistics.median(alone):.2f}")


if __name__ == "__main__":
    main()
