"""The traits of a simulated social network: each a setting, with named sizes. What they do is in `simulate`."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from befriend.settings import Settings, Share

COMMUNITY: Final = "community"
JOINED: Final = "joined"
DAY: Final = 86_400

Part = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class SimulateSettings(Settings):
    """How large the network is, and how strongly each of its traits is planted."""

    users: Annotated[int, Field(ge=10, le=100_000_000)] = 3000
    """users, over the whole time"""
    events: Annotated[int, Field(ge=10)] = 60_000
    """events, exactly"""
    days: Annotated[float, Field(ge=1)] = 180.0
    """days from the first event to the last"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of everything random"""
    start: Annotated[int, Field(ge=0)] = 1_704_067_200
    """UTC second at which the log begins"""

    communities: Annotated[int, Field(ge=1)] = 24
    """planted communities, of uneven size; no event names them"""
    homophily: Share = 0.75
    """probability that somebody new is looked for in the own community; otherwise anywhere"""
    closure: Share = 0.3
    """probability that somebody new is looked for among the contacts of a contact"""
    attachment: Share = 0.7
    """probability that somebody new is drawn by requests received so far; otherwise evenly"""
    crowding: Part = 0.4
    """share of requests that soon draw another user's request to the same target"""

    founders: Share = 0.2
    """share of users who are there before the log begins; the others join evenly throughout"""
    stay_days: Positive = 34.0
    """a user's activity is halved this many days after joining, and fades further"""
    eagerness: NotNegative = 2.0
    """extra activity of a user who just joined, as a multiple of the usual"""
    welcomed: Share = 0.8
    """share of newcomers to whom a member sends a request within hours"""

    activity_spread: NotNegative = 1.0
    """standard deviation of the logarithm of the users' activity: 0 makes all alike, 1 and more a heavy tail"""
    awake_days: Positive = 0.5
    """mean length of a user's active phase"""
    dormant_days: NotNegative = 5.0
    """mean length of the dormant phase between two active ones; 0 for no dormant phases"""
    attention: Share = 0.3
    """probability that receiving a request, an accept or a message makes a dormant user active"""
    daily_rhythm: Share = 0.7
    """how much busier the evening is than the early morning (UTC): 0 not at all, 1 most"""

    talking: Share = 0.65
    """share of the own actions of a user who has contacts that are a message to one of them"""
    answered: Part = 0.45
    """share of messages that are answered; answers are answered too, which makes threads"""
    answer_minutes: Positive = 8.0
    """median minutes until the answer"""
    viewed_first: Share = 0.5
    """share of approaches to somebody new that begin with a view"""
    requested_after_view: Share = 0.5
    """share of those views that a request follows"""
    never_accepted: Share = 0.6
    """share of requests that are never accepted"""
    blocked: Share = 0.02
    """share of requests that the target answers with a block: the two never meet again (part of never_accepted)"""
    accept_days: Positive = 0.25
    """median days until a request is accepted"""
    accept_spread: NotNegative = 2.0
    """standard deviation of the logarithm of that delay: at 2, one accept in twelve takes over 16 times the median"""

    texts: NotNegative = 0.0
    """mean number of short texts that a user writes over the whole time; 0: none, nor any statement"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.blocked > self.never_accepted:
            raise ValueError(f"blocked ({self.blocked}) is a part of never_accepted ({self.never_accepted})")
        if self.communities > self.users:
            raise ValueError(f"there are more communities ({self.communities}) than users ({self.users})")
        return self


PROFILES: Final[dict[str, SimulateSettings]] = {
    "tiny": SimulateSettings(users=500, events=6000, communities=8, stay_days=60),
    "sample": SimulateSettings(texts=1.5),
    "regular": SimulateSettings(users=2000, events=20_000, communities=16, stay_days=45, welcomed=0.7),
    "4x": SimulateSettings(users=8000, events=80_000, communities=64, stay_days=45, welcomed=0.7),
}
