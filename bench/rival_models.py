"""Lists of a learned rival, for `bench/rivals.py`. Runs in an environment with bench/rivals.txt, without befriend.

    python bench/rival_models.py MODEL FOLDER PART [--seed 0]

Reads events.parquet, users.parquet, split.json and requests_PART.parquet from FOLDER; writes MODEL_PART_SEED.npy,
int32[R, 100], the lists of the R requests, best first, padded with -1, and a JSON file with times and settings.

A rival of the package implicit is fitted again every week of the evaluated part, on all events before. A neural one is
trained once, on the events before validation, which also ends its training. The contacts of the requesting user are
those before the cutoff of its list. Candidates are the users with an event before the cutoff. Settings are chosen on
validation with the first seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

WEEK, DEPTH = 7 * 86_400, 100
NUM_CHOICE_EVENTS = 1000  # validation lists, in the regime daily, by which settings are chosen
NUM_STOPPING_EVENTS = 500  # and those by which a training ends
Scores = np.ndarray
"""float32[N]: of all users"""


class Rival(Protocol):
    """A model that scores all users for a user, as of a cutoff."""

    is_trained_once: bool
    """False: fitted again every week"""

    def fit(self, second: int) -> None:
        """Learns from the events before a second; trained once, from those before validation."""
        ...

    def scores(self, user: int, cutoff: int) -> Scores: ...


class Log:
    """The contact events of a log, by internal ids, as of any second."""

    def __init__(self, folder: Path):
        self.events = pd.read_parquet(folder / "events.parquet")
        self.first_seen = pd.read_parquet(folder / "users.parquet")["first_seen"].to_numpy()
        self.split = json.loads((folder / "split.json").read_text())
        self.num_users, self.timestamp = self.split["users"], self.events["timestamp"].to_numpy()
        self.actor, self.target = self.events["actor"].to_numpy(), self.events["target"].to_numpy()
        ends = np.concatenate([self.actor, self.target])
        order = np.argsort(ends, kind="stable")
        event = np.concatenate([np.arange(len(self.actor))] * 2)[order]
        by_time = np.lexsort((event, ends[order]))
        self.neighbor = np.concatenate([self.target, self.actor])[order][by_time]
        self.neighbor_event = event[by_time]
        self.indptr = np.concatenate([[0], np.bincount(ends, minlength=self.num_users).cumsum()])

    def history(self, user: int, second: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 each: other user and UTC second of a user's events before a second, oldest event first."""
        window = slice(self.indptr[user], self.indptr[user + 1])
        times = self.timestamp[self.neighbor_event[window]]
        count = np.searchsorted(times, second)
        return self.neighbor[window][:count], times[:count]

    def contacts(self, user: int, second: int) -> np.ndarray:
        """int64: the other users of a user's events before a second, oldest event first."""
        return self.history(user, second)[0]

    def matrix(self, second: int) -> csr_matrix:
        """float32[N, N]: logarithms of 1 + number of events of two users before a second, in either direction."""
        end = np.searchsorted(self.timestamp, second)
        rows = np.concatenate([self.actor[:end], self.target[:end]])
        columns = np.concatenate([self.target[:end], self.actor[:end]])
        counts = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (self.num_users, self.num_users))
        return counts.log1p()


def row_of(log: Log, user: int, second: int) -> csr_matrix:
    """float32[1, N]: the row of a user in `Log.matrix`, as of a second."""
    users, counts = np.unique(log.contacts(user, second), return_counts=True)
    row = np.zeros_like(users)
    return csr_matrix((np.log1p(counts).astype(np.float32), (row, users)), (1, log.num_users))


class Implicit:
    """A model of the package implicit, on the symmetric matrix of contacts."""

    GRIDS: dict[str, dict[str, list[Any]]] = {
        "als": {"factors": [32, 128], "regularization": [0.01, 1.0], "alpha": [1.0, 10.0]},
        "bpr": {"factors": [32, 128], "regularization": [0.001, 0.01], "learning_rate": [0.01, 0.05]},
        "bm25": {"K": [50, 200, 1000], "B": [0.0, 0.5]},
    }
    is_trained_once = False

    def __init__(self, name: str, log: Log, seed: int, settings: dict[str, Any]):
        self.name, self.log, self.seed, self.settings = name, log, seed, settings

    def fit(self, second: int) -> None:
        from implicit.als import AlternatingLeastSquares
        from implicit.bpr import BayesianPersonalizedRanking
        from implicit.nearest_neighbours import BM25Recommender

        matrix = self.log.matrix(second)
        if self.name == "bm25":
            self.model = BM25Recommender(num_threads=1, **self.settings)
        else:
            factory = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}[self.name]
            self.model = factory(random_state=self.seed, num_threads=1, **self.settings)
        self.model.fit(matrix, show_progress=False)

    def scores(self, user: int, cutoff: int) -> Scores:
        row = row_of(self.log, user, cutoff)
        if self.name == "bm25":
            return np.asarray((row @ self.model.similarity.tocsr()).todense()).ravel()
        if self.name == "als":  # the factors of the user are computed from the contacts before the cutoff
            factors = self.model.recalculate_user(user, row) if row.nnz else np.zeros(self.model.factors, np.float32)
        else:
            factors = self.model.user_factors[user]
        return self.model.item_factors @ factors


