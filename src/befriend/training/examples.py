"""What training asks: every training event, as it would have been asked for then, in each regime.

An epoch is cut into windows of histories. A window is encoded once and answers for all events that were asked for
at its last places, whatever the regime: one that was asked for with less visible reads an earlier state.

In chronological order the windows go by what was visible, as a system in service would have learned: when an event is
asked for, the embeddings of users have learned from no later one. Shuffled, they would know the future of most events,
and the model would learn to rely on them more than it can on the day after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from befriend.data.activity import DAY
from befriend.data.log import first_seen
from befriend.data.observed import Observed
from befriend.data.split import SEGMENTS, segments
from befriend.data.texts import first_moments
from befriend.evaluation.regimes import HIDDEN, REGIMES, SAME_MOMENT
from befriend.models.batch import Batch, NextTargetPredictionBatch, Pairs, Positions, Targets, Written
from befriend.models.settings import RetrievalSettings
from befriend.training.negatives import Columns, draw, everyone

STRETCHES, BATCHES = 32, 8  # training time is gone through in so many stretches of at least so many batches each
MOST_OF_ONE = 32  # events asked for with the same history, regime and moment in one epoch
FIRST_CONTACTS = (SEGMENTS.index("new"), SEGMENTS.index("first ever"))
LIVE_MOMENTS = 4  # one in so many moments is asked for without the action as well
KNOWN = 256  # latest entries of a history searched for contacts to be left out of the list of new people


@dataclass(frozen=True)
class AskedBatch(Batch):
    """Histories, the positions asked for in them, and the candidates of each."""

    histories: NextTargetPredictionBatch
    positions: Positions
    weight: Tensor
    """float32[P]"""
    is_new: Tensor
    """bool[P], first contacts"""
    near: Targets
    """[P, 1 + K]: the target, then own contacts and users of the latest events"""
    pairs: Pairs
    """[P, 1 + K]"""
    near_allowed: Tensor
    """bool[P, K]"""
    near_contact: Tensor
    """bool[P, K], existing contacts"""
    columns: Columns
    column_targets: Targets
    """users [C]; partners [P, C, m]; features [P, C, F]; written of places [P, C]"""
    column_allowed: Tensor
    """bool[P, C]"""
    column_contact: Tensor
    """bool[P, C]"""
    visible: Tensor
    """int64[P], how many events of the log are visible"""
    horizon: Tensor
    """int64[P], UTC second from which on events are hidden"""


@dataclass(frozen=True)
class Asks:
    """Events asked for. Arrays of one length."""

    event: np.ndarray
    """int64, position in the log"""
    visible: np.ndarray
    """int64, how many events are visible"""
    horizon: np.ndarray
    """int64, UTC second from which on events are hidden"""
    refresh: np.ndarray
    """int64, index into REGIMES"""


class Examples:
    """All that training asks of one log. Nothing at or after `end` is ever touched."""

    def __init__(self, observed: Observed, end: int, settings: RetrievalSettings):
        """end: the first event that is not for training."""
        log, self.observed = observed.log, observed
        self.log, self.activity, self.encoded = log, observed.activity, observed.encoded
        self.settings = settings
        self.events = np.flatnonzero(log.is_contact[:end])
        self.end = end
        first = first_seen(log.actor, log.target, np.arange(log.num_events), log.num_users)
        self.first_event = torch.from_numpy(first)
        self.since = first_moments(log, observed.texts)
        """int64[N], the UTC second after which each user may be found, by an event or a text"""
        self.findable = torch.from_numpy(self.since)
        until = log.timestamp[end] if end < log.num_events else log.timestamp[-1] + 1
        counts = np.bincount(log.target[self.events], minlength=log.num_users)
        self.popularity = torch.from_numpy((counts / max(counts.sum(), 1)).astype(np.float32))
        self.universe = torch.from_numpy(np.flatnonzero(self.since < until))

    def epoch(self, epoch: int) -> Sequence[AskedBatch]:
        """The batches of one epoch, made when they are looked at."""
        return Epoch(self, epoch)

    def asks(self, rng: np.random.Generator) -> Asks:
        """Every training event in every regime, but for those whose target nobody could have found.

        Live sees what streaming sees, so what is learned there holds for it: beside streaming, some moments are enough.
        """
        log, events = self.log, self.events
        t = log.timestamp[events]
        found = []
        also_live = rng.integers(LIVE_MOMENTS, size=log.num_events + 1) == 0  # of each moment
        for name in self.settings.regimes:
            if name in SAME_MOMENT:
                horizon = t
            elif name == "daily":
                horizon = t // DAY * DAY
            else:
                # By events, not by seconds, as a part of the split goes: a list made at its start is shown for up to
                # an eighth as many events as training has. Each event is asked for at a moment of its own: a few for
                # all would be learned by heart.
                lag = rng.integers(max(1, self.end // 8) + 1, size=len(events))
                horizon = log.timestamp[np.maximum(events - lag, 0)]
            asks = Asks(events, log.before(horizon), horizon, np.full(len(events), REGIMES.index(name)))
            kept = self.since[log.target[events]] < horizon
            if name == "live" and "streaming" in self.settings.regimes:
                kept &= also_live[asks.visible]
            found.append(_take(asks, kept))
        return Asks(*(np.concatenate([getattr(part, f) for part in found]) for f in Asks.__dataclass_fields__))

    def batch(
        self,
        asks: Asks,
        window: np.ndarray,
        others: tuple[np.ndarray, np.ndarray],
        popularity: Tensor,
        seed: int,
    ) -> AskedBatch:
        """One batch: asks, the window of each (0 to B - 1, ascending), and pairs (ask, true target of its query).

        popularity: float32[N], the share of each user among the targets from which those of the batch are drawn.
        """
        s, log, activity = self.settings, self.log, self.activity
        generator = torch.Generator().manual_seed(seed)
        visible, horizon = torch.from_numpy(asks.visible), torch.from_numpy(asks.horizon)
        actor = torch.from_numpy(log.actor[asks.event]).long()
        target = torch.from_numpy(log.target[asks.event]).long()
        rows = torch.from_numpy(window)
        histories, state = self._histories(actor, visible, rows)
        refresh = torch.from_numpy(asks.refresh)
        action = torch.from_numpy(log.action[asks.event]).long()
        action = torch.where(refresh == 0, action, HIDDEN)

        features = self._features(actor, visible, horizon)

        # Candidates known for sure: own contacts, and the users of the latest events of all.
        full_end = activity.histories.ends(actor, visible)
        own_place = activity.contacts(full_end, actor, visible, s.own_contacts)
        own, own_ok = activity.others(own_place), own_place >= 0
        latest, latest_ok = activity.latest(visible, s.recent_events)
        here, now = visible[:, None], horizon[:, None]
        looked = torch.cat([target[:, None], latest], 1)
        looked_pair = activity.pair_places(actor[:, None], looked, here)
        pointed = looked_pair >= (full_end[:, None] - s.own_contacts).clamp(min=0)
        latest_ok &= (latest != actor[:, None]) & ~pointed[:, 1:]  # those are own contacts already
        users = torch.cat([looked[:, :1], own, looked[:, 1:]], 1)
        pair = torch.cat([looked_pair[:, :1], own_place, looked_pair[:, 1:]], 1)
        near_allowed = torch.cat([own_ok, latest_ok], 1) & (users[:, 1:] != target[:, None])
        contact = activity.in_contact(pair)
        pair = torch.cat([torch.where(pointed[:, :1], pair[:, :1], -1), pair[:, 1:]], 1)
        met = torch.cat([pointed[:, :1], own_ok, torch.zeros_like(latest_ok)], 1)
        pairs = Pairs(met, activity.pair_features(pair, full_end[:, None], here, now), activity.kinds(pair))
        other_row, other_user = (torch.from_numpy(x) for x in others)
        same = users[other_row, 1:] == other_user[:, None]
        hit = same.nonzero()
        near_allowed[other_row[hit[:, 0]], hit[:, 1]] = False

        # Candidates drawn for the whole batch.
        if s.softmax == "full":
            columns = everyone(self.universe)
        else:
            columns = draw(target, popularity, self.universe, s.negatives, s.num_rand_negs, s.log_q, generator)
        c = columns.users
        allowed = (self.findable[c] < now) & (c != actor[:, None])
        row = torch.arange(len(actor))[:, None]
        candidate = torch.cat([torch.ones_like(looked_pair[:, :1], dtype=torch.bool), own_ok, latest_ok], 1)
        columns.forbid(allowed, row.expand_as(users)[candidate], users[candidate])
        columns.forbid(allowed, other_row, other_user)
        known_place = activity.contacts(full_end, actor, visible, KNOWN)
        known_ok = activity.in_contact(known_place)
        stranger = torch.ones_like(allowed)
        known = activity.others(known_place)
        columns.forbid(stranger, row.expand_as(known)[known_ok], known[known_ok])

        last = torch.from_numpy(window != np.append(window[1:], -1))
        weight = torch.where(last, 1.0, s.temporal_weight)
        fresh = [REGIMES.index(name) for name in s.regimes if name in SAME_MOMENT]
        freshest = torch.tensor(fresh or [min(REGIMES.index(name) for name in s.regimes)])
        learns = torch.isin(refresh, freshest) if s.order == "chronological" else None
        return AskedBatch(
            histories=histories,
            positions=Positions(rows, state, action, target, refresh, features, learns),
            weight=weight,
            is_new=torch.from_numpy(np.isin(segments(log, asks.event, asks.horizon, self.since), FIRST_CONTACTS)),
            near=self.targets(users, here, now),
            pairs=pairs,
            near_allowed=near_allowed,
            near_contact=contact[:, 1:],
            columns=columns,
            column_targets=self.targets(c, here, now),
            column_allowed=allowed,
            column_contact=~stranger,
            visible=visible,
            horizon=horizon,
        )

    def with_hard(self, batch: AskedBatch, users: Tensor) -> AskedBatch:
        """The batch with more candidates for each position. users: int64[P, H], distinct in each row.

        Whoever is a candidate already, or no negative of the position, is not added.
        """
        device = users.device
        users, visible, horizon = users.cpu().contiguous(), batch.visible.cpu()[:, None], batch.horizon.cpu()[:, None]
        near, columns = batch.near.users.cpu(), batch.columns.to("cpu")
        actor = batch.histories.actor_id.cpu()[batch.positions.row.cpu()][:, None]
        place = columns.places(users)
        allowed = (self.findable[users] < horizon) & (users != actor) & (users[:, :, None] != near[:, None]).all(-1)
        # A column that may not be a negative may not be one here either.
        free = batch.column_allowed.cpu().gather(1, place.clamp(min=0))
        allowed &= (place < 0) | free
        kept = batch.column_allowed.cpu().clone()
        row = torch.arange(len(users))[:, None].expand_as(users)
        columns.forbid(kept, row[allowed], users[allowed])
        pair = self.activity.pair_places(actor, users, visible)
        end = self.activity.histories.ends(actor, visible)
        features = self.activity.pair_features(pair, end, visible, horizon)
        contact = self.activity.in_contact(pair)
        met = pair >= (end - self.settings.own_contacts).clamp(min=0)
        more = self.targets(users, visible, horizon).to(device)
        pairs = Pairs(met, features, self.activity.kinds(pair)).to(device)
        return replace(
            batch,
            near=batch.near.beside(more),
            pairs=batch.pairs.beside(pairs),
            near_allowed=torch.cat([batch.near_allowed, allowed.to(device)], 1),
            near_contact=torch.cat([batch.near_contact, contact.to(device)], 1),
            column_allowed=kept.to(device),
        )

    def targets(self, users: Tensor, visible: Tensor, horizon: Tensor) -> Targets:
        """Users as targets at each position's moment. users: int64[P, K] or int64[C]; visible, horizon: int64[P, 1]."""
        s, activity = self.settings, self.activity
        partners = features = written = None
        if s.freshness or s.partners:
            place = activity.places(users, visible)
        if s.freshness:
            features, row = self.observed.told(users, place, visible, horizon)
            written = None if row is None else Written.of(row, self.observed.texts.vectors)
        if s.partners:
            partners = activity.partners(users.expand_as(place), place + 1, s.partners)
        return Targets(users, partners, features, written)

    def _features(self, users: Tensor, visible: Tensor, horizon: Tensor) -> Tensor | None:
        if not self.settings.freshness:
            return None
        return self.observed.features(users, self.activity.places(users, visible), visible, horizon)

    def _histories(self, actor: Tensor, visible: Tensor, rows: Tensor) -> tuple[NextTargetPredictionBatch, Tensor]:
        """The window of each row, as long as its latest ask needs, and the state that each ask reads."""
        h, n = self.encoded, self.settings.history_length
        end = h.ends(actor, visible)
        count = int(rows[-1]) + 1
        user = torch.zeros(count, dtype=torch.long).scatter_(0, rows, actor)
        high = torch.zeros(count, dtype=torch.long).scatter_reduce_(0, rows, end, "amax")
        length = int((high - h.indptr[user]).max().clamp(1, n))
        got = h.before(user, high, length)
        batch = NextTargetPredictionBatch(
            user, got.action, got.other, got.mask, torch.full_like(user, HIDDEN), user, got.received, got.timestamp
        )
        return batch, length - (high[rows] - end)


