"""Who joins a table gets an STU by what is known then: whatever happens later, and whoever joins, it stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from torch import nn

from befriend.data.log import EventLog
from befriend.data.texts import TextVectors
from befriend.tokens import residual_kmeans
from befriend.tokens.folder import Tokens, user_vectors
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.settings import TokenizeSettings
from befriend.tokens.table import Table
from befriend.tokens.user_vectors import Graph, Spectrum
from tests.conftest import make_log

DAY = 86_400
START = 1_600_000_000
ROLES = {"block": "exclude"}
POINTS = torch.nn.functional.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), dim=1)

Event = tuple[int, str, int, int]
"""actor, action, target, second; people by any number"""
Post = tuple[int, int, int]
"""who, second, and which of POINTS says what they wrote so far"""

TRAINING: list[Event] = [
    (a + low, "hi", b + low, START) for low in (0, 5) for a in range(5) for b in range(5) if a != b
]  # two circles of five
KNOWN = 10
WROTE: list[Post] = [(0, START - 1, 0)]


@dataclass(frozen=True)
class Past:
    """What there is by some second, numbered as stage validate does: by first event, then by first text."""

    log: EventLog
    texts: TextVectors
    who: list[int]
    """the person behind each number"""

    @classmethod
    def of(cls, events: list[Event], posts: list[Post]) -> Past:
        met = [(second, who) for actor, _, target, second in events for who in (actor, target)]
        who = list(dict.fromkeys([*range(KNOWN), *(person for _, person in sorted(met))]))
        who = list(dict.fromkeys([*who, *(person for _, person in sorted((second, p) for p, second, _ in posts))]))
        number = {person: k for k, person in enumerate(who)}
        log = make_log([(number[a], kind, number[b], t) for a, kind, b, t in events], ROLES, users=len(who))
        log = replace(log, user_ids=pl.Series(who))
        rows = sorted((number[person], second, row) for person, second, row in posts)
        user, second, row = (torch.tensor([post[k] for post in rows], dtype=torch.long) for k in range(3))
        return cls(log, TextVectors(len(who), user, second, row, POINTS), who)

    def stus(self, tokens: Tokens) -> dict[int, list[int]]:
        """Of everyone."""
        return dict(zip(self.who, replace(tokens, texts=self.texts).joined(self.log).table.stus.tolist(), strict=True))


def trained(**options: Any) -> Tokens:
    """The tokens of the ten people of the training part."""
    settings = TokenizeSettings(
        **{"dimensions": 3, "num_codebooks": 2, "codes": 6, "digits": 64, "threads": 1} | options
    )
    past = Past.of(TRAINING, WROTE)
    log, texts = past.log, past.texts
    everyone = np.arange(KNOWN)
    graph = Graph(settings.half_life, {}).adjacency(log, np.arange(log.num_events), START)
    spectrum = Spectrum.of(graph, settings.dimensions, 0)
    placed = torch.from_numpy(spectrum.place(graph))
    vectors = user_vectors(placed, settings, log, everyone, texts, np.full(KNOWN, START + 1))
    quantizer = residual_kmeans.fit(vectors, settings.sizes(KNOWN), 5, 0, 1)
    sizes = quantizer.sizes + ((settings.digits,) if settings.collisions == "digit" else ())
    nobody = Table(torch.zeros(0, len(sizes), dtype=torch.long), sizes)
    return Tokens(settings, spectrum, quantizer, nobody, log.lineage(), "", START + 1, texts).with_users(vectors, log)


def by_hand(*codes: float) -> Tokens:
    """Tokens of one level for people whose vector is what they wrote, a number; nobody of the training part has any."""
    quantizer = Quantizer((torch.tensor(codes)[:, None],), nn.Identity(), nn.Identity())
    table = Table(torch.arange(KNOWN)[:, None] + len(codes) - KNOWN, (len(codes),))  # they have the last ten
    spectrum = Spectrum(np.zeros((KNOWN, 1), np.float32), np.zeros(1, np.float32))
    return Tokens(
        TokenizeSettings(source="text"), spectrum, quantizer, table, "", "", START + 1, TextVectors.none(KNOWN)
    )


FAR = [100.0 + k for k in range(KNOWN)]


def written(posts: list[tuple[int, int, float]], events: list[Event] = TRAINING) -> Past:
    """People who wrote numbers."""
    past = Past.of(events, [(who, second, row) for row, (who, second, _) in enumerate(posts)])
    return replace(past, texts=replace(past.texts, vectors=torch.tensor([[value] for _, _, value in posts])))


def test_who_joined_before_keeps_the_code_that_who_comes_later_is_nearer_to() -> None:
    tokens = by_hand(0.0, 1.0, *FAR)
    alone = written([(20, START + 10, 0.3)])
    both = written([(20, START + 10, 0.3), (30, START + 20, 0.1)])
    assert alone.stus(tokens)[20] == both.stus(tokens)[20] == [0]
    assert both.stus(tokens)[30] == [1]


def test_a_retrain_that_keeps_stus_lets_who_joined_before_choose_first_too() -> None:
    events = [*TRAINING, (20, "hi", 0, START + 30), (30, "hi", 0, START + 30)]
    past = written([(20, START + 10, 0.3), (30, START + 20, 0.1)], events)
    tokens = replace(by_hand(0.0, 1.0, *FAR), texts=past.texts)
    assert tokens.extended(past.log, past.log.num_events).table.stus[KNOWN:].tolist() == [[0], [1]]


def test_who_was_there_first_chooses_first_whatever_the_numbers() -> None:
    """Those whom texts alone know have the last numbers, but may have been there before others had an event."""
    tokens = by_hand(0.0, 1.0, *FAR)
    past = written([(30, START + 5, 0.1)], [*TRAINING, (20, "hi", 0, START + 20)])
    assert past.who[KNOWN:] == [20, 30]
    found = past.stus(tokens)
    assert (found[30], found[20]) == ([0], [1])


def test_the_code_of_who_lies_between_two_does_not_hang_on_how_many_join_with_them() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(64, 24, generator=g)
    between = (codes[torch.randint(64, (60,), generator=g)] + codes[torch.randint(64, (60,), generator=g)]) / 2
    settings = TokenizeSettings(source="text", collisions="digit")
    table = Table(torch.stack([torch.zeros(KNOWN, dtype=torch.long), torch.arange(KNOWN)], 1), (64, 256))
    tokens = replace(by_hand(0.0, *FAR), settings=settings, table=table)
    tokens = replace(tokens, quantizer=replace(tokens.quantizer, codebooks=(codes,)))
    posts = [(20 + k, START + 10, k) for k in range(60)]
    together = replace(past := Past.of(TRAINING, posts), texts=replace(past.texts, vectors=between)).stus(tokens)
    for post in posts:
        alone = replace(past := Past.of(TRAINING, [post]), texts=replace(past.texts, vectors=between)).stus(tokens)
        assert alone[post[0]][0] == together[post[0]][0]


def test_a_first_contact_counts_however_long_ago_it_was_when_others_join() -> None:
    tokens = trained(source="graph", half_life=1.0)
    first = [*TRAINING, (20, "hi", 7, START + DAY)]
    years_later = [*first, (30, "hi", 1, START + 2000 * DAY)]
    assert Past.of(first, []).stus(tokens)[20] == Past.of(years_later, []).stus(tokens)[20]


def test_who_wrote_first_keeps_that_stu_with_the_first_contact() -> None:
    tokens = trained()
    posts = [(20, START + 10, 3), (20, START + 30, 5)]
    before = Past.of(TRAINING, posts[:1]).stus(tokens)
    assert before[20] == Past.of([*TRAINING, (20, "hi", 7, START + 20)], posts).stus(tokens)[20]


def test_texts_that_vectors_are_not_made_of_make_nobody_join() -> None:
    """With the graph alone somebody who wrote is placed by the first contact all the same."""
    tokens = trained(source="graph")
    acting = [*TRAINING, (20, "hi", 7, START + 20)]
    assert Past.of(acting, [(20, START + 10, 3)]).stus(tokens)[20] == Past.of(acting, []).stus(tokens)[20]


TOKENS = {
    (source, collisions): trained(source=source, collisions=collisions, half_life=1.0, action_weights={"view": 0.5})
    for source in ("graph", "text", "auto")
    for collisions in ("reassign", "digit")
}

people = st.integers(0, 20)
gaps = st.sampled_from([0, 0, 1, 3600, DAY, 1500 * DAY])
later_events = st.lists(st.tuples(people, st.sampled_from(["hi", "view", "block"]), people, gaps), max_size=25)
later_posts = st.lists(st.tuples(people, st.integers(0, 7), gaps), max_size=12)


@pytest.mark.parametrize("source", ["graph", "text", "auto"])
@pytest.mark.parametrize("collisions", ["reassign", "digit"])
@hypothesis(max_examples=60, deadline=None)
@given(events=later_events, posts=later_posts, share=st.floats(0, 1))
def test_nothing_later_changes_an_stu_or_a_vector(
    collisions: Any, source: Any, events: list[Any], posts: list[Any], share: float
) -> None:
    tokens = TOKENS[source, collisions]
    event_seconds = START + 1 + np.cumsum([gap for *_, gap in events], dtype=int)
    post_seconds = START + 1 + np.cumsum([gap for *_, gap in posts], dtype=int)
    happened = [*TRAINING] + [
        (a, kind, b, int(t)) for (a, kind, b, _), t in zip(events, event_seconds, strict=True) if a != b
    ]
    wrote = [(who, int(t), row) for (who, row, _), t in zip(posts, post_seconds, strict=True)]
    end = max([START + 1, *(t for *_, t in happened), *(t for _, t, _ in wrote)])
    cut = START + 1 + round(share * (end - START))
    now = Past.of([e for e in happened if e[3] < cut], WROTE + [p for p in wrote if p[1] < cut])
    later = Past.of(happened, WROTE + wrote)
    before, after = now.stus(tokens), later.stus(tokens)
    seen = now.log.first_seen < np.iinfo(np.int64).max
    there = [who for k, who in enumerate(now.who) if seen[k] or source != "graph"]
    assert {who: before[who] for who in there} == {who: after[who] for who in there}
    one, two = (replace(tokens, texts=past.texts) for past in (now, later))
    newcomers = [who for who in there if who >= KNOWN]
    rows = [np.array([past.who.index(who) for who in newcomers], int) for past in (now, later)]
    assert torch.equal(one.first_vectors(now.log, rows[0]), two.first_vectors(later.log, rows[1]))


def test_newcomers_without_a_row_in_another_table_of_vectors_have_none_of_it(tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": range(KNOWN), "vector": [[float(k % 3), 1.0] for k in range(KNOWN)]})
    rows.write_parquet(tmp_path / "vectors.parquet")
    tokens = trained(source="graph", vectors=str(tmp_path / "vectors.parquet"))
    past = Past.of([*TRAINING, (20, "hi", 7, START + 20)], [])
    vector = tokens.first_vectors(past.log, np.array([KNOWN]))
    assert vector.shape == (1, 3 + 2) and not vector[0, 3:].any() and vector[0, :3].any()
    assert len(past.stus(tokens)) == KNOWN + 1
