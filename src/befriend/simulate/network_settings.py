"""Settings of the simulator: size of the network, strength of each pattern, and presets of both."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from befriend.settings import Settings, Share

COMMUNITY: Final = "community"
JOINED: Final = "joined"

ShareBelow1 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class SimulateSettings(Settings):
    """Size of the simulated network, and strength of each pattern in its events."""

    users: Annotated[int, Field(ge=10, le=100_000_000)] = 3000
    """number of users, including those who join during the log"""
    events: Annotated[int, Field(ge=10)] = 60_000
    """exact number of events"""
    days: Annotated[float, Field(ge=1)] = 180.0
    """days from the first event to the last"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice"""
    start: Annotated[int, Field(ge=0)] = 1_704_067_200
    """UTC second at which the log begins"""

    communities: Annotated[int, Field(ge=1)] = 24
    """number of communities, of uneven size; events contain no community"""
    homophily: Share = 0.75
    """probability that a user looks for a new contact in their own community; otherwise in any community"""
    closure: Share = 0.3
    """probability that a user looks for a new contact among the contacts of a contact"""
    attachment: Share = 0.7
    """probability that a new contact is drawn in proportion to requests received so far; otherwise uniformly"""
    crowding: ShareBelow1 = 0.4
    """share of requests that are soon followed by another user's request to the same target"""

    founders: Share = 0.2
    """share of users who joined before the log begins; the others join at uniform times during the log"""
    stay_days: Positive = 34.0
    """days after joining at which a user's activity is halved; it declines further"""
    eagerness: NotNegative = 2.0
    """extra activity of a user who just joined, as a multiple of their usual activity"""
    welcomed: Share = 0.8
    """share of newcomers who receive a request from another user within hours of joining"""

    activity_spread: NotNegative = 1.0
    """standard deviation of the logarithm of users' activity: 0 makes all equal, 1 and more gives a heavy tail"""
    awake_days: Positive = 0.5
    """mean days of a user's active phase"""
    dormant_days: NotNegative = 5.0
    """mean days of the dormant phase between two active phases; 0: no dormant phases"""
    attention: Share = 0.3
    """probability that receiving a request, an accept or a message makes a dormant user active"""
    daily_rhythm: Share = 0.7
    """strength of the daily cycle, with most events in the evening (UTC): 0 for none, 1 for the strongest"""

    talking: Share = 0.65
    """share of messages to a contact among the actions that a user with contacts does unprompted"""
    answered: ShareBelow1 = 0.45
    """share of messages that get a reply; replies get replies too, which makes threads"""
    answer_minutes: Positive = 8.0
    """median minutes until a reply"""
    viewed_first: Share = 0.5
    """share of approaches to a stranger that begin with a view"""
    requested_after_view: Share = 0.5
    """share of these views that are followed by a request"""
    never_accepted: Share = 0.6
    """share of requests that are never accepted"""
    blocked: Share = 0.02
    """share of requests that the target answers with a block: the two never interact again (part of never_accepted)"""
    accept_days: Positive = 0.25
    """median days until a request is accepted"""
    accept_spread: NotNegative = 2.0
    """standard deviation of the logarithm of that delay: at 2, one accept in twelve takes over 16 times the median"""

    texts: NotNegative = 0.0
    """mean number of short texts per user; 0: no texts and no statements"""

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
