"""`make run`: brings all stages up to date, several at a time, and prints the metrics. Without Prefect.

DVC decides which stages have to run, as it does for `dvc repro`. Where a run of the committed inputs gives other
bytes, the checkout does not change: see `tasks.reproduction`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from graphlib import TopologicalSorter

from rich.console import Console
from rich.live import Live
from rich.table import Table

from befriend import files, kernels, layout
from befriend.errors import STOPPED, BefriendError
from befriend.files import stage_lock
from tasks import reproduction
from tasks.dvc_process import StageError, StageOutcome, bring_up_to_date, changed_stages, environment_bin
from tasks.stage_graph import read_stage_graph, with_dependents

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.make_run", description=__doc__)
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, kernels.num_cores()),
        help="stages that may run at the same time; 1 needs the least memory",
    )
    parser.add_argument("--only-stages", action="store_true", help="compare and print nothing after the stages")
    arguments = parser.parse_args()
    try:
        with stage_lock(layout.STAGE_LOCK):
            reproduction.use_local_files()
            run(arguments.jobs)
            if arguments.only_stages:
                return
            outcome = reproduction.compare_and_set_aside()
        subprocess.run([environment_bin() / "befriend", "summary"], check=True)
        if outcome:
            console.print(outcome.describe(exact=False))
            sys.exit(0 if outcome.is_within_noise else 1)
    except BefriendError as error:
        console.print(f"make run: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.print("make run: stopped. Run the same command again: finished stages are not repeated.")
        sys.exit(STOPPED)


def run(jobs: int) -> None:
    """Brings all stages up to date; prints a line for each that was not. Raises the StageError of a stage that fails.

    jobs: how many stages may run at the same time.
    """
    graph = with_dependents(changed_stages(), read_stage_graph())
    if not graph:
        console.print("nothing has changed: no stage has to run")
        return
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    display = _Display(len(graph))
    running: dict[Future[StageOutcome], str] = {}
    with display.shown(), ThreadPoolExecutor(jobs) as executor:
        while sorter.is_active():
            for name in sorter.get_ready():
                running[executor.submit(display.follow, name)] = name
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                sorter.done(running.pop(future))
                if error := future.exception():
                    executor.shutdown(wait=True, cancel_futures=True)  # stages that run already may finish
                    raise error


class _Display:
    """Prints a line for each finished stage; on a terminal, the stages that run are below, with their progress."""

    def __init__(self, num_stages: int) -> None:
        self.num_stages, self.num_finished = num_stages, 0
        self.start: dict[str, float] = {}
        self.last_line: dict[str, str] = {}
        self.lock = threading.Lock()

    def follow(self, name: str) -> StageOutcome:
        """Runs a stage, and prints its line at the end."""
        with self.lock:
            self.start[name], self.last_line[name] = time.perf_counter(), ""
        try:
            outcome = bring_up_to_date(name, False, lambda line: self.last_line.update({name: line}), own_session=False)
            self._print(name, self._summary(outcome))
            return outcome
        except StageError:
            self._print(name, "failed")
            raise
        finally:
            with self.lock:
                del self.start[name]

    def _print(self, name: str, text: str) -> None:
        with self.lock:
            self.num_finished += 1
            seconds = time.perf_counter() - self.start[name]
            console.print(f"[{self.num_finished}/{self.num_stages}] {name:16} {seconds:4.0f} s  {text}", markup=False)

    @staticmethod
    def _summary(outcome: StageOutcome) -> str:
        record = layout.RUNS / f"{outcome.stage}.json"
        if not outcome.ran:
            return "unchanged, or taken from the cache"
        return str(files.read_json(record)["summary"]) if record.is_file() else "done"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the running stages while the context lasts, if the output is a terminal."""
        if not console.is_terminal:
            yield
            return
        with Live(get_renderable=self._running, console=console, refresh_per_second=2, transient=True):
            yield

    def _running(self) -> Table:
        table = Table.grid(padding=(0, 2))
        with self.lock:
            for name, start in self.start.items():
                seconds = f"{time.perf_counter() - start:.0f} s"
                table.add_row("running", name, seconds, self.last_line[name][: max(20, console.width - 45)])
        return table


if __name__ == "__main__":
    os.environ["PATH"] = f"{environment_bin()}{os.pathsep}{os.environ.get('PATH', '')}"
    main()
