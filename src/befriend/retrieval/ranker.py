"""The ranker, the second stage: orders the candidates of both models and of fourteen heuristics into one list.

Its *sources* are models and heuristics (rankings without learned parameters, such as popularity); its candidates are
the first users on the list of each source. The features of a candidate are the rank on each list, the scores of the
models, the regime, statistics of texts and events of candidate, requesting user and the two together, and their common
contacts. All of them are computed as of the cutoff of the list, a UTC second: only events before it count. LambdaMART
(Burges 2010), as LightGBM's lambdarank, learns from validation events which candidate should have come first. A higher
score of a model never lowers that of the ranker, all else equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from befriend import files
from befriend.errors import DataError
from befriend.features.feature_view import FeatureView
from befriend.features.two_hop import TwoHop
from befriend.retrieval.requests import RequestBatch

if TYPE_CHECKING:
    import lightgbm

    from befriend.retrieval.ranker_settings import RankerSettings

RANKER_HEURISTICS = (
    "recency-then-last-received",
    "base-level-then-attention",
    "last-received",
    "last-active",
    "attention",
    "decayed-in-degree-6h",
    "decayed-in-degree-quarter",
    "popularity",
    "adamic-adar-x-attention",
    "adamic-adar-x-fresh",
    "ppr-x-attention",
    "decayed-adamic-adar-day",
    "decayed-adamic-adar-month",
    "decayed-adamic-adar-x-fresh",
)
"""The heuristics that give candidates. Parts of their names, which `befriend.retrieval.heuristics` explains in full:

