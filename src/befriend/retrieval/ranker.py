"""A ranker over the candidates of everyone else: one list that is better than each of those it is made from.

Candidates are the heads of other rankers' lists; what is known of each is where it stands on them, the models' scores,
and what the log tells of the candidate, the user and the two together at that moment. LightGBM's lambdarank (Burges
2010) learns from validation events who should have stood first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from befriend.data.observed import Observed
from befriend.errors import DataError
from befriend.retrieval.requests import Request

if TYPE_CHECKING:
    import lightgbm

    from befriend.config import RankerSettings

RULES = (
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
)
MODELS = ("two-tower", "stu")
HEAD = 30  # of each list


@dataclass(frozen=True)
class Lists:
    """What models and rules gave for a request."""

    ids: dict[str, np.ndarray]
    """name -> int64[R, SOURCED], -1 behind the last"""
    scores: dict[str, np.ndarray]
    """of models, name -> float32[R, SOURCED]"""


def candidates(lists: Lists, names: Sequence[str], head: int = HEAD) -> np.ndarray:
    """int64[R, K]: users at the head of any of the lists, each once, ascending; -1 behind the last."""
    heads = np.sort(np.concatenate([lists.ids[name][:, :head] for name in names], 1), 1).astype(np.int64)
    heads[:, 1:][heads[:, 1:] == heads[:, :-1]] = -1
    order = np.argsort(heads < 0, 1, kind="stable")
    kept = int((heads >= 0).sum(1).max(initial=1))
    return np.take_along_axis(heads, order, 1)[:, :kept]


def features(observed: Observed, request: Request, lists: Lists, users: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """float32[R, K, F]: what is known of candidates, int64[R, K], from `candidates`. NaN for what is not known."""
    activity = observed.activity
    visible, horizon = (torch.from_numpy(x)[:, None] for x in (request.visible, request.horizon))
    user = torch.from_numpy(request.user)[:, None]
    other = torch.from_numpy(users).clamp(min=0)
    own = activity.user_features(activity.places(user, visible), visible, horizon).numpy()
    parts = [
        activity.user_features(activity.places(other, visible), visible, horizon).numpy(),
        np.repeat(own, users.shape[1], 1),
    ]
    if observed.texts.width:  # who has no event yet is known by when they wrote
        told, _ = observed.texts.told(other, horizon.expand_as(other))
        parts.append(torch.where(told[..., :1] > 0, told, torch.nan).numpy())
    place = activity.pair_places(user, other, visible)
    end = activity.histories.ends(user, visible)
    pair = activity.pair_features(place, end, visible, horizon).numpy()
    parts.append(np.where((place >= 0).numpy()[..., None], pair, np.nan))
    flat = [
        activity.kinds(place).numpy(),
        activity.in_contact(place).numpy(),
        np.repeat(request.regime[:, None], users.shape[1], 1),
    ]
    for name in names:
        rank = ranks_of(lists.ids[name], users)
        flat.append(np.where(rank >= 0, rank, np.nan))
        if name in lists.scores:
            score = np.take_along_axis(lists.scores[name], rank.clip(min=0), 1)
            flat.append(np.where(rank >= 0, score, np.nan))
            flat.append(flat[-1] - lists.scores[name][:, :1])
    parts.append(np.stack(flat, -1))
    return np.concatenate(parts, -1).astype(np.float32)


def ranks_of(ids: np.ndarray, users: np.ndarray) -> np.ndarray:
    """int64[R, K]: where each user stands on a list, from 0; -1 for those not on it. ids: [R, k]; users: [R, K]."""
    listed, place = torch.from_numpy(ids).long().sort(1)
    wanted = torch.from_numpy(np.ascontiguousarray(users))
    found = torch.searchsorted(listed, wanted).clamp(max=ids.shape[1] - 1)
    same = (listed.gather(1, found) == wanted) & (wanted >= 0)
    return torch.where(same, place.gather(1, found), -1).numpy()


SOURCES: dict[str, tuple[str, ...]] = {"both": (*MODELS, *RULES), "boosted": RULES}


@dataclass(frozen=True)
class Examples:
    """Candidates of G lists, one list after the other."""

    rows: np.ndarray
    """float32[n, F]"""
    labels: np.ndarray
    """bool[n], who should have stood first"""
    groups: np.ndarray
    """int64[G], how many candidates each list has"""
    moments: np.ndarray
    """int64[G], the second of each list's event"""

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """All of them, in the order of time."""
        rows, labels, groups, moments = (
            np.concatenate([getattr(part, field) for part in parts]) for field in cls.__dataclass_fields__
        )
        order = np.argsort(moments, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        of_row = np.argsort(np.repeat(place, groups), kind="stable")
        return cls(rows[of_row], labels[of_row], groups[order], moments[order])


def fit(examples: Examples, settings: RankerSettings) -> lightgbm.Booster:
    """LambdaMART on the lists, the first ten or twenty places of which matter."""
    import lightgbm

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
        "seed": settings.seed,
        "num_threads": settings.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(examples.rows, examples.labels.astype(np.int8), group=examples.groups)
    return lightgbm.train(options, data, settings.trees)


def read_boosters(folder: Path) -> dict[str, lightgbm.Booster]:
    """What stage train_ranker left behind."""
    import lightgbm

    found = {}
    for name in SOURCES:
        path = folder / f"{name}.txt"
        if not path.is_file():
            raise DataError(f"there is no {path}. Run `dvc repro train_ranker` first.")
        try:
            found[name] = lightgbm.Booster(model_str=path.read_text(encoding="utf-8"))
        except lightgbm.basic.LightGBMError as error:
            raise DataError(f"{path} cannot be read ({error}). Run `dvc repro train_ranker`.") from None
    return found