def lists_of(log: Log, model: Rival, requests: pd.DataFrame, start: int) -> tuple[np.ndarray, float, float]:
    """int32[R, DEPTH], the lists of the requests; minutes of training; milliseconds of a list.

    A model that is trained once has to be trained already.
    """
    lists, fit_time, rank_time = np.full((len(requests), DEPTH), -1, np.int32), 0.0, 0.0
    week = np.maximum(requests["cutoff"].to_numpy() - start, 0) // WEEK
    if model.is_trained_once:
        week[:] = 0
    columns = [requests[name].to_numpy() for name in ("user", "cutoff", "second", "new")]
    for k in np.unique(week):
        begin = time.perf_counter()
        if not model.is_trained_once:
            model.fit(start + int(k) * WEEK)
        fit_time += time.perf_counter() - begin
        begin = time.perf_counter()
        for row in np.flatnonzero(week == k):
            user, cutoff, second, new = (column[row] for column in columns)
            scores = np.asarray(model.scores(int(user), int(cutoff)), np.float64)
            scores[log.first_seen >= cutoff] = -np.inf
            scores[user] = -np.inf
            if new:
                scores[log.contacts(int(user), int(second))] = -np.inf
            best = np.argsort(-scores, kind="stable")[:DEPTH]
            lists[row] = np.where(scores[best] > -np.inf, best, -1)
        rank_time += time.perf_counter() - begin
    return lists, fit_time / 60, 1000 * rank_time / max(len(requests), 1)


def ndcg(lists: np.ndarray, target: np.ndarray) -> float:
    is_target = lists[:, :10] == target[:, None]
    return float(np.where(is_target.any(1), 1 / np.log2(is_target.argmax(1) + 2), 0).mean())


def grid(values: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for choice in itertools.product(*values.values()):
        yield dict(zip(values, choice, strict=True))


def value_on_validation(log: Log, model: Rival, folder: Path, num_events: int = NUM_CHOICE_EVENTS) -> float:
    """The geometric mean of NDCG@10 over lists any and new, daily, of about `num_events` validation events."""
    requests = pd.read_parquet(folder / "requests_validation.parquet")
    requests = requests[requests["regime"] == "daily"]
    requests = requests.iloc[:: max(1, len(requests) // num_events)]
    is_new, target = requests["new"].to_numpy(), requests["target"].to_numpy()
    lists, _, _ = lists_of(log, model, requests, log.split["validation"])
    parts = [max(ndcg(lists[mask], target[mask]), 1e-4) for mask in (is_new, ~is_new) if mask.any()]
    return float(np.exp(np.log(parts).mean()))


def make_rival(name: str, log: Log, folder: Path, seed: int, settings: dict[str, Any]) -> Rival:
    if name in Implicit.GRIDS:
        return Implicit(name, log, seed, settings)

    def value(model: Rival) -> float:
        return value_on_validation(log, model, folder, NUM_STOPPING_EVENTS)

    if name == "tgn":
        from rival_tgn import Tgn

        return Tgn(log, seed, settings, value)
    from rival_transformers import Transformer

    return Transformer(name, log, seed, settings, value)


GRIDS: dict[str, dict[str, list[Any]]] = {
    **Implicit.GRIDS,
    **{name: {"lr": [1e-3, 3e-4], "dropout_rate": [0.1, 0.3]} for name in ("sasrec", "esasrec", "hstu")},
    "tgn": {"lr": [1e-3, 1e-4]},
}
"""rival -> the settings that are tried, all combinations"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(GRIDS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("part")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    name, folder, log = arguments.model, arguments.folder, Log(arguments.folder)
    chosen = folder / f"{name}_settings.json"
    choices = [json.loads(chosen.read_text())] if chosen.exists() else list(grid(GRIDS[name]))
    best, best_value, minutes = None, -1.0, 0.0
    for settings in choices:
        model = make_rival(name, log, folder, arguments.seed, settings)
        begin = time.perf_counter()
        if model.is_trained_once:
            model.fit(log.split["validation"])
        trained = (time.perf_counter() - begin) / 60
        value = value_on_validation(log, model, folder) if len(choices) > 1 else 0.0
        print(f"{name} {settings}: {value:.4f} on validation, {trained:.1f} min", flush=True)
        if value > best_value:
            best, best_value, minutes = (model, settings), value, trained
    assert best is not None
    model, settings = best
    chosen.write_text(json.dumps(settings))
    requests = pd.read_parquet(folder / f"requests_{arguments.part}.parquet")
    lists, refits, milliseconds = lists_of(log, model, requests, log.split[arguments.part])
    stem = f"{name}_{arguments.part}_{arguments.seed}"
    np.save(folder / f"{stem}.npy", lists)
    times = {"minutes": minutes + refits, "milliseconds": milliseconds, "settings": settings}
    (folder / f"{stem}.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
