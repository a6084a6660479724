"""Stage train_ranker: learns from validation events how to put the candidates of all models and rules in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from befriend import files
from befriend.config import RankerSettings
from befriend.data.activity import DAY
from befriend.data.answers import answered
from befriend.data.log import EventLog
from befriend.data.split import read_split
from befriend.errors import DataError
from befriend.evaluation.protocol import ask, requests
from befriend.progress import track
from befriend.retrieval.models import Models
from befriend.retrieval.ranker import SOURCES, Examples, candidates, fit

EVENTS_AT_ONCE = 256


@dataclass(frozen=True)
class RankerResult:
    lists: int
    candidates: int
    found: float
    trees: dict[str, int]

    def summary(self) -> str:
        trees = ", ".join(f"{name} {count}" for name, count in self.trees.items())
        return (
            f"{self.lists:,} lists of {self.candidates} candidates on average, {self.found:.0%} of all lists had the "
            f"target among them; trees: {trees}"
        )


def run(settings: RankerSettings, prepared: Path, models: Path) -> RankerResult:
    """Reads the prepared log and the models; writes the folder ranker to `models`."""
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    loaded = Models.read(prepared, models, log)
    recommender = loaded.recommender({})
    names = tuple(dict.fromkeys(source for sources in SOURCES.values() for source in sources))
    kept: dict[str, list[Examples]] = {name: [] for name in SOURCES}
    asked = 0
    questions = {
        regime: ask(log, split, "validation", settings.events, regime, loaded.findable) for regime in settings.regimes
    }
    blocks = list(requests(log, loaded.activity.histories, questions, EVENTS_AT_ONCE))
    for request, events, _ in track(blocks, "candidates", len(blocks)):
        wanted = _wanted(log, split.t_test, events, settings)
        asked += int(wanted.sum())
        ranking = recommender.rank(request, names)
        for name, sources in SOURCES.items():
            users = candidates(ranking.lists, sources)
            hit = users == log.target[events][:, None]
            useful = hit.any(1) & wanted
            real = (users >= 0) & useful[:, None]
            rows = ranking.features(name, users)[real]
            kept[name].append(Examples(rows, hit[real], real.sum(1)[useful], log.timestamp[events][useful]))
    examples = {name: Examples.joined(parts) for name, parts in kept.items()}
    if not all(len(part.groups) for part in examples.values()):
        raise DataError(
            "no validation event has its target among the candidates: there is nothing to learn from. "
            "Raise train_ranker.events, or lower train_ranker.answer_days."
        )
    trees = {}
    with files.atomic(models / "ranker") as folder:
        folder.mkdir()
        for name, part in examples.items():
            booster = fit(part, settings)
            trees[name] = booster.num_trees()
            files.write_text(folder / f"{name}.txt", booster.model_to_string())
    both = examples["both"]
    lists, people = len(both.groups), len(both.rows)
    return RankerResult(lists, round(people / lists), lists / max(asked, 1), trees)


def _wanted(log: EventLog, end: int, events: np.ndarray, settings: RankerSettings) -> np.ndarray:
    """bool[len(events)]: which events show what is to be learned. end: UTC second up to which answers are known."""
    if settings.objective == "contact":
        return np.ones(len(events), bool)
    old_enough = log.timestamp[events] + settings.answer_days * DAY < end
    return answered(log, events, settings.answer_days) & old_enough