class Epoch(Sequence[AskedBatch]):
    """The batches of one epoch."""

    def __init__(self, examples: Examples, epoch: int):
        self.examples, self.seed = examples, [examples.settings.seed, epoch]
        rng = np.random.default_rng(self.seed)
        s, log, h = examples.settings, examples.log, examples.encoded
        asks = examples.asks(rng)
        actor = log.actor[asks.event].astype(np.int64)
        # Asks of one query: the same user, regime and moment.
        order = np.lexsort((rng.random(len(actor)), asks.visible, actor, asks.refresh))
        asks, actor = _take(asks, order), actor[order]
        fresh = np.ones(len(actor), bool)
        fresh[1:] = (np.diff(asks.visible) != 0) | (np.diff(actor) != 0) | (np.diff(asks.refresh) != 0)
        group = fresh.cumsum() - 1
        start = np.flatnonzero(fresh)
        self.true_users, self.true_start = _distinct(group, log.target[asks.event], len(start))
        kept = np.arange(len(actor)) - start[group] < MOST_OF_ONE
        asks, actor, group = _take(asks, kept), actor[kept], group[kept]

        end = h.ends(torch.from_numpy(actor), torch.from_numpy(asks.visible)).numpy() - h.indptr.numpy()[actor]
        most = min(STRETCHES, len(actor) // (BATCHES * s.positions_per_batch))
        stretches = max(1, most) if s.order == "chronological" else 1
        stretch = asks.visible * stretches // (examples.end + 1)
        stride = min(s.temporal_positions, s.history_length)
        if stride == 1:
            window = rng.permutation(len(actor))
        else:
            label = actor * (log.num_events + 1) + (end + rng.integers(stride)) // stride
            window = np.unique(label * stretches + stretch, return_inverse=True)[1]
        # Windows of similar length go together, as far as that leaves batches mixed.
        order = np.argsort(window, kind="stable")
        counts = np.bincount(window)
        first = order[np.concatenate([[0], counts.cumsum()[:-1]])]
        length = np.minimum(end[first], s.history_length)
        jitter = rng.random(len(counts))
        sequence = np.lexsort((length + 16 * jitter, stretch[first]))
        place = np.empty(len(counts), np.int64)
        place[sequence] = np.arange(len(counts))
        order = np.argsort(place[window] * np.int64(log.num_events + 1) + end, kind="stable")
        self.asks, self.group, self.window = _take(asks, order), group[order], place[window][order]
        # Batches of about equal size, none of two stretches.
        part, total = stretch[first][sequence], counts[sequence].cumsum()
        sizes = np.bincount(part, counts[sequence])
        before = (sizes.cumsum() - sizes)[part]
        batches = np.ceil(sizes / s.positions_per_batch)[part]
        number = (total - 1 - before) * batches // sizes[part]
        cut = np.flatnonzero((np.diff(number, prepend=-1) != 0) | (np.diff(part, prepend=-1) != 0))
        bounds = np.concatenate([np.concatenate([[0], total])[cut], [len(order)]])
        self.bounds = np.stack([bounds[:-1], bounds[1:]], 1)[np.lexsort((rng.random(len(cut)), part[cut]))]
        self.stretch = stretch[order]

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, k: int) -> AskedBatch:  # type: ignore[override]
        low, high = self.bounds[k]
        asks, group = _take(self.asks, slice(low, high)), self.group[low:high]
        window = np.unique(self.window[low:high], return_inverse=True)[1]
        size = np.diff(self.true_start)[group]
        row = np.repeat(np.arange(len(group)), size)
        place = np.arange(len(row)) - np.repeat(size.cumsum() - size, size) + self.true_start[group][row]
        others = self.true_users[place]
        own = others == self.examples.log.target[asks.event][row]
        seed = int(np.random.SeedSequence([*self.seed, k]).generate_state(1)[0])
        return self.examples.batch(asks, window, (row[~own], others[~own]), self._popularity(low), seed)

    def _popularity(self, place: int) -> Tensor:
        """float32[N]: the share of each user among the targets of a stretch, from which a batch has its own."""
        low, high = np.searchsorted(self.stretch, self.stretch[place] + np.arange(2))
        log = self.examples.log
        counts = np.bincount(log.target[self.asks.event[low:high]], minlength=log.num_users)
        return torch.from_numpy((counts / (high - low)).astype(np.float32))


def _take(asks: Asks, chosen: np.ndarray | slice) -> Asks:
    return Asks(*(getattr(asks, field)[chosen] for field in Asks.__dataclass_fields__))


def _distinct(group: np.ndarray, user: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct users of each group, flat, with offsets int64[groups + 1]."""
    pairs = np.unique(np.stack([group, user.astype(np.int64)], 1), axis=0)
    return pairs[:, 1], np.concatenate([[0], np.bincount(pairs[:, 0], minlength=groups).cumsum()])
