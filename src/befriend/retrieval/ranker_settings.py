"""Settings of stage train_ranker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.data.regimes import REGIMES, Regime
from befriend.settings import Settings


class RankerSettings(Settings):
    """The ranker, which orders the candidates of all models and heuristics; it is trained on validation events."""

    objective: Literal["contact", "answered"] = "contact"
    """what the ranker predicts: contact, the user contacted next; answered, a user who is contacted and answers"""
    answer_days: Annotated[float, Field(gt=0)] = 7.0
    """objective answered: an answer within this many days counts; events closer to the test part are not used"""
    events: Annotated[int, Field(ge=1)] = 2000
    """maximum number of validation events per regime, evenly spaced"""
    first_contacts: Annotated[int, Field(ge=0)] = 2000
    """maximum number of validation events per regime, evenly spaced, that are first contacts: their lists without
    existing contacts are training lists too, as few of the other events are first contacts in some logs"""
    regimes: Annotated[list[Regime], Field(min_length=1)] = list(REGIMES)
    """regimes in which the training lists are made: which events a list may depend on"""
    trees: Annotated[int, Field(ge=1)] = 100
    """number of trees"""
    leaves: Annotated[int, Field(ge=2)] = 15
    """maximum number of leaves of a tree"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """learning rate: the weight of each tree"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice"""
    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads"""
