"""A user who joins a table gets an STU from events and texts up to then; later events and users do not change it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from befriend.data.event_log import EventLog
from befriend.features.text_vectors import TextVectors
from befriend.tokens import residual_kmeans
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.stu_table import StuTable
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.tokenizer import StuTokenizer, user_vectors
from befriend.tokens.user_vectors import InteractionGraph, SpectralEmbedding
from tests.conftest import make_log

DAY = 86_400
START = 1_600_000_000
ROLES = {"block": "exclude"}
POINTS = torch.nn.functional.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), dim=1)

Event = tuple[int, str, int, int]
"""actor, action, target, second; users by external id"""
Post = tuple[int, int, int]
"""user, second, and which of POINTS is the vector of the texts so far"""

TRAINING: list[Event] = [
    (a + low, "hi", b + low, START) for low in (0, 5) for a in range(5) for b in range(5) if a != b
]  # two cliques of five
KNOWN = 10
TRAINING_POSTS: list[Post] = [(0, START - 1, 0)]


@dataclass(frozen=True)
class DatedLog:
    """Events and texts up to some second, with internal ids as in stage validate: by first event, then by first text."""

    log: EventLog
    texts: TextVectors
    user_ids: list[int]
    """the user of each internal id"""

    @classmethod
    def of(cls, events: list[Event], posts: list[Post]) -> DatedLog:
        by_event = [(second, user) for actor, _, target, second in events for user in (actor, target)]
        by_text = [(second, user) for user, second, _ in posts]
        ordered = [*range(KNOWN), *(user for _, user in sorted(by_event)), *(user for _, user in sorted(by_text))]
        user_ids = list(dict.fromkeys(ordered))
        internal = {user: k for k, user in enumerate(user_ids)}
        log = make_log([(internal[a], kind, internal[b], t) for a, kind, b, t in events], ROLES, users=len(user_ids))
        log = replace(log, user_ids=pl.Series(user_ids))
        rows = sorted((internal[user], second, row) for user, second, row in posts)
        user, second, row = (torch.tensor([post[k] for post in rows], dtype=torch.long) for k in range(3))
        return cls(log, TextVectors(len(user_ids), user, second, row, POINTS), user_ids)

    def stus(self, tokens: StuTokenizer) -> dict[int, list[int]]:
        """The STU of each user, by external id."""
        table = replace(tokens, texts=self.texts).add_newcomers(self.log).table
        return dict(zip(self.user_ids, table.stus.tolist(), strict=True))


def make_trained(**options: Any) -> StuTokenizer:
    """The tokens of the ten users of the training part."""
    settings = TokenizeSettings(
        **{"dimensions": 3, "num_codebooks": 2, "codes": 6, "digits": 64, "threads": 1} | options
    )
    training = DatedLog.of(TRAINING, TRAINING_POSTS)
    log, texts = training.log, training.texts
    users = np.arange(KNOWN)
    graph = InteractionGraph(settings.half_life, {}).adjacency(log, np.arange(log.num_events), START)
    embedding = SpectralEmbedding.of(graph, settings.dimensions, 0)
    graph_vectors = torch.from_numpy(embedding.embed(graph))
    vectors = user_vectors(graph_vectors, settings, log, users, texts, np.full(KNOWN, START + 1))
    quantizer = residual_kmeans.fit_residual_kmeans(vectors, settings.sizes(KNOWN), 5, 0, 1)
    sizes = quantizer.sizes + ((settings.digits,) if settings.collisions == "digit" else ())
    empty = StuTable(torch.zeros(0, len(sizes), dtype=torch.long), sizes)
    return StuTokenizer(settings, embedding, quantizer, empty, log.lineage(), "", START + 1, texts).add_training_users(
        vectors, log
    )


def one_level_tokens(*codes: float) -> StuTokenizer:
    """A tokenizer with one level and these codes, for text vectors of width 1. Its training users have no texts."""
    quantizer = Quantizer((torch.tensor(codes)[:, None],), nn.Identity(), nn.Identity())
    table = StuTable(torch.arange(KNOWN)[:, None] + len(codes) - KNOWN, (len(codes),))  # the last ten codes
    embedding = SpectralEmbedding(np.zeros((KNOWN, 1), np.float32), np.zeros(1, np.float32))
    return StuTokenizer(
        TokenizeSettings(source="text"), embedding, quantizer, table, "", "", START + 1, TextVectors.none(KNOWN)
    )


FAR = [100.0 + k for k in range(KNOWN)]


def with_numbers(posts: list[tuple[int, int, float]], events: list[Event] = TRAINING) -> DatedLog:
    """Events, and posts (user, second, value) whose text vector is the value."""
    dated = DatedLog.of(events, [(user, second, row) for row, (user, second, _) in enumerate(posts)])
    return replace(dated, texts=replace(dated.texts, vectors=torch.tensor([[value] for _, _, value in posts])))


def test_a_user_keeps_a_code_that_a_later_user_is_nearer_to() -> None:
    tokens = one_level_tokens(0.0, 1.0, *FAR)
    alone = with_numbers([(20, START + 10, 0.3)])
    both = with_numbers([(20, START + 10, 0.3), (30, START + 20, 0.1)])
    assert alone.stus(tokens)[20] == both.stus(tokens)[20] == [0]
    assert both.stus(tokens)[30] == [1]


def test_users_at_retraining_get_codes_in_the_order_in_which_they_joined() -> None:
    events = [*TRAINING, (20, "hi", 0, START + 30), (30, "hi", 0, START + 30)]
    dated = with_numbers([(20, START + 10, 0.3), (30, START + 20, 0.1)], events)
    tokens = replace(one_level_tokens(0.0, 1.0, *FAR), texts=dated.texts)
    assert tokens.add_users_until(dated.log, dated.log.num_events).table.stus[KNOWN:].tolist() == [[0], [1]]


def test_the_user_who_joined_first_gets_its_code_first_whatever_the_internal_ids() -> None:
    """Users with texts only have the last internal ids, but may have joined before the first event of others."""
    tokens = one_level_tokens(0.0, 1.0, *FAR)
    dated = with_numbers([(30, START + 5, 0.1)], [*TRAINING, (20, "hi", 0, START + 20)])
    assert dated.user_ids[KNOWN:] == [20, 30]
    stus = dated.stus(tokens)
    assert (stus[30], stus[20]) == ([0], [1])


def test_the_code_of_a_vector_between_two_codes_does_not_depend_on_how_many_join_together() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(64, 24, generator=g)
    between = (codes[torch.randint(64, (60,), generator=g)] + codes[torch.randint(64, (60,), generator=g)]) / 2
    settings = TokenizeSettings(source="text", collisions="digit")
    table = StuTable(torch.stack([torch.zeros(KNOWN, dtype=torch.long), torch.arange(KNOWN)], 1), (64, 256))
    tokens = replace(one_level_tokens(0.0, *FAR), settings=settings, table=table)
    tokens = replace(tokens, quantizer=replace(tokens.quantizer, codebooks=(codes,)))
    posts = [(20 + k, START + 10, k) for k in range(60)]
    dated = DatedLog.of(TRAINING, posts)
    together = replace(dated, texts=replace(dated.texts, vectors=between)).stus(tokens)
    for post in posts:
        dated = DatedLog.of(TRAINING, [post])
        alone = replace(dated, texts=replace(dated.texts, vectors=between)).stus(tokens)
        assert alone[post[0]][0] == together[post[0]][0]


def test_the_age_of_a_first_contact_when_others_join_changes_nothing() -> None:
    tokens = make_trained(source="graph", half_life=1.0)
    first = [*TRAINING, (20, "hi", 7, START + DAY)]
    years_later = [*first, (30, "hi", 1, START + 2000 * DAY)]
    assert DatedLog.of(first, []).stus(tokens)[20] == DatedLog.of(years_later, []).stus(tokens)[20]


def test_an_stu_from_a_first_text_stays_after_the_first_contact() -> None:
    tokens = make_trained()
    posts = [(20, START + 10, 3), (20, START + 30, 5)]
    before = DatedLog.of(TRAINING, posts[:1]).stus(tokens)
    assert before[20] == DatedLog.of([*TRAINING, (20, "hi", 7, START + 20)], posts).stus(tokens)[20]


def test_a_text_does_not_make_a_user_join_where_vectors_come_from_the_graph() -> None:
    """With the graph only, the first contact gives the STU, also to a user with an earlier text."""
    tokens = make_trained(source="graph")
    events = [*TRAINING, (20, "hi", 7, START + 20)]
    assert DatedLog.of(events, [(20, START + 10, 3)]).stus(tokens)[20] == DatedLog.of(events, []).stus(tokens)[20]


TOKENS = {
    (source, collisions): make_trained(
        source=source, collisions=collisions, half_life=1.0, action_weights={"view": 0.5}
    )
    for source in ("graph", "text", "auto")
    for collisions in ("reassign", "digit")
}

any_user = st.integers(0, 20)
gaps = st.sampled_from([0, 0, 1, 3600, DAY, 1500 * DAY])
later_events = st.lists(st.tuples(any_user, st.sampled_from(["hi", "view", "block"]), any_user, gaps), max_size=25)
later_posts = st.lists(st.tuples(any_user, st.integers(0, 7), gaps), max_size=12)


@pytest.mark.parametrize("source", ["graph", "text", "auto"])
@pytest.mark.parametrize("collisions", ["reassign", "digit"])
@given(events=later_events, posts=later_posts, share=st.floats(0, 1))
def test_nothing_later_changes_an_stu_or_a_vector(
    collisions: Any, source: Any, events: list[Any], posts: list[Any], share: float
) -> None:
    tokens = TOKENS[source, collisions]
    event_seconds = START + 1 + np.cumsum([gap for *_, gap in events], dtype=int)
    post_seconds = START + 1 + np.cumsum([gap for *_, gap in posts], dtype=int)
    all_events = [*TRAINING] + [
        (a, kind, b, int(second)) for (a, kind, b, _), second in zip(events, event_seconds, strict=True) if a != b
    ]
    all_posts = [(user, int(second), row) for (user, row, _), second in zip(posts, post_seconds, strict=True)]
    end = max([START + 1, *(second for *_, second in all_events), *(second for _, second, _ in all_posts)])
    cut = START + 1 + round(share * (end - START))
    now = DatedLog.of([e for e in all_events if e[3] < cut], TRAINING_POSTS + [p for p in all_posts if p[1] < cut])
    later = DatedLog.of(all_events, TRAINING_POSTS + all_posts)
    before, after = now.stus(tokens), later.stus(tokens)
    has_event = now.log.first_seen < np.iinfo(np.int64).max
    users_now = [user for k, user in enumerate(now.user_ids) if has_event[k] or source != "graph"]
    assert {user: before[user] for user in users_now} == {user: after[user] for user in users_now}
    tokens_now, tokens_later = (replace(tokens, texts=dated.texts) for dated in (now, later))
    newcomers = [user for user in users_now if user >= KNOWN]
    rows = [np.array([dated.user_ids.index(user) for user in newcomers], int) for dated in (now, later)]
    assert torch.equal(tokens_now.first_vectors(now.log, rows[0]), tokens_later.first_vectors(later.log, rows[1]))


def test_later_users_without_a_row_in_a_table_of_vectors_have_zeros_for_it(tmp_path: Path) -> None:
    rows = pl.DataFrame({"user_id": range(KNOWN), "vector": [[float(k % 3), 1.0] for k in range(KNOWN)]})
    rows.write_parquet(tmp_path / "vectors.parquet")
    tokens = make_trained(source="graph", vectors=str(tmp_path / "vectors.parquet"))
    dated = DatedLog.of([*TRAINING, (20, "hi", 7, START + 20)], [])
    vector = tokens.first_vectors(dated.log, np.array([KNOWN]))
    assert vector.shape == (1, 3 + 2) and not vector[0, 3:].any() and vector[0, :3].any()
    assert len(dated.stus(tokens)) == KNOWN + 1
