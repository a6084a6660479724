"""`befriend reproduce`: runs the pipeline of a commit in a clone of its own, and compares the figures.

Nothing is taken from this checkout but its git history, and its Python environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from befriend import files, layout
from befriend.analysis.metric_tables import reference_figures
from befriend.errors import STOPPED, BefriendError, CallError
from tasks import reproduction
from tasks.dvc_process import environment_bin

CLONES = layout.RUNS / "reproduce"


def main() -> None:
    parser = argparse.ArgumentParser(prog="befriend reproduce", description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD", help="a commit, branch or tag")
    try:
        sys.exit(reproduce(parser.parse_args().revision))
    except BefriendError as error:
        print(f"befriend: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("befriend: stopped. Run the same command again: finished stages are not repeated.", file=sys.stderr)
        sys.exit(STOPPED)


def reproduce(revision: str) -> int:
    """Reproduces a commit, and prints the comparison.

    Returns 0 if the bytes are equal, or, where they are not promised, if all figures are within the noise; else 1.
    """
    commit = _commit(revision)
    clone = CLONES / commit[:12]
    if not clone.is_dir():
        with files.atomic(clone) as new:
            _git("clone", "--quiet", "--no-checkout", ".", str(new))
            _git("-C", str(new), "checkout", "--quiet", "--detach", commit)
    print(f"running the stages of {commit[:12]} in {clone}", flush=True)
    has_runner = (clone / "tasks" / "make_run.py").is_file()
    runner = [sys.executable, "-m", "tasks.make_run", "--only-stages"]
    command = runner if has_runner else [str(environment_bin() / "dvc"), "repro"]
    paths = os.pathsep.join(str((clone / folder).resolve()) for folder in ("src", "."))
    environment = os.environ | {
        "PYTHONPATH": paths,
        "PATH": f"{environment_bin()}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    if subprocess.run(command, cwd=clone, env=environment).returncode != 0:
        raise BefriendError(f"the stages of {commit[:12]} failed; {clone} is as they left it")
    figures = reference_figures(files.read_json(clone / layout.METRICS))
    made = reproduction.parse_lock((clone / reproduction.LOCK).read_bytes())
    is_equal = reproduction.have_equal_outputs(made, reproduction.read_lock(commit))
    result = reproduction.compare(figures, commit, has_equal_bytes=is_equal)
    print(result.describe(exact=True))
    return 0 if result.is_exact else 1


def _commit(revision: str) -> str:
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
    except BefriendError:
        raise CallError(f"there is no commit {revision} here (git log --oneline lists them)") from None


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise BefriendError(f"git {arguments[0]} failed: {result.stderr.strip()}")
    return result.stdout


if __name__ == "__main__":
    main()
