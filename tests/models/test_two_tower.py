"""Facts of the two-tower model: what it may see, what may stand against a target, what each option does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from befriend.evaluation.regimes import HIDDEN
from befriend.models.batch import NextTargetPredictionBatch, Positions, Targets, Written
from befriend.training.losses import softmax_loss
from befriend.training.negatives import draw, everyone
from tests.models.conftest import ACTIONS, USERS, B, N, batch, ids_only, model

ENCODERS = ("transformer", "simple_attention")


def parameters(**options: Any) -> int:
    return sum(p.numel() for p in model(**options).parameters())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("interaction", ["mlp", "moe"])
def test_untrained_loss_without_random_negatives_is_the_log_of_the_batch(encoder: str, interaction: str) -> None:
    m = model(history_encoder_type=encoder, interaction_type=interaction, log_q=False)
    loss = m.train_forward_with_target(batch(32, N), num_rand_negs=0)["loss"].item()
    assert loss == pytest.approx(math.log(32), rel=0.05)


def test_untrained_loss_grows_with_random_negatives_as_the_log_of_all_candidates() -> None:
    m = model(log_q=False, num_users=5000)
    loss = m.train_forward_with_target(batch(32, N), num_rand_negs=4)["loss"].item()
    assert loss == pytest.approx(math.log(32 * 5), rel=0.05)


def test_the_corrected_loss_estimates_that_of_the_full_softmax() -> None:
    torch.manual_seed(0)
    score = torch.randn(USERS)
    popularity = torch.rand(USERS).pow(2)
    popularity /= popularity.sum()
    target = torch.zeros(1, dtype=torch.long)
    full = score.logsumexp(0) - score[0]
    ratios = []
    for seed in range(2000):
        torch.manual_seed(seed)
        drawn = torch.multinomial(popularity, 8, replacement=True)
        columns = draw(drawn, popularity, torch.arange(USERS), "mixed", 1)
        column = score[columns.users][None]
        none = torch.zeros(1, 0)
        loss = softmax_loss(
            score[:1], none, none.bool(), column, columns.users != target[:, None], columns.log_share
        ).loss
        ratios.append((loss + score[0] - full - score[0]).exp())  # estimated over true sum
    assert torch.cat(ratios).mean().item() == pytest.approx(1, abs=0.03)


def gradient_of(m: Any, b: NextTargetPredictionBatch, user: int) -> float:
    """How much the loss pulls at the embedding of one user, who is in no history and no actor."""
    m.zero_grad()
    m.train_forward_with_target(b, num_rand_negs=0)["loss"].backward()
    return m.users.own.weight.grad[user].abs().max().item()


def test_a_duplicate_of_the_positive_carries_no_gradient_as_a_negative() -> None:
    b = batch(2, N)
    twice = replace(b, example_target=torch.tensor([50, 50]))
    m = model(log_q=False)
    assert m.train_forward_with_target(twice)["loss"].item() == 0  # the only other target is a duplicate
    assert gradient_of(m, twice, 50) == 0
    assert gradient_of(m, replace(b, example_target=torch.tensor([50, 51])), 50) > 0


def test_another_true_target_of_the_same_query_is_no_negative() -> None:
    b = batch(1, 4)
    m = model(log_q=False)
    states = m.encode_history(b)
    row, state = torch.zeros(2, dtype=torch.long), torch.full((2,), 4)
    same = Positions(row, state, torch.zeros(2, dtype=torch.long), torch.tensor([50, 51]))
    assert m._softmax(b, same, states, m.users.rows(), 0).loss.tolist() == [0, 0]
    other = replace(same, state=torch.tensor([4, 3]))
    assert (m._softmax(b, other, states, m.users.rows(), 0).loss > 0).all()


def test_what_is_not_allowed_carries_no_gradient() -> None:
    positive, near = torch.zeros(1, requires_grad=True), torch.zeros(1, 3, requires_grad=True)
    column = torch.zeros(1, 2, requires_grad=True)
    near_allowed, column_allowed = torch.tensor([[True, False, True]]), torch.tensor([[False, True]])
    result = softmax_loss(positive, near, near_allowed, column, column_allowed, torch.zeros(2))
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(math.log(4))
    assert near.grad is not None and column.grad is not None
    assert (near.grad != 0).tolist() == near_allowed.tolist()
    assert (column.grad != 0).tolist() == column_allowed.tolist()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_later_event_never_changes_an_earlier_output(encoder: str, some: NextTargetPredictionBatch) -> None:
    m = model(history_encoder_type=encoder)
    before = m.encode_history(some)
    targets, actions = some.actor_history_targets.clone(), some.actor_history_actions.clone()
    received, seconds = some.actor_history_received.clone(), some.actor_history_timestamps.clone()
    cut = 6
    targets[:, cut:] = (targets[:, cut:] + 7) % USERS
    actions[:, cut:] = (actions[:, cut:] + 1) % ACTIONS
    received[:, cut:] ^= True
    seconds[:, cut:] += 10_000_000
    after = m.encode_history(
        replace(
            some,
            actor_history_targets=targets,
            actor_history_actions=actions,
            actor_history_received=received,
            actor_history_timestamps=seconds,
        )
    )
    assert torch.equal(before[:, : cut + 1], after[:, : cut + 1])
    full = some.actor_history_mask[:, cut]
    assert not torch.isclose(before[full, cut + 1], after[full, cut + 1]).all(1).any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_changes_nothing(encoder: str, some: NextTargetPredictionBatch) -> None:
    m = model(history_encoder_type=encoder)
    pad = 5
    names = [n for n in some.__dataclass_fields__ if n.startswith("actor_history")]
    junk = {n: torch.nn.functional.pad(getattr(some, n), (pad, 0)) for n in names}
    junk["actor_history_targets"][:, :pad] = 9  # whatever stands under the padding
    junk["actor_history_timestamps"][:, :pad] = 77
    longer = m.encode_history(replace(some, **junk))
    assert torch.allclose(longer[:, pad:], m.encode_history(some), atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_time_and_direction_are_seen(encoder: str, some: NextTargetPredictionBatch) -> None:
    m = model(history_encoder_type=encoder)
    with torch.no_grad():
        m.encoder.bias.ages.normal_()  # the bias starts at 0
    long = some.actor_history_mask.sum(1) > 1
    plain = m(some)[long]
    flipped = replace(some, actor_history_received=~some.actor_history_received & some.actor_history_mask)
    stretched = replace(some, actor_history_timestamps=some.actor_history_timestamps * 50)
    for changed in (flipped, stretched):
        assert not torch.isclose(m(changed)[long], plain).all(1).any()


def test_every_option_changes_what_comes_out_and_how_many_parameters_there_are(
    some: NextTargetPredictionBatch,
) -> None:
    plain, count = model()(some), parameters()
    d, hidden = 16, 32
    moe = {"interaction_type": "moe"}
    options: list[tuple[dict[str, Any], int | None]] = [
        ({"history_encoder_type": "simple_attention"}, None),
        (moe, None),
        ({"activation": "swiglu"}, None),
        # hidden layers of the query read 2 D fewer parts
        ({"latent_cross": False}, -2 * d * hidden),
        # no projection (2D to D to D, with biases); the state is D wider where it is read, and in `empty`; cross reads it
        ({"history_projection": False}, -(2 * d * d + d) - (d * d + d) + d * hidden + d + (2 * d * d + d)),
        ({"id_embedding": False}, -USERS * d),
        ({"layers": 1}, None),
        ({"shortcut": True}, 5 * d * d + d),
        ({"clusters": 8}, 8 * d),
    ]
    for option, difference in options:
        out = model(**option)(some)
        assert out.shape == plain.shape and not torch.allclose(out, plain), option
        assert parameters(**option) != count, option
        if difference is not None:
            assert parameters(**option) - count == difference, option
    assert not torch.allclose(model(history_scale=5.0)(some), plain)
    one_more = parameters(**moe, num_experts=5) - parameters(**moe, num_experts=4)
    parts = 5 * d
    assert one_more == (parts * hidden + hidden) + (hidden * d + d) + (parts + 1)  # an expert and its gate
    assert parameters(user_features=21) > count and parameters(pair_features=16) > count
    assert parameters(partners=True) - count == d * d + d
    assert parameters(categories=(4,), numeric=2) - count == 4 * d + 2 * d


def test_the_mixture_is_gated_by_the_query() -> None:
    m = model(interaction_type="moe").interaction
    x = torch.randn(3, m.gate.in_features)
    gate = m.gate(x).softmax(-1)
    by_hand = sum(gate[:, [k]] * m.experts[k](x) for k in range(4))
    assert torch.allclose(m(x), by_hand, atol=1e-6)


def test_temporal_loss_predicts_each_position_from_what_came_before_it(some: NextTargetPredictionBatch) -> None:
    m = model(log_q=False, negatives="random")
    loss = m.temporal_pretraining_loss(some, num_rand_negs=2)
    assert loss > 0
    done = some.actor_history_mask & ~some.actor_history_received
    inside = m._inside(some)
    assert len(inside.row) == int(done.sum())
    assert torch.equal(inside.target, some.actor_history_targets[done])
    assert torch.equal(inside.state, done.nonzero()[:, 1])  # state c knows columns before c alone
    few = model(temporal_positions=2)._inside(some)
    assert torch.bincount(few.row, minlength=B).tolist() == done.sum(1).clamp(max=2).tolist()


def test_the_weight_of_the_temporal_loss_weighs(some: NextTargetPredictionBatch) -> None:
    def losses(weight: float) -> dict[str, torch.Tensor]:
        m = model(temporal_weight=weight, log_q=False)
        torch.manual_seed(1)
        return m.train_forward(some, num_rand_negs=1)

    m = model(log_q=False)
    torch.manual_seed(1)
    alone = m.train_forward_with_target(some, num_rand_negs=1)["loss"]
    assert losses(0.0)["loss"].item() == pytest.approx(alone.item(), abs=1e-5)
    inside, w = int((some.actor_history_mask & ~some.actor_history_received).sum()), 0.5
    temporal = losses(w)["temporal_loss"]
    expected = (B * alone + w * inside * temporal) / (B + w * inside)
    assert losses(w)["loss"].item() == pytest.approx(expected.item(), abs=1e-4)


def test_one_batch_can_be_overfitted() -> None:
    some = batch(24, 8)
    m = model(embedding_dim=32, hidden_dim=64).train()
    optimizer = torch.optim.Adam(m.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        result = m.train_forward_with_target(some, num_rand_negs=2)
        result["loss"].backward()
        optimizer.step()
    assert result["accuracy"] == 1 and result["loss"] < 0.1 and result["mean_rank"] == 1


def test_the_required_fields_are_enough(some: NextTargetPredictionBatch) -> None:
    m, plain = model(), ids_only(some)
    assert m(plain).shape == (B, 16)
    assert set(m.train_forward(plain, num_rand_negs=2)) == {"loss", "accuracy", "mean_rank", "temporal_loss"}
    ids, scores = m.predict_top_k(plain, 5)
    assert ids.shape == scores.shape == (B, 5)
    assert (scores.diff(dim=1) <= 0).all()
    assert not (ids == plain.actor_id[:, None]).any()


def test_predictions_are_the_largest_inner_products(some: NextTargetPredictionBatch) -> None:
    m = model()
    scores = m(some) @ m.target_vectors(Targets(torch.arange(USERS))).T
    scores[torch.arange(B), some.actor_id] = -torch.inf
    assert torch.equal(m.predict_top_k(some, 3)[0], scores.topk(3).indices)


def test_somebody_unseen_in_training_has_a_query_and_can_be_a_target(some: NextTargetPredictionBatch) -> None:
    m = model(partners=True, user_features=4)
    newcomer = USERS + 3
    strange = replace(some, actor_id=torch.full((B,), newcomer))
    assert m(strange).isfinite().all()
    assert not torch.allclose(m(strange)[5], m(strange)[6])  # by their histories
    target = Targets(
        torch.tensor([newcomer, newcomer + 1]),
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 1.0, 0.0]]),
    )
    ours, theirs = m.target_vectors(target)
    assert not torch.allclose(ours, theirs)  # by their partners and moments
    assert torch.equal(ours[:16], theirs[:16])  # neither has an embedding of their own
    assert torch.equal(ours[:16], m.users.own.weight[-1])


def test_the_social_term_is_the_inner_product_with_the_partners_mean_embedding() -> None:
    m = model(partners=True)
    g = torch.Generator().manual_seed(0)
    partners = torch.randint(-1, USERS + 9, (5, 7, 3), generator=g)
    query, rows = torch.randn(5, 16, generator=g), m.users.rows()
    by_hand = torch.einsum("pd,pkd->pk", query, m.social(partners, rows))
    assert torch.allclose(m.social_scores(query, partners, rows), by_hand, atol=1e-5)


def test_dropped_embeddings_are_dropped_in_training_alone() -> None:
    m = model(id_dropout=0.5)
    assert torch.equal(m.users.rows(0.5).number[:-1], torch.arange(USERS))
    m.train()
    torch.manual_seed(0)
    dropped = (m.users.rows(0.5).number[:-1] == USERS).float().mean().item()
    assert 0.3 < dropped < 0.7


def test_once_training_is_over_it_counts_for_less_who_somebody_is(some: NextTargetPredictionBatch) -> None:
    options = {"partners": True, "user_features": 4}
    whole, half = model(**options), model(user_weight=0.5, **options)
    own = whole.users.own.embedding_dim
    assert torch.equal(half(some)[:, :own], whole(some)[:, :own] / 2) and whole(some)[:, :own].abs().min() > 0
    assert torch.equal(half(some)[:, own:], whole(some)[:, own:])
    assert torch.equal(half.train()(some), whole.train()(some))


def test_a_hidden_action_is_an_action_of_its_own(some: NextTargetPredictionBatch) -> None:
    m = model()
    hidden = m(replace(some, example_action=torch.full((B,), HIDDEN)))
    for action in range(ACTIONS):
        assert not torch.allclose(hidden, m(replace(some, example_action=torch.full((B,), action))))


def test_attributes_describe_a_user_of_both_towers(some: NextTargetPredictionBatch) -> None:
    m = model(categories=(4,), numeric=2)
    plain, vector = m(some), m.target_vectors(Targets(torch.tensor([3, USERS + 9])))
    m.users.describe(torch.full((USERS, 1), 2), torch.ones(USERS, 2))
    assert not torch.allclose(m(some), plain)
    described = m.target_vectors(Targets(torch.tensor([3, USERS + 9])))
    assert not torch.allclose(described[0], vector[0])
    assert torch.equal(described[1], vector[1])  # nothing is known of one who is not in the table


def test_negatives_by_their_kind() -> None:
    target, popularity, universe = torch.tensor([3, 3, 5]), torch.full((100,), 0.01), torch.arange(50, 100)
    torch.manual_seed(0)
    assert draw(target, popularity, universe, "in_batch", 2).users.tolist() == [3, 5]
    random = draw(target, popularity, universe, "random", 2).users
    assert (random >= 50).all() and len(random) <= 6
    mixed = draw(target, popularity, universe, "mixed", 2).users
    assert {3, 5} < set(mixed.tolist()) and len(mixed) > 2
    assert everyone(universe).users.tolist() == universe.tolist()
    share = draw(target, popularity, universe, "in_batch", 0).log_share
    assert share.exp().tolist() == pytest.approx([1 - math.exp(-0.03)] * 2)
    assert draw(target, popularity, universe, "mixed", 1, log_q=False).log_share.abs().max() == 0


def test_the_score_of_what_changes_is_the_inner_product_with_moments_and_texts() -> None:
    m = model(user_features=4 + 3, text_width=3)
    g = torch.Generator().manual_seed(0)
    query, told = torch.randn(2, m.moment_width, generator=g), torch.randn(2, 5, 4, generator=g)
    row, vectors = torch.tensor([[0, -1, 2, 2, -1], [-1, 0, 0, 2, 2]]), torch.randn(3, 3, generator=g)
    written = Written.of(row, vectors)
    assert len(written.vectors) == 3  # rows 0 and 2, and nothing
    wrote = torch.where(row[..., None] >= 0, vectors[row.clamp(min=0)], 0)
    assert torch.equal(written.vectors[written.place], wrote)
    users = torch.zeros(2, 5, dtype=torch.long)
    targets = Targets(users, features=told, written=written)
    assert torch.equal(m.moments(targets)[..., -3:], wrote)
    by_hand = torch.einsum("pt,pkt->pk", query, m.moments(targets))
    assert torch.allclose(m.moment_scores(query, targets), by_hand, atol=1e-5)
    more = Written.of(torch.tensor([[1], [-1]]), vectors)
    both = targets.beside(Targets(users[:, :1], features=told[:, :1], written=more)).written
    assert both is not None
    expected = torch.cat([wrote, torch.stack([vectors[1:2], torch.zeros(1, 3)])], 1)
    assert torch.equal(both.vectors[both.place], expected)
