"""The two-tower model: its inputs, the negatives of a target, and the effect of each option."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from befriend.data.regimes import UNKNOWN_ACTION
from befriend.models.model_inputs import CandidateInputs, DedupedTextVectors, NextTargetPredictionBatch, Positions
from befriend.models.negatives import all_as_negatives, draw_negatives
from befriend.models.sampled_softmax import softmax_loss
from tests.models.conftest import ACTIONS, USERS, B, N, ids_only, make_batch, make_model

ENCODERS = ("transformer", "simple_attention")


def parameters(**options: Any) -> int:
    return sum(p.numel() for p in make_model(**options).parameters())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("interaction", ["mlp", "moe"])
def test_untrained_loss_without_random_negatives_is_the_log_of_the_batch_size(encoder: str, interaction: str) -> None:
    m = make_model(history_encoder_type=encoder, interaction_type=interaction, log_q=False)
    loss = m.train_forward_with_target(make_batch(32, N), num_rand_negs=0)["loss"].item()
    assert loss == pytest.approx(math.log(32), rel=0.05)


def test_untrained_loss_grows_with_random_negatives_as_the_log_of_all_candidates() -> None:
    m = make_model(log_q=False, num_users=5000)
    loss = m.train_forward_with_target(make_batch(32, N), num_rand_negs=4)["loss"].item()
    assert loss == pytest.approx(math.log(32 * 5), rel=0.05)


def test_the_loss_with_log_q_correction_estimates_that_of_the_full_softmax() -> None:
    torch.manual_seed(0)
    scores = torch.randn(USERS) / 2
    popularity = torch.rand(USERS).pow(2)
    popularity /= popularity.sum()
    target = torch.zeros(1, dtype=torch.long)
    full_loss = scores.logsumexp(0) - scores[0]
    ratios = []
    for _ in range(1000):
        targets = torch.multinomial(popularity, 8, replacement=True)
        shared = draw_negatives(targets, popularity, torch.arange(USERS), "mixed", 8)
        is_negative = shared.users != target[:, None]
        loss = softmax_loss(scores[:1], scores[shared.users][None], is_negative, shared.log_q).loss
        ratios.append((loss - full_loss).exp())  # estimated sum over true sum
    assert torch.cat(ratios).mean().item() == pytest.approx(1, abs=0.03)


def max_gradient(m: Any, b: NextTargetPredictionBatch, user: int) -> float:
    """The largest gradient on the embedding of a user who is no actor and in no history."""
    m.zero_grad()
    m.train_forward_with_target(b, num_rand_negs=0)["loss"].backward()
    return m.users.id_embedding.weight.grad[user].abs().max().item()


def test_a_duplicate_of_the_positive_carries_no_gradient_as_a_negative() -> None:
    b = make_batch(2, N)
    duplicated = replace(b, example_target=torch.tensor([50, 50]))
    m = make_model(log_q=False)
    assert m.train_forward_with_target(duplicated)["loss"].item() == 0  # the only other target is a duplicate
    assert max_gradient(m, duplicated, 50) == 0
    assert max_gradient(m, replace(b, example_target=torch.tensor([50, 51])), 50) > 0


def test_another_true_target_of_the_same_query_is_no_negative() -> None:
    b = make_batch(1, 4)
    m = make_model(log_q=False)
    states = m.encode_history(b)
    row, state = torch.zeros(2, dtype=torch.long), torch.full((2,), 4)
    same_query = Positions(row, state, torch.zeros(2, dtype=torch.long), torch.tensor([50, 51]))
    assert m._softmax(b, same_query, states, m.users.lookup(), 0).loss.tolist() == [0, 0]
    different_queries = replace(same_query, state=torch.tensor([4, 3]))
    assert (m._softmax(b, different_queries, states, m.users.lookup(), 0).loss > 0).all()


def test_a_masked_candidate_carries_no_gradient() -> None:
    positive, scores = torch.zeros(1, requires_grad=True), torch.zeros(1, 5, requires_grad=True)
    is_negative = torch.tensor([[True, False, True, False, True]])
    result = softmax_loss(positive, scores, is_negative, torch.zeros(5))
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(math.log(4))
    assert scores.grad is not None
    assert (scores.grad != 0).tolist() == is_negative.tolist()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_later_event_never_changes_an_earlier_output(encoder: str, examples: NextTargetPredictionBatch) -> None:
    m = make_model(history_encoder_type=encoder)
    before = m.encode_history(examples)
    targets, actions = examples.actor_history_targets.clone(), examples.actor_history_actions.clone()
    received, timestamps = examples.actor_history_received.clone(), examples.actor_history_timestamps.clone()
    cut = 6
    targets[:, cut:] = (targets[:, cut:] + 7) % USERS
    actions[:, cut:] = (actions[:, cut:] + 1) % ACTIONS
    received[:, cut:] ^= True
    timestamps[:, cut:] += 10_000_000
    after = m.encode_history(
        replace(
            examples,
            actor_history_targets=targets,
            actor_history_actions=actions,
            actor_history_received=received,
            actor_history_timestamps=timestamps,
        )
    )
    assert torch.equal(before[:, : cut + 1], after[:, : cut + 1])
    has_entry = examples.actor_history_mask[:, cut]
    assert not torch.isclose(before[has_entry, cut + 1], after[has_entry, cut + 1]).all(1).any()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_changes_nothing(encoder: str, examples: NextTargetPredictionBatch) -> None:
    m = make_model(history_encoder_type=encoder)
    pad = 5
    names = [name for name in examples.__dataclass_fields__ if name.startswith("actor_history")]
    padded = {name: torch.nn.functional.pad(getattr(examples, name), (pad, 0)) for name in names}
    padded["actor_history_targets"][:, :pad] = 9  # any values: the mask hides them
    padded["actor_history_actions"][:, :pad] = 2
    padded["actor_history_received"][:, :pad] = True
    padded["actor_history_timestamps"][:, :pad] = 77
    longer = m.encode_history(replace(examples, **padded))
    assert torch.allclose(longer[:, pad:], m.encode_history(examples), atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_times_and_directions_of_events_change_the_query(encoder: str, examples: NextTargetPredictionBatch) -> None:
    m = make_model(history_encoder_type=encoder)
    with torch.no_grad():
        m.encoder.bias.ages.normal_()  # the bias starts at 0
    has_gap = examples.actor_history_mask.sum(1) > 1
    query = m(examples)[has_gap]
    flipped = replace(examples, actor_history_received=~examples.actor_history_received & examples.actor_history_mask)
    stretched = replace(examples, actor_history_timestamps=examples.actor_history_timestamps * 50)
    for changed in (flipped, stretched):
        assert not torch.isclose(m(changed)[has_gap], query).all(1).any()


def test_every_option_changes_the_query_and_the_number_of_parameters(
    examples: NextTargetPredictionBatch,
) -> None:
    query, count = make_model()(examples), parameters()
    d, hidden = 16, 32
    moe = {"interaction_type": "moe"}
    options: list[tuple[dict[str, Any], int | None]] = [
        ({"history_encoder_type": "simple_attention"}, None),
        (moe, None),
        ({"activation": "swiglu"}, None),
        # the interaction reads 2 D fewer columns
        ({"latent_cross": False}, -2 * d * hidden),
        # without the projection (2D to D to D, with biases) states are D wider: in the interaction, in `empty`, in
        # `cross`
        ({"history_projection": False}, -(2 * d * d + d) - (d * d + d) + d * hidden + d + (2 * d * d + d)),
        ({"id_embedding": False}, -USERS * d),
        ({"layers": 1}, None),
        ({"shortcut": True}, 5 * d * d + d),
        ({"clusters": 8}, 8 * d),
    ]
    for option, difference in options:
        out = make_model(**option)(examples)
        assert out.shape == query.shape and not torch.allclose(out, query), option
        assert parameters(**option) != count, option
        if difference is not None:
            assert parameters(**option) - count == difference, option
    assert not torch.allclose(make_model(history_scale=5.0)(examples), query)
    one_more = parameters(**moe, num_experts=5) - parameters(**moe, num_experts=4)
    width = 5 * d
    assert one_more == (width * hidden + hidden) + (hidden * d + d) + (width + 1)  # an expert and its gate
    assert parameters(num_user_features=21) > count and parameters(num_pair_features=16) > count
    assert parameters(recent_neighbors=True) - count == d * d + d
    assert parameters(categories=(4,), numeric=2) - count == 4 * d + 2 * d


def test_the_mixture_is_gated_by_the_query() -> None:
    mixture = make_model(interaction_type="moe").interaction
    inputs = torch.randn(3, mixture.gate.in_features)
    gate = mixture.gate(inputs).softmax(-1)
    by_hand = sum(gate[:, [k]] * mixture.experts[k](inputs) for k in range(4))
    assert torch.allclose(mixture(inputs), by_hand, atol=1e-6)


def test_the_temporal_loss_predicts_each_own_event_from_the_events_before_it(
    examples: NextTargetPredictionBatch,
) -> None:
    m = make_model(log_q=False, negatives="random")
    loss = m.temporal_pretraining_loss(examples, num_rand_negs=2)
    assert loss > 0
    is_own_event = examples.actor_history_mask & ~examples.actor_history_received
    inside = m._inner_positions(examples)
    assert len(inside.row) == int(is_own_event.sum())
    assert torch.equal(inside.target, examples.actor_history_targets[is_own_event])
    assert torch.equal(inside.state, is_own_event.nonzero()[:, 1])  # state c has read the columns before c only
    last_two = make_model(temporal_positions=2)._inner_positions(examples)
    assert torch.bincount(last_two.row, minlength=B).tolist() == is_own_event.sum(1).clamp(max=2).tolist()


def test_the_loss_is_a_weighted_mean_of_examples_and_temporal_positions(examples: NextTargetPredictionBatch) -> None:
    def losses(temporal_weight: float) -> dict[str, torch.Tensor]:
        m = make_model(temporal_weight=temporal_weight, log_q=False)
        torch.manual_seed(1)
        return m.train_forward(examples, num_rand_negs=1)

    m = make_model(log_q=False)
    torch.manual_seed(1)
    examples_loss = m.train_forward_with_target(examples, num_rand_negs=1)["loss"]
    assert losses(0.0)["loss"].item() == pytest.approx(examples_loss.item(), abs=1e-5)
    inside, weight = int((examples.actor_history_mask & ~examples.actor_history_received).sum()), 0.5
    temporal = losses(weight)["temporal_loss"]
    expected = (B * examples_loss + weight * inside * temporal) / (B + weight * inside)
    assert losses(weight)["loss"].item() == pytest.approx(expected.item(), abs=1e-4)


def test_one_batch_can_be_overfitted() -> None:
    examples = make_batch(24, 8)
    m = make_model(embedding_dim=32, hidden_dim=64).train()
    optimizer = torch.optim.Adam(m.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        result = m.train_forward_with_target(examples, num_rand_negs=2)
        result["loss"].backward()
        optimizer.step()
    assert result["accuracy"] == 1 and result["loss"] < 0.1 and result["mean_rank"] == 1


def test_the_required_fields_are_enough(examples: NextTargetPredictionBatch) -> None:
    m, required = make_model(), ids_only(examples)
    assert m(required).shape == (B, 16)
    assert set(m.train_forward(required, num_rand_negs=2)) == {"loss", "accuracy", "mean_rank", "temporal_loss"}
    ids, scores = m.predict_top_k(required, 5)
    assert ids.shape == scores.shape == (B, 5)
    assert (scores.diff(dim=1) <= 0).all()
    assert not (ids == required.actor_id[:, None]).any()


def test_predictions_are_the_largest_inner_products(examples: NextTargetPredictionBatch) -> None:
    m = make_model()
    scores = m(examples) @ m.target_vectors(CandidateInputs(torch.arange(USERS))).T
    scores[torch.arange(B), examples.actor_id] = -torch.inf
    assert torch.equal(m.predict_top_k(examples, 3)[0], scores.topk(3).indices)


def test_a_user_unseen_in_training_has_a_query_and_can_be_a_target(examples: NextTargetPredictionBatch) -> None:
    m = make_model(recent_neighbors=True, num_user_features=4)
    newcomer = USERS + 3
    from_newcomer = replace(examples, actor_id=torch.full((B,), newcomer))
    assert m(from_newcomer).isfinite().all()
    assert not torch.allclose(m(from_newcomer)[5], m(from_newcomer)[6])  # the histories differ
    targets = CandidateInputs(
        torch.tensor([newcomer, newcomer + 1]),
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 1.0, 0.0]]),
    )
    first, second = m.target_vectors(targets)
    assert not torch.allclose(first, second)  # recent neighbors and activity features differ
    assert torch.equal(first[:16], second[:16])  # neither has its own embedding
    assert torch.equal(first[:16], m.users.id_embedding.weight[-1])  # the shared embedding of unseen users


def test_the_neighbor_term_is_the_inner_product_with_the_mean_embedding_of_recent_neighbors() -> None:
    m = make_model(recent_neighbors=True)
    g = torch.Generator().manual_seed(0)
    recent_neighbors = torch.randint(-1, USERS + 9, (5, 7, 3), generator=g)
    query, lookup = torch.randn(5, 16, generator=g), m.users.lookup()
    by_hand = torch.einsum("pd,pkd->pk", query, m.neighbor_vectors(recent_neighbors, lookup))
    assert torch.allclose(m.neighbor_scores(query, recent_neighbors, lookup), by_hand, atol=1e-5)


def test_id_dropout_applies_in_training_only() -> None:
    m = make_model(id_dropout=0.5)
    assert torch.equal(m.users.lookup(0.5).row_of_user[:-1], torch.arange(USERS))
    m.train()
    torch.manual_seed(0)
    dropped = (m.users.lookup(0.5).row_of_user[:-1] == USERS).float().mean().item()
    assert 0.3 < dropped < 0.7


def test_the_static_score_weight_scales_the_static_query_at_inference_only(examples: NextTargetPredictionBatch) -> None:
    options = {"recent_neighbors": True, "num_user_features": 4}
    unweighted, weighted = make_model(**options), make_model(static_score_weight=0.5, **options)
    width = unweighted.users.id_embedding.embedding_dim
    query, static = unweighted(examples), unweighted(examples)[:, :width]
    assert torch.equal(weighted(examples)[:, :width], static / 2) and static.abs().min() > 0
    assert torch.equal(weighted(examples)[:, width:], query[:, width:])
    assert torch.equal(weighted.train()(examples), unweighted.train()(examples))


def test_a_hidden_action_has_its_own_embedding(examples: NextTargetPredictionBatch) -> None:
    m = make_model()
    hidden = m(replace(examples, example_action=torch.full((B,), UNKNOWN_ACTION)))
    for action in range(ACTIONS):
        assert not torch.allclose(hidden, m(replace(examples, example_action=torch.full((B,), action))))


def test_attributes_change_a_user_in_both_towers(examples: NextTargetPredictionBatch) -> None:
    m = make_model(categories=(4,), numeric=2)
    query, before = m(examples), m.target_vectors(CandidateInputs(torch.tensor([3, USERS + 9])))
    m.users.set_attributes(torch.full((USERS, 1), 2), torch.ones(USERS, 2))
    assert not torch.allclose(m(examples), query)
    after = m.target_vectors(CandidateInputs(torch.tensor([3, USERS + 9])))
    assert not torch.allclose(after[0], before[0])
    assert torch.equal(after[1], before[1])  # a user beyond the table of attributes


def test_each_kind_of_negatives_draws_from_its_own_users() -> None:
    targets, popularity, negative_pool = torch.tensor([3, 3, 5]), torch.full((100,), 0.01), torch.arange(50, 100)
    torch.manual_seed(0)
    assert draw_negatives(targets, popularity, negative_pool, "in_batch", 2).users.tolist() == [3, 5]
    random = draw_negatives(targets, popularity, negative_pool, "random", 2).users
    assert (random >= 50).all() and len(random) <= 6
    mixed = draw_negatives(targets, popularity, negative_pool, "mixed", 2).users
    assert {3, 5} < set(mixed.tolist()) and len(mixed) > 2
    assert all_as_negatives(negative_pool).users.tolist() == negative_pool.tolist()
    log_q = draw_negatives(targets, popularity, negative_pool, "in_batch", 0).log_q
    assert log_q.exp().tolist() == pytest.approx([1 - math.exp(-0.03)] * 2)
    assert draw_negatives(targets, popularity, negative_pool, "mixed", 1, log_q=False).log_q.abs().max() == 0


def test_the_dynamic_term_is_the_inner_product_with_activity_features_and_text_vectors() -> None:
    m = make_model(num_user_features=4 + 3, text_width=3)
    g = torch.Generator().manual_seed(0)
    query, features = torch.randn(2, m.dynamic_width, generator=g), torch.randn(2, 5, 4, generator=g)
    row, vectors = torch.tensor([[0, -1, 2, 2, -1], [-1, 0, 0, 2, 2]]), torch.randn(3, 3, generator=g)
    deduped = DedupedTextVectors.of(row, vectors)
    assert len(deduped.vectors) == 3  # rows 0 and 2, and the zero vector
    text_vectors = torch.where(row[..., None] >= 0, vectors[row.clamp(min=0)], 0)
    assert torch.equal(deduped.vectors[deduped.index], text_vectors)
    users = torch.zeros(2, 5, dtype=torch.long)
    targets = CandidateInputs(users, features=features, text_vectors=deduped)
    assert torch.equal(m.dynamic_vectors(targets)[..., -3:], text_vectors)
    by_hand = torch.einsum("pt,pkt->pk", query, m.dynamic_vectors(targets))
    assert torch.allclose(m.dynamic_scores(query, targets), by_hand, atol=1e-5)
    more_deduped = DedupedTextVectors.of(torch.tensor([[1], [-1]]), vectors)
    joined = targets.concat(
        CandidateInputs(users[:, :1], features=features[:, :1], text_vectors=more_deduped)
    ).text_vectors
    assert joined is not None
    expected = torch.cat([text_vectors, torch.stack([vectors[1:2], torch.zeros(1, 3)])], 1)
    assert torch.equal(joined.vectors[joined.index], expected)