a-then-b      existing contacts by score a, then all other users by score b
a-x-b         the product of two scores
recency       UTC second of the last contact event of two users
last-active   UTC second of the user's last event as an actor; last-received: of the last incoming event
attention     sum over the contact events that a user received of about (age in seconds) ** -0.8, no neural attention
base-level    sum over the contact events of two users of (age in seconds) ** -0.5, whose log is ACT-R's activation
fresh         1 / log(e + seconds since the user's last event as an actor); 0 without one
ppr           personalized PageRank on the graph of contacts
decayed-...   contact events that a user received (in-degree), or contacts in common (adamic-adar), which count half
              after each 6 hours, day, month or quarter"""
MODELS = ("two-tower", "stu")
"""two-tower: embeddings of users; stu: generates the semantic ID of the target token by token"""
SOURCES: dict[str, tuple[str, ...]] = {"both": (*MODELS, *RANKER_HEURISTICS), "boosted": RANKER_HEURISTICS}
"""Name of a ranker -> its sources. Both rankers are boosted trees. `both` is served, and is named for the two models
among its sources; `boosted` has heuristics alone, and is a baseline"""
SERVED_SOURCES_FILE = "served_sources.json"
CANDIDATES_PER_SOURCE = 30
"""how many users from the top of the list of each source are candidates"""


@dataclass(frozen=True)
class CandidateLists:
    """The lists of models and heuristics for B requests, of k = `befriend.retrieval.requests.CANDIDATE_DEPTH` users."""

    ids: dict[str, np.ndarray]
    """name of a model or heuristic -> int64[B, k], best first, padded with -1"""
    scores: dict[str, np.ndarray]
    """name of a model -> float32[B, k]; heuristics have no scores"""


def merge_candidates(
    lists: CandidateLists, names: Sequence[str], per_source: int = CANDIDATES_PER_SOURCE
) -> np.ndarray:
    """int64[B, K]: the users among the first `per_source` on any of the named lists; ascending, padded with -1.

    K is the largest number of candidates of a request. Example: two requests, lists of a model and of a heuristic, and
    the first two users of each list. User 2 is on both lists of request 0, but only one candidate:

    >>> lists = CandidateLists({"stu": np.array([[4, 2, 5], [3, -1, -1]]), "ppr": np.array([[2, 1, 3], [5, 3, 1]])}, {})
    >>> merge_candidates(lists, ("stu", "ppr"), per_source=2)
    array([[ 1,  2,  4],
           [ 3,  5, -1]])
    """
    heads = np.sort(np.concatenate([lists.ids[name][:, :per_source] for name in names], 1), 1).astype(np.int64)
    heads[:, 1:][heads[:, 1:] == heads[:, :-1]] = -1
    order = np.argsort(heads < 0, 1, kind="stable")
    max_candidates = int((heads >= 0).sum(1).max(initial=1))
    return np.take_along_axis(heads, order, 1)[:, :max_candidates]


def ranker_features(
    feature_view: FeatureView, requests: RequestBatch, lists: CandidateLists, users: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """float32[B, K, D]: the ranker's features of candidates.

    users: int64[B, K], candidates from `merge_candidates`; names: the sources whose ranks and scores are features, see
    `SOURCES`. Columns, in this order:

    | number of columns | feature | NaN where |
    |---|---|---|
    | NUM_USER_FEATURES | activity of the candidate: ages, counts, decayed counts of outgoing and incoming events | |
    | NUM_USER_FEATURES | activity of the requesting user | |
    | NUM_STATISTICS, if the log has texts | texts of the candidate: number, age of the last | there is no text |
    | NUM_PAIR_FEATURES | ages and counts of the events between the two | there is no event between the two |
    | NUM_TWO_HOP_FEATURES | common contacts of the two, see `befriend.features.two_hop`; 0 without any | |
    | 1 | edge type: action and direction of their last event, 0 without one | |
    | 1 | whether they had a contact event | |
    | 1 | regime of the request, index into REGIMES | |
    | 1 or 3 for the first of `names` | see below | the candidate is not on its list |
    | 1 or 3 for the second, and so on | | |

    A heuristic has one column, the rank on its list, from 0. A model has three: rank; score; score minus the best score
    on the list. The columns of NUM_USER_FEATURES and NUM_PAIR_FEATURES are explained in `befriend.features.activity`,
    those of NUM_STATISTICS in `befriend.features.text_vectors`, and REGIMES in `befriend.data.regimes`.

    Where `users` is padded with -1, features are arbitrary.
    """
    activity = feature_view.activity
    num_visible, cutoff = (torch.from_numpy(x)[:, None] for x in (requests.num_visible, requests.cutoff))
    user = torch.from_numpy(requests.user)[:, None]
    candidate = torch.from_numpy(users).clamp(min=0)
    user_features = activity.user_features(activity.last_entries(user, num_visible), num_visible, cutoff).numpy()
    feature_blocks = [
        activity.user_features(activity.last_entries(candidate, num_visible), num_visible, cutoff).numpy(),
        np.repeat(user_features, users.shape[1], 1),
    ]
    if feature_view.texts.width:  # of a cold-start user, who has no events, nothing else about the user is known
        statistics, _ = feature_view.texts.statistics_and_rows(candidate, cutoff.expand_as(candidate))
        feature_blocks.append(torch.where(statistics[..., :1] > 0, statistics, torch.nan).numpy())
    entry = activity.last_pair_entries(user, candidate, num_visible)
    end = activity.histories.end_offsets(user, num_visible)
    pair = activity.pair_features(entry, end, num_visible, cutoff).numpy()
    feature_blocks.append(np.where((entry >= 0).numpy()[..., None], pair, np.nan))
    feature_blocks.append(_two_hop_features(feature_view.two_hop, requests, candidate))
    columns = [
        activity.edge_types(entry).numpy(),
        activity.has_contact_event(entry).numpy(),
        np.repeat(requests.regime[:, None], users.shape[1], 1),
    ]
    for name in names:
        rank = rank_in_list(lists.ids[name], users)
        columns.append(np.where(rank >= 0, rank, np.nan))
        if name in lists.scores:
            score = np.take_along_axis(lists.scores[name], rank.clip(min=0), 1)
            columns.append(np.where(rank >= 0, score, np.nan))
            columns.append(columns[-1] - lists.scores[name][:, :1])
    feature_blocks.append(np.stack(columns, -1))
    return np.concatenate(feature_blocks, -1).astype(np.float32)


def source_columns(num_columns: int, names: Sequence[str]) -> dict[str, int]:
    """Source -> the column of its rank among the features of `ranker_features`, which end with those of the sources.

    num_columns: of all features; names: the sources, in the same order.
    """
    sizes = [3 if name in MODELS else 1 for name in names]
    first = num_columns - sum(sizes) + np.cumsum([0, *sizes[:-1]])
    return dict(zip(names, first.tolist(), strict=True))


def _two_hop_features(two_hop: TwoHop, requests: RequestBatch, candidates: torch.Tensor) -> np.ndarray:
    """float32[B, K, NUM_TWO_HOP_FEATURES]: features of the common contacts of user and candidates, int64[B, K]."""
    context = torch.from_numpy(np.stack([requests.user, requests.num_visible, requests.cutoff]))
    distinct, row = context.unique(return_inverse=True, dim=1)
    return two_hop.neighbors(*distinct).features_of(row[:, None], candidates).numpy()


def rank_in_list(ids: np.ndarray, users: np.ndarray) -> np.ndarray:
    """int64[B, K]: the rank of each user on the list in the same row, from 0; -1 for users who are not on it.

    ids: int64[B, k], the lists; users: int64[B, K].
    """
    sorted_ids, rank = torch.from_numpy(ids).long().sort(1)
    sought = torch.from_numpy(np.ascontiguousarray(users))
    index = torch.searchsorted(sorted_ids, sought).clamp(max=ids.shape[1] - 1)
    is_listed = (sorted_ids.gather(1, index) == sought) & (sought >= 0)
    return torch.where(is_listed, rank.gather(1, index), -1).numpy()


@dataclass(frozen=True)
class RankerExamples:
    """Training examples of the ranker: n candidates of G lists, one list per event, list after list."""

    features: np.ndarray
    """float32[n, D], the features of each candidate"""
    labels: np.ndarray
    """bool[n], whether the candidate is the target, which should come first"""
    groups: np.ndarray
    """int64[G], number of candidates of each list"""
    timestamps: np.ndarray
    """int64[G], UTC second of each list's event"""
    users: np.ndarray
    """int64[G], the requesting users"""
    regimes: np.ndarray
    """int64[G], index into REGIMES"""
    excludes_contacts: np.ndarray
    """bool[G], whether it is a list `new`"""

    @classmethod
    def concat(cls, blocks: Sequence[RankerExamples]) -> RankerExamples:
        """The examples of all blocks; lists are sorted by time."""
        features, labels, groups, *by_list = (
            np.concatenate([getattr(block, field) for block in blocks]) for field in cls.__dataclass_fields__
        )
        order = np.argsort(by_list[0], kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        row_order = np.argsort(np.repeat(rank, groups), kind="stable")
        return cls(features[row_order], labels[row_order], groups[order], *(values[order] for values in by_list))

    def split(self, num_lists: int) -> tuple[RankerExamples, RankerExamples]:
        """The first lists, and the others."""
        num_rows = int(self.groups[:num_lists].sum())
        by_row, by_list = (self.features, self.labels), [self.groups, self.timestamps, self.users, self.regimes]
        by_list.append(self.excludes_contacts)
        return (
            RankerExamples(*(x[:num_rows] for x in by_row), *(x[:num_lists] for x in by_list)),
            RankerExamples(*(x[num_rows:] for x in by_row), *(x[num_lists:] for x in by_list)),
        )


def fit_ranker(examples: RankerExamples, names: Sequence[str], settings: RankerSettings) -> lightgbm.Booster:
    """Trains LambdaMART. names: the sources, in the order of the features.

    A pair of candidates has a loss if at least one of the two ranks among the first 20.
    """
    import lightgbm

    increasing = np.zeros(examples.features.shape[1], np.int64)
    for name, column in source_columns(len(increasing), names).items():
        if name in MODELS:  # its score, and its score minus the best
            increasing[column + 1 : column + 3] = 1

    options = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 20,
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 10.0,
        "monotone_constraints": increasing.tolist(),
        "seed": settings.seed,
        "num_threads": settings.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(examples.features, examples.labels.astype(np.int8), group=examples.groups)
    return lightgbm.train(options, data, settings.trees)


@dataclass(frozen=True)
class Rankers:
    """The rankers of a run."""

    boosters: dict[str, lightgbm.Booster]
    """name of a ranker, as in `SOURCES` -> its gradient-boosted trees"""
    served_sources: dict[str, dict[str, str]]
    """kind of list, any or new -> regime -> the source whose lists are served as those of `both`, as they were better
    on validation; see `befriend.evaluation.served_sources`"""

    def write(self, folder: Path) -> None:
        """Writes the rankers to a folder, which exists."""
        for name, booster in self.boosters.items():
            files.write_text(folder / f"{name}.txt", booster.model_to_string())
        files.write_json(folder / SERVED_SOURCES_FILE, self.served_sources)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the rankers that stage train_ranker wrote to `folder`; DataError if a file is missing or damaged."""
        import lightgbm

        boosters = {}
        for name in SOURCES:
            path = _require(folder / f"{name}.txt")
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
                if "\nend of trees\n" not in text:  # LightGBM would abort the process
                    raise DataError(f"{path} is damaged. Run `dvc repro --force train_ranker`.")
                boosters[name] = lightgbm.Booster(model_str=text)
            except lightgbm.basic.LightGBMError as error:
                raise DataError(f"{path} cannot be read ({error}). Run `dvc repro train_ranker`.") from None
        return cls(boosters, files.read_json(_require(folder / SERVED_SOURCES_FILE)))


def _require(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"there is no {path}. Run `dvc repro train_ranker` first.")
    return path
