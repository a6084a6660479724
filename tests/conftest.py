"""Small logs and projects that tests share."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import polars as pl
import pytest

from befriend import artifacts, files
from befriend.cli.main import main
from befriend.data.columns import CONTACT, ROLES
from befriend.data.event_log import EventLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
hypothesis.settings.register_profile("default", max_examples=40, deadline=None)
hypothesis.settings.register_profile("prove", max_examples=2000, deadline=None)  # of `make prove`
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def _quick_disk() -> Iterator[None]:
    """Files are not forced to the disk: no test pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _undrawn_figures() -> Iterator[dict[str, Figure]]:
    """Figures are kept instead of being drawn, which takes a tenth of the time of all tests."""
    from matplotlib.figure import Figure

    figures: dict[str, Figure] = {}

    def savefig(figure: Figure, path: Path, **_: Any) -> None:
        figures[path.name] = figure
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "_draw_and_save", Figure.savefig, raising=False)
        patch.setattr(Figure, "savefig", savefig)
        yield figures


@pytest.fixture
def figures(_undrawn_figures: dict[str, Figure]) -> dict[str, Figure]:
    """The Matplotlib figures that a test makes, by the name of the file that would hold the picture."""
    _undrawn_figures.clear()
    return _undrawn_figures


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, as they are outside of tests."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", Figure._draw_and_save)  # type: ignore[attr-defined]


def make_log(events: list[tuple[int, str, int, int]], roles: dict[str, str] | None = None, users: int = 0) -> EventLog:
    """A log of (actor, action, target, second), already in time order."""
    labels = sorted({action for _, action, _, _ in events})
    actor, target, second = (np.array([event[k] for event in events]) for k in (0, 2, 3))
    return EventLog(
        actor=actor.astype(np.int32),
        target=target.astype(np.int32),
        timestamp=second.astype(np.int64),
        action=np.array([labels.index(action) for _, action, _, _ in events], np.uint8),
        role=np.array([ROLES.index((roles or {}).get(action, CONTACT)) for _, action, _, _ in events], np.uint8),
        actions=tuple(labels),
        user_ids=pl.Series(range(100, 100 + max(users, int(max(actor.max(), target.max())) + 1))),
    )


def random_log(users: int = 30, events: int = 600, seed: int = 0, days: int = 20) -> EventLog:
    """A log of random contacts, with repeated seconds and users who join over time."""
    rng = np.random.default_rng(seed)
    second = np.sort(rng.integers(0, days * 86400 // 60, events)) * 60 + 1_600_000_000
    known = np.maximum(3, users * np.arange(1, events + 1) // events)
    actor = (rng.random(events) * known).astype(int)
    target = (actor + 1 + (rng.random(events) * (known - 1)).astype(int)) % known
    return make_log(
        [(int(a), "hi", int(b), int(t)) for a, b, t in zip(actor, target, second, strict=True)], users=users
    )


@pytest.fixture
def raw_events() -> pl.DataFrame:
    """400 sound events of 40 users over 100 days, as a raw table."""
    rng = np.random.default_rng(7)
    actor = rng.integers(1, 41, 400)
    return pl.DataFrame(
        {
            "actor_id": actor,
            "action": rng.choice(["message", "view"], 400),
            "target_id": (actor + rng.integers(1, 39, 400)) % 40 + 1,
            "timestamp": np.sort(rng.integers(1_600_000_000, 1_608_640_000, 400)),
        }
    ).filter(pl.col("actor_id") != pl.col("target_id"))


def file_digests(root: Path, *folders: str) -> dict[str, str]:
    """Path relative to `root` -> SHA-256, of all files in some folders of it; there is at least one."""
    paths = artifacts.files_in(*(root / folder for folder in folders))
    assert paths
    return {str(path.relative_to(root)): files.sha256(path) for path in paths}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def call(folder: Path, *arguments: str) -> Done:
    """The command in this process: a process of its own would import torch each time."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        before, sys.argv = sys.argv, ["befriend", *arguments]
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = before
    return Done(code, out.getvalue(), err.getvalue())


# The projects below are imported when they are first used: they need all of befriend.


@pytest.fixture(scope="session")
def shared_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import projects

    return projects.shared(tmp_path_factory, "trained", projects.make_trained)


@pytest.fixture(scope="session")
def shared_trained_with_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import projects

    return projects.shared(tmp_path_factory, "trained_with_texts", projects.make_trained_with_texts)


@pytest.fixture(scope="session")
def shared_evaluated(tmp_path_factory: pytest.TempPathFactory, shared_trained: Path) -> Path:
    from tests import projects

    return projects.shared(tmp_path_factory, "evaluated", lambda root: projects.make_evaluated(root, shared_trained))


@pytest.fixture(scope="module")
def trained_project(shared_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 120 users and 3,000 events without texts, and all models trained on it."""
    return shutil.copytree(shared_trained, tmp_path_factory.mktemp("project") / "befriend")


@pytest.fixture(scope="module")
def trained_project_with_texts(shared_trained_with_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 80 users and 1,500 events with two texts a user, and all models trained on it."""
    return shutil.copytree(shared_trained_with_texts, tmp_path_factory.mktemp("project") / "befriend")


@pytest.fixture(scope="module")
def evaluated_project(shared_evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of `trained_project`, evaluated and clustered with PARAMS of tests/projects.py."""
    return shutil.copytree(shared_evaluated, tmp_path_factory.mktemp("project") / "befriend")
