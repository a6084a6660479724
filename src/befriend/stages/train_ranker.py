"""Stage train_ranker: trains the gradient-boosted ranker over the candidates of all models and rules.

It is trained on events of the validation part, on which the models are not trained.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from befriend import files
from befriend.data.event_log import DAY, EventLog
from befriend.data.split import read_split
from befriend.errors import DataError
from befriend.evaluation.protocol import make_eval_queries, make_requests
from befriend.evaluation.served_sources import choose_sources
from befriend.features.reciprocation import answered
from befriend.kernels import num_cores
from befriend.parallel import parallel_map
from befriend.progress import track
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import SOURCES, RankerExamples, Rankers, fit_ranker, merge_candidates
from befriend.retrieval.ranker_settings import RankerSettings
from befriend.retrieval.requests import RequestBatch

EVENTS_PER_BATCH = 256


@dataclass(frozen=True)
class RankerResult:
    num_lists: int
    """training lists of ranker `both`: those with the target among the candidates"""
    candidates_per_list: int
    """mean over the training lists"""
    candidate_recall: float
    """share of all lists with the target among the candidates"""
    num_trees: dict[str, int]
    """ranker -> number of trees"""
    served_sources: dict[str, dict[str, str]]
    """as in `Rankers`"""

    def summary(self) -> str:
        trees = ", ".join(f"{name} {count}" for name, count in self.num_trees.items())
        served = [
            f"{kind} {regime} lists are those of {source}"
            for kind, by_regime in self.served_sources.items()
            for regime, source in by_regime.items()
        ]
        return (
            f"{self.num_lists:,} lists of {self.candidates_per_list} candidates on average, "
            f"{self.candidate_recall:.0%} of all lists had the target among them; trees: {trees}"
            + "".join(f"; {sentence}, which is better on validation" for sentence in served)
        )


def run(settings: RankerSettings, prepared: Path, models: Path) -> RankerResult:
    """Reads the prepared log and the models; writes the folder ranker to `models`.

    Raises DataError if no list has its target among the candidates.
    """
    log = EventLog.read(prepared)
    split = read_split(prepared, log)
    loaded = LoadedModels.load(prepared, models, log)
    recommender = loaded.recommender(None)
    names = tuple(dict.fromkeys(source for sources in SOURCES.values() for source in sources))
    queries_by_regime = {
        regime: make_eval_queries(
            log, split, "validation", settings.events, regime, loaded.eligible_since, settings.first_contacts
        )
        for regime in settings.regimes
    }
    batches = list(make_requests(log, loaded.activity.histories, queries_by_regime, EVENTS_PER_BATCH))

    def examples_of(batch: tuple[RequestBatch, np.ndarray, Any]) -> tuple[int, dict[str, RankerExamples]]:
        """The number of examples of a batch, and for each ranker those with the target among the candidates."""
        request, events, _ = batch
        is_example = _example_mask(log, split.t_test, events, settings)
        ranking, examples = recommender.rank(request, names), {}
        for name, sources in SOURCES.items():
            users = merge_candidates(ranking.lists, sources)
            is_target = users == log.target[events][:, None]
            has_target = is_target.any(1) & is_example
            mask = (users >= 0) & has_target[:, None]
            rows = ranking.features(name, users)[mask]
            examples[name] = RankerExamples(
                rows,
                is_target[mask],
                mask.sum(1)[has_target],
                log.timestamp[events][has_target],
                request.user[has_target],
                request.regime[has_target],
                request.excludes_contacts[has_target],
            )
        return int(is_example.sum()), examples

    num_examples = 0
    example_blocks: dict[str, list[RankerExamples]] = {name: [] for name in SOURCES}
    for num_in_batch, batch_examples in track(parallel_map(examples_of, batches), "candidates", len(batches)):
        num_examples += num_in_batch
        for name, block in batch_examples.items():
            example_blocks[name].append(block)
    examples = {name: RankerExamples.concat(example_list) for name, example_list in example_blocks.items()}
    both = examples["both"]
    if not all(len(ranker_examples.groups) for ranker_examples in examples.values()):
        raise DataError(
            "no validation event has its target among the candidates: there is nothing to learn from. "
            "Raise train_ranker.events, or lower train_ranker.answer_days."
        )
    rankers = _fit(examples, settings)
    with files.atomic(models / "ranker") as folder:
        folder.mkdir()
        rankers.write(folder)
    num_lists, num_trees = len(both.groups), {name: booster.num_trees() for name, booster in rankers.boosters.items()}
    recall, per_list = num_lists / max(num_examples, 1), round(len(both.features) / num_lists)
    return RankerResult(num_lists, per_list, recall, num_trees, rankers.served_sources)


def _fit(examples: dict[str, RankerExamples], settings: RankerSettings) -> Rankers:
    """All rankers, and the sources that are served in place of `both`. examples: by name of the ranker."""
    fit = partial(fit_ranker, names=SOURCES["both"], settings=settings)
    with ThreadPoolExecutor(num_cores()) as executor:  # LightGBM computes without Python's lock
        boosters = executor.map(lambda name: fit_ranker(examples[name], SOURCES[name], settings), examples)
        served = executor.submit(choose_sources, examples["both"], SOURCES["both"], fit, settings.seed)
        return Rankers(dict(zip(examples, boosters, strict=True)), served.result())


def _example_mask(log: EventLog, end: int, events: np.ndarray, settings: RankerSettings) -> np.ndarray:
    """bool[n]: which events the ranker is trained on. events: int64[n], positions in the log.

    With the objective `contact`, all. Otherwise the events that were answered within answer_days, among those at least
    answer_days before `end`, the UTC second at which the known answers end.
    """
    if settings.objective == "contact":
        return np.ones(len(events), bool)
    is_old_enough = log.timestamp[events] + settings.answer_days * DAY < end
    return answered(log, events, settings.answer_days) & is_old_enough
