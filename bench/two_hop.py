"""Two-hop neighbors: what contacts that decay are worth, and why they are exact and not random projections.

    python bench/two_hop.py PREPARED [PREPARED ...] [--events 600]

PREPARED: the folder prepared/ of a validated log. Prints two Markdown tables a log, of the validation part:

1. NDCG@10 on list `new`, streaming / daily, of decayed Adamic-Adar by half-life, and of Adamic-Adar without decay.
2. Random projections (TPNet: Lu et al. 2024). Every user has a random vector, and carries the sum of the vectors of its
   contacts, which decay. The inner product of two users' sums estimates the sum over w of c(u, w) c(w, v), without
   bias, with a standard deviation of about |c(u)| |c(v)| / sqrt(width). Their NDCG@10, by width, beside the exact sums
   with the same half-life; and microseconds: of the updates of an event, and to score all users of a request (exact: to
   find and score all two-hop neighbors).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from befriend.data.event_log import DAY, EventLog
from befriend.data.regimes import Regime
from befriend.data.split import NEW, Split, read_split, sample_first_contacts, segments
from befriend.evaluation.protocol import event_cutoffs
from befriend.features.feature_view import FeatureView
from befriend.features.two_hop import ADAMIC_ADAR, DECAYED_ADAMIC_ADAR, TWO_HOP_HALF_LIVES, TwoHopNeighbors

REGIMES: tuple[Regime, ...] = ("streaming", "daily")
WIDTHS = (32, 128, 512)
HALF_LIFE = 7 * DAY
MAX_EXACT_USERS = 4000  # the exact sums take memory for all pairs
MAX_DOUBLINGS = 60  # of the sums of projections, before they are scaled back


class FirstContacts:
    """First contacts of the validation part, in the order of their cutoffs."""

    def __init__(self, feature_view: FeatureView, split: Split, regime: Regime, max_events: int):
        log = self.log = feature_view.log
        self.activity = feature_view.activity
        events = sample_first_contacts(log, split, "validation", max_events)
        cutoff = event_cutoffs(log, split, "validation", events, regime)
        is_new = segments(log, events, cutoff) == NEW
        order = np.argsort(cutoff[is_new], kind="stable")
        self.events, self.cutoff = events[is_new][order], cutoff[is_new][order]
        self.num_visible = log.count_before(self.cutoff)
        self.user, self.target = (torch.from_numpy(x[self.events]).long() for x in (log.actor, log.target))

    def excluded(self, row: int) -> torch.Tensor:
        """bool[N]: users who must not be listed: without a visible event, existing contacts, and the user."""
        users = torch.arange(self.log.num_users)
        num_visible = torch.tensor(int(self.num_visible[row]))
        contact = self.activity.has_contact_event(self.activity.last_pair_entries(self.user[row], users, num_visible))
        return contact | (self.activity.last_entries(users, num_visible) < 0) | (users == self.user[row])

    def ndcg(self, row: int, scores: torch.Tensor) -> float:
        """NDCG@10 of one list. scores: [N]; users with equal scores count half as better."""
        scores = scores.double().masked_fill(self.excluded(row), -torch.inf)
        target = scores[self.target[row]]
        if target <= 0:
            return 0.0
        rank = 1 + float((scores > target).sum()) + float((scores == target).sum() - 1) / 2
        return 1 / np.log2(1 + rank) if rank <= 10 else 0.0


def decayed_adamic_adar(feature_view: FeatureView, first_contacts: FirstContacts) -> dict[str, float]:
    """Name of a score -> mean NDCG@10."""
    columns = {f"{h // DAY} d": DECAYED_ADAMIC_ADAR.start + k for k, h in enumerate(TWO_HOP_HALF_LIVES)}
    columns |= {"without decay": ADAMIC_ADAR}
    gains: dict[str, list[float]] = {name: [] for name in columns}
    for row in range(len(first_contacts.events)):
        features = _dense(_neighbors(feature_view, first_contacts, row))
        for name, column in columns.items():
            gains[name].append(first_contacts.ndcg(row, features[:, column]))
    return {name: float(np.mean(values)) for name, values in gains.items()}


def _neighbors(feature_view: FeatureView, first_contacts: FirstContacts, row: int) -> TwoHopNeighbors:
    as_of = (torch.from_numpy(x[row : row + 1]) for x in (first_contacts.num_visible, first_contacts.cutoff))
    return feature_view.two_hop.neighbors(first_contacts.user[row : row + 1], *as_of)


def _dense(neighbors: TwoHopNeighbors) -> torch.Tensor:
    dense = torch.zeros(neighbors.num_users, neighbors.features.shape[1])
    dense[neighbors.neighbor] = neighbors.features
    return dense


class DecayingSums:
    """Sums of the vectors of each user's contacts, where every contact event counts half after each HALF_LIFE.

    With the identity matrix as vectors, the sums are the weights of all contacts, and inner products exact.
    """

    def __init__(self, vectors: np.ndarray, origin: int):
        """vectors: float64[N, width]; origin: UTC second. Sums are kept multiplied by 2 ** (time since the origin)."""
        self.vectors, self.sums, self.origin = vectors, np.zeros_like(vectors), float(origin)

    def add(self, u: int, v: int, second: int) -> None:
        doublings = (second - self.origin) / HALF_LIFE
        if doublings > MAX_DOUBLINGS:
            self.sums *= 2.0**-doublings
            self.origin, doublings = float(second), 0.0
        self.sums[u] += 2.0**doublings * self.vectors[v]
        self.sums[v] += 2.0**doublings * self.vectors[u]

    def scores(self, user: int) -> np.ndarray:
        """float64[N]: of all users, up to a factor that all share."""
        return self.sums @ self.sums[user]


def projections(first_contacts: FirstContacts, widths: tuple[int, ...]) -> dict[int, tuple[float, float, float]]:
    """Width -> mean NDCG@10, microseconds of an event and of a request; width N: the exact sums."""
    log, rng = first_contacts.log, np.random.default_rng(0)
    results, contact = {}, np.flatnonzero(log.is_contact)
    for width in widths:
        vectors = (
            np.eye(log.num_users)
            if width == log.num_users
            else rng.normal(size=(log.num_users, width)) / np.sqrt(width)
        )
        sums, added, event_time, request_time, gains = DecayingSums(vectors, int(log.timestamp[0])), 0, 0.0, 0.0, []
        for row, num_visible in enumerate(first_contacts.num_visible):
            end = int(np.searchsorted(contact, num_visible))
            start_time = time.perf_counter()
            for event in contact[added:end]:
                sums.add(int(log.actor[event]), int(log.target[event]), int(log.timestamp[event]))
            event_time += time.perf_counter() - start_time
            added, start_time = end, time.perf_counter()
            scores = sums.scores(int(first_contacts.user[row]))
            request_time += time.perf_counter() - start_time
            gains.append(first_contacts.ndcg(row, torch.from_numpy(scores)))
        results[width] = float(np.mean(gains)), 1e6 * event_time / added, 1e6 * request_time / len(gains)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, nargs="+")
    parser.add_argument("--events", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for prepared in arguments.prepared:
        log = EventLog.read(prepared)
        feature_view, split = FeatureView.of(log), read_split(prepared, log)
        parts = [FirstContacts(feature_view, split, regime, arguments.events) for regime in REGIMES]
        print(f"\n{prepared}, {' / '.join(str(len(part.events)) for part in parts)} first contacts\n")
        figures = [decayed_adamic_adar(feature_view, part) for part in parts]
        print("| decayed Adamic-Adar | " + " | ".join(figures[0]) + " |\n|---|" + "---:|" * len(figures[0]))
        cells = [" / ".join(f"{by_name[name]:.3f}" for by_name in figures) for name in figures[0]]
        print("| NDCG@10 | " + " | ".join(cells) + " |\n")
        start = time.perf_counter()
        for row in range(len(parts[0].events)):
            _neighbors(feature_view, parts[0], row)
        exact_time = 1e6 * (time.perf_counter() - start) / len(parts[0].events)
        widths = (*WIDTHS, *([log.num_users] if log.num_users <= MAX_EXACT_USERS else []))
        print("| width | NDCG@10, streaming | microseconds an event | a request |\n|---:|---:|---:|---:|")
        for width, (ndcg, event, request) in projections(parts[0], widths).items():
            label = "exact sums" if width == log.num_users else f"{width:,}"
            print(f"| {label} | {ndcg:.3f} | {event:.1f} | {request:.0f} |")
        print(
            f"\nAll two-hop neighbors with all features, exactly: {exact_time:.0f} microseconds a request, 0 an event"
        )


if __name__ == "__main__":
    main()
