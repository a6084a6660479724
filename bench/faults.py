"""Kills the pipeline at random moments, and looks whether one rerun puts everything right.

python bench/faults.py [--kills 20] [--seed 0]

On a copy of this checkout with the profile `tiny`. Each time all results are removed, DVC's cache too, and made anew;
something is killed with SIGKILL at a random moment (the stage, DVC, or both at once), and `dvc repro` is called once
more. Then dvc.lock and every output must be, byte by byte, those of a run that nobody disturbed, and the champion must
load and make a list.
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
TIMES = ("data_docs",)  # hold the time of their making, and are no output of DVC
SERVE = """
import befriend
people = befriend.load("models/champion")
print(people.recommend(people.log.user_ids[:1], k=5).height)
"""
GIT = (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a copy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "befriend"
        copy(root)
        clean(root)
        start = time.monotonic()
        call(root, "dvc", "repro")
        whole = time.monotonic() - start
        call(root, "befriend", "gate")
        call(root, "befriend", "promote")
        reference = digests(root)
        print(f"undisturbed: {whole:.0f} s, {len(reference)} files\n", flush=True)
        print(
            "| | killed after | in stage | what | one rerun | same bytes | champion |\n|---:|---:|---|---|---:|---|---|"
        )
        bad = 0
        for k in range(arguments.kills):
            what = draw.choice(("the stage", "DVC", "both"))
            wait = draw.uniform(1, whole - 2)
            clean(root)
            stage = kill(root, wait, what)
            start = time.monotonic()
            again = call(root, "dvc", "repro", ok=False)
            took = time.monotonic() - start
            found = digests(root)
            differ = [path for path in {*found, *reference} if found.get(path) != reference.get(path)]
            same = not differ
            serves = call(root, "python", "-c", SERVE, ok=False).stdout.strip() == "5"
            good = again.returncode == 0 and same and serves
            bad += not good
            done = f"{took:.0f} s" if again.returncode == 0 else "FAILED"
            verdicts = ("yes" if same else "NO", "loads" if serves else "DOES NOT")
            row = (k + 1, f"{wait:.0f} s", stage, what, done, *verdicts)
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            if not good:
                print(differ, again.stdout[-2000:], again.stderr[-2000:], file=sys.stderr)
        print(f"\n{arguments.kills - bad} of {arguments.kills} ended as if nothing had happened")
        sys.exit(bool(bad))


def copy(root: Path) -> None:
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    call(root, "befriend", "use", "--tiny")
    for git in GIT:
        subprocess.run(["git", *git], cwd=root, check=True)


def clean(root: Path) -> None:
    """Removes what runs have made, but for the champion."""
    for path in [*root.glob("models/[!r.]*"), *root.glob("models/ranker"), *root.glob("prepared/*.parquet")]:
        if not path.is_symlink():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (root / "reports", root / ".dvc" / "cache", root / ".dvc" / "tmp", root / ".checkpoints"):
        shutil.rmtree(path, ignore_errors=True)
    (root / "dvc.lock").unlink()


def call(root: Path, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)
    if ok and done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done


def environment(root: Path) -> dict[str, str]:
    """The code of the copy, whatever happens to the checkout meanwhile."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}


def kill(root: Path, wait: float, what: str) -> str:
    """Runs for a while, then kills. Returns the stage that was running."""
    process = subprocess.Popen(
        ["dvc", "repro"], cwd=root, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    time.sleep(wait)
    running = stages(process.pid)
    stage = next((command.split()[-1] for _, command in running), "between stages")
    victims = {"the stage": [pid for pid, _ in running], "DVC": [process.pid]}
    for pid in victims.get(what, [process.pid, *(pid for pid, _ in running)]) or [process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    while left := stages(process.pid):  # a stage whose DVC was killed goes on: nothing else may run beside it
        time.sleep(0.2)
        if what != "DVC":
            for pid, _ in left:
                os.kill(pid, signal.SIGKILL)
    return stage


def stages(session: int) -> list[tuple[int, str]]:
    """Processes `befriend STAGE` of a session: id and command."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ").strip()
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z" and "/befriend " in f"{command} ":
                found.append((int(entry.name), command))
        except (OSError, ValueError, IndexError):
            continue
    return found


def digests(root: Path) -> dict[str, str]:
    """path -> sha256, of dvc.lock and of all outputs."""
    paths = [root / "dvc.lock"]
    for folder in OUTPUTS:
        paths += [p for p in (root / folder).rglob("*") if p.is_file() and not set(TIMES) & set(p.parts)]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


if __name__ == "__main__":
    main()
