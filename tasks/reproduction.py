"""Keeps a checkout clean where a run of the committed inputs gives other bytes, and compares the figures of the two.

Equal inputs give equal bytes on x86 processors (`befriend.kernels`). Other processors and other versions of packages
round differently: there, a run of the committed code, settings and log gives another dvc.lock, and figures that differ
a little. Such a run is a *reproduction*. Its versions of the files that git tracks are kept in the folder LOCAL, which
git ignores, and `make run` puts them in place while it works. Between two runs the committed files are in place. A run
with other code, settings or another log is no reproduction: its files stay in place, to be committed.

`dvc repro` by hand knows nothing of this. After a reproduction it finds outputs that are not those of the committed
lock, takes those of this machine from the cache, and changes the tracked files.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from befriend import files, layout
from befriend.analysis.figure_comparison import FigureDifference, compare_figures
from befriend.analysis.metric_tables import reference_figures
from befriend.ops.processor import processor_name, promises_equal_bytes

LOCAL = Path(".reproduction")
LOCK = Path("dvc.lock")
TRACKED = (LOCK, layout.HEADLINE, layout.REFERENCE)
"""the files that a run writes and git tracks"""


@dataclass(frozen=True)
class Reproduction:
    """How the run of the committed inputs on this machine compares with the committed one."""

    has_equal_bytes: bool
    differences: list[FigureDifference]
    """of all figures, the largest first; empty if no figure is committed"""
    noise: str
    """what the differences are compared with"""
    bytes_promised: bool
    """whether equal bytes are promised on this processor"""

    @property
    def is_within_noise(self) -> bool:
        return all(difference.is_within for difference in self.differences)

    @property
    def is_exact(self) -> bool:
        """Whether the bytes are equal, or need not be and the figures are within the noise."""
        return self.has_equal_bytes or (self.is_within_noise and not self.bytes_promised)

    def describe(self, exact: bool) -> str:
        """One or more lines for the user. exact: whether to require equal bytes where they are promised."""
        if self.has_equal_bytes:
            return f"reproduced on {processor_name()}: equal bytes"
        if not self.differences:
            return f"the committed inputs gave other bytes on {processor_name()}; no figures are committed to compare"
        if not self.is_within_noise:
            outside = [str(difference) for difference in self.differences if not difference.is_within]
            title = (
                f"NOT reproduced on {processor_name()}: {len(outside)} of {len(self.differences)} figures differ by "
                f"more than {self.noise}"
            )
            return "\n  ".join([title, *outside])
        largest = max(self.differences, key=lambda d: d.difference)
        tolerance = f"{self.noise} ({largest.tolerance:.3f})"
        figures = f"largest difference {largest.difference:.3f} ({largest.name}), within {tolerance}"
        if not self.bytes_promised:
            return f"reproduced on {processor_name()}: {figures}. Only x86 processors with AVX2 give equal bytes"
        verb = "NOT reproduced" if exact else "reproduced"
        return (
            f"{verb} on {processor_name()}: {figures}. But the bytes should be equal on an x86 processor with AVX2: "
            "packages that are not those of constraints.txt, or code that dvc.yaml does not list, may be the cause"
        )


def use_local_files() -> None:
    """Puts this machine's versions of the tracked files in place, if the committed ones are there unchanged."""
    if not (LOCAL / LOCK).is_file():
        return
    committed = {path: read_committed(path) for path in TRACKED}
    lock = committed[LOCK]
    if lock is None or not have_equal_inputs(parse_lock(lock), parse_lock((LOCAL / LOCK).read_bytes())):
        files.remove(LOCAL)  # of an earlier commit
        return
    if all(path.is_file() and path.read_bytes() == content for path, content in committed.items()):
        for path in TRACKED:
            _write(path, (LOCAL / path).read_bytes())


