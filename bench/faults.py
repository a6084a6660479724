"""Fault injection: kills the pipeline at random times, and checks that one rerun restores everything.

    python bench/faults.py [--kills 20] [--seed 0]

Works on a copy of this checkout with the profile `tiny`. In each trial all results are removed, DVC's cache included,
and the pipeline runs again; at a random time a process is killed with SIGKILL (the stage, DVC, or both at once), and
`dvc repro` is called once more. Afterwards dvc.lock and every output must equal those of an undisturbed run byte for
byte, and the champion must load and make a list.

Prints a Markdown table, a row for each kill: when, in which stage, what was killed, and how it ended. Exits with 1 if
any trial failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
OUTPUTS = ("prepared", "models", "reports")
TIMESTAMPED = ("data_docs",)  # contain the time they were written, and are no output of DVC
SERVE = """
import befriend
recommender = befriend.load("models/champion")
print(recommender.recommend(recommender.log.user_ids[:1], k=5).height)
"""
GIT_COMMANDS = (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a copy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "befriend"
        copy(root)
        clean(root)
        start = time.monotonic()
        call(root, "dvc", "repro")
        full_seconds = time.monotonic() - start
        call(root, "befriend", "gate")
        call(root, "befriend", "promote")
        reference = digests(root)
        print(f"undisturbed: {full_seconds:.0f} s, {len(reference)} files\n", flush=True)
        print(
            "| | killed after | stage | victim | one rerun | same bytes | champion |\n|---:|---:|---|---|---:|---|---|"
        )
        failures = 0
        for trial in range(arguments.kills):
            victim = rng.choice(("the stage", "DVC", "both"))
            delay = rng.uniform(1, full_seconds - 2)
            clean(root)
            stage = kill(root, delay, victim)
            start = time.monotonic()
            rerun = call(root, "dvc", "repro", ok=False)
            rerun_seconds = time.monotonic() - start
            outputs = digests(root)
            differing = [path for path in {*outputs, *reference} if outputs.get(path) != reference.get(path)]
            is_same = not differing
            serves = call(root, "python", "-c", SERVE, ok=False).stdout.strip() == "5"
            is_good = rerun.returncode == 0 and is_same and serves
            failures += not is_good
            rerun_cell = f"{rerun_seconds:.0f} s" if rerun.returncode == 0 else "FAILED"
            verdicts = ("yes" if is_same else "NO", "loads" if serves else "DOES NOT")
            row = (trial + 1, f"{delay:.0f} s", stage, victim, rerun_cell, *verdicts)
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            if not is_good:
                print(differing, rerun.stdout[-2000:], rerun.stderr[-2000:], file=sys.stderr)
        print(f"\n{arguments.kills - failures} of {arguments.kills} ended like the undisturbed run")
        sys.exit(bool(failures))


def copy(root: Path) -> None:
    """Copies this checkout, uncommitted changes included, to a new repository with the profile `tiny`."""
    list_files = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    call(root, "befriend", "use", "--tiny")
    for git in GIT_COMMANDS:
        subprocess.run(["git", *git], cwd=root, check=True)


def clean(root: Path) -> None:
    """Removes the results of runs, except the champion."""
    for path in [*root.glob("models/[!r.]*"), *root.glob("models/ranker"), *root.glob("prepared/*.parquet")]:
        if not path.is_symlink():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (root / "reports", root / ".dvc" / "cache", root / ".dvc" / "tmp", root / ".checkpoints"):
        shutil.rmtree(path, ignore_errors=True)
    (root / "dvc.lock").unlink()


def call(root: Path, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command in the copy. ok: exit if it fails."""
    process = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)
    if ok and process.returncode:
        sys.exit(f"{' '.join(command)}:\n{process.stdout}{process.stderr}")
    return process


def environment(root: Path) -> dict[str, str]:
    """Environment in which the code of the copy runs, even if the checkout changes meanwhile."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}


def kill(root: Path, delay: float, victim: str) -> str:
    """Runs the pipeline, and kills the victim after `delay` seconds. Returns the stage that was running."""
    process = subprocess.Popen(
        ["dvc", "repro"], cwd=root, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    time.sleep(delay)
    running = stages(process.pid)
    stage = next((command.split()[-1] for _, command in running), "between stages")
    victim_pids = {"the stage": [pid for pid, _ in running], "DVC": [process.pid]}
    for pid in victim_pids.get(victim, [process.pid, *(pid for pid, _ in running)]) or [process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    while remaining := stages(process.pid):  # a stage outlives its DVC; nothing else may run until it ends
        time.sleep(0.2)
        if victim != "DVC":
            for pid, _ in remaining:
                os.kill(pid, signal.SIGKILL)
    return stage


def stages(session: int) -> list[tuple[int, str]]:
    """Running processes `befriend STAGE` of a process session: (process id, command)."""
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ").strip()
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z" and "/befriend " in f"{command} ":
                running.append((int(process.name), command))
        except (OSError, ValueError, IndexError):
            continue
    return running


def digests(root: Path) -> dict[str, str]:
    """Path -> SHA-256, for dvc.lock and all outputs."""
    paths = [root / "dvc.lock"]
    for folder in OUTPUTS:
        paths += [p for p in (root / folder).rglob("*") if p.is_file() and not set(TIMESTAMPED) & set(p.parts)]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


if __name__ == "__main__":
    main()