def compare_and_set_aside() -> Reproduction | None:
    """If the run is a reproduction of the committed one, compares the two, and puts the committed files in place.

    None if it is not: there is no commit, or code, settings or log are not those of the commit.
    """
    committed = {path: read_committed(path) for path in TRACKED}
    lock = committed[LOCK]
    if lock is None or not LOCK.is_file() or not have_equal_inputs(parse_lock(lock), parse_lock(LOCK.read_bytes())):
        return None
    has_equal_bytes = all(path.is_file() and path.read_bytes() == content for path, content in committed.items())
    files.remove(LOCAL)
    if not has_equal_bytes:
        for path in TRACKED:
            _write(LOCAL / path, path.read_bytes())
            if (content := committed[path]) is not None:
                _write(path, content)
    figures = files.read_json(layout.REFERENCE if has_equal_bytes else LOCAL / layout.REFERENCE)
    return compare(figures, "HEAD", has_equal_bytes)


def compare(figures: dict[str, list[float]], revision: str, has_equal_bytes: bool) -> Reproduction:
    """Compares figures, as in reference.json, with those of a commit. An older commit has them in metrics.json."""
    reference, metrics = read_committed(layout.REFERENCE, revision), read_committed(layout.METRICS, revision)
    if reference is not None:
        committed = json.loads(reference)
    else:
        committed = reference_figures(json.loads(metrics)) if metrics is not None else {}
    deviations, noise = seed_noise(read_lock(revision))
    differences = compare_figures(figures, committed, deviations)
    return Reproduction(has_equal_bytes, differences, noise, promises_equal_bytes())


def have_equal_inputs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two locks are of the same commands, settings, code and log: all but what stages made of them."""
    return _inputs(one) == _inputs(other)


def have_equal_outputs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the stages of two locks made the same bytes."""
    return _outputs(one) == _outputs(other)


def _outputs(lock: dict[str, Any]) -> dict[str, Any]:
    """path of what a stage wrote -> its hash."""
    return {out["path"]: out.get("md5") for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])}


def _inputs(lock: dict[str, Any]) -> dict[str, Any]:
    """name of a stage -> its command, its settings, and the hashes of what it reads and no stage writes."""
    stages = lock.get("stages", {})
    outputs = {output["path"] for stage in stages.values() for output in stage.get("outs", [])}
    return {
        name: (
            stage["cmd"],
            stage.get("params"),
            [(dep["path"], dep.get("md5")) for dep in stage.get("deps", []) if dep["path"] not in outputs],
        )
        for name, stage in stages.items()
    }


def seed_noise(lock: dict[str, Any]) -> tuple[dict[str, float], str]:
    """The standard deviation of each figure between seeds, and what to call it; empty if it was not measured.

    It was measured on the sample, so it holds for a run on the same log and settings of the protocol.
    """
    path = layout.SAMPLE / "seed_noise.json"
    if path.is_file():
        measured = files.read_json(path)
        stages = lock.get("stages", {})
        log = next((dep["md5"] for dep in stages.get("validate", {}).get("deps", []) if dep["path"] == "data"), None)
        if measured["log"] == log:
            return {name: figure["deviation"] for name, figure in measured["figures"].items()}, "the noise of seeds"
    return {}, "the confidence interval of the figure"


def read_committed(path: Path, revision: str = "HEAD") -> bytes | None:
    """The content of a file in a commit; None if the commit does not have it, or without a git checkout."""
    shown = subprocess.run(["git", "show", f"{revision}:./{path}"], capture_output=True)
    return shown.stdout if shown.returncode == 0 else None


def read_lock(revision: str = "HEAD") -> dict[str, Any]:
    """The dvc.lock of a commit; empty if the commit has none."""
    lock = read_committed(LOCK, revision)
    return {} if lock is None else parse_lock(lock)


def parse_lock(lock: bytes) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(lock.decode()))


def _write(path: Path, content: bytes) -> None:
    with files.atomic(path) as temporary:
        temporary.write_bytes(content)
