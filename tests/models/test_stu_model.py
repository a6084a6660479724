"""The STU model: teacher forcing, losses by level, and probabilities over the existing users."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from befriend.models.model_inputs import NextTargetPredictionBatch, Positions, STUBatch
from befriend.models.stu_model import NextTargetPredictionSTU, log_sum_products

CODES = 7


def model(**options: Any) -> NextTargetPredictionSTU:
    torch.manual_seed(0)
    defaults = {"num_codebooks": 3, "vocab_size": CODES, "embedding_dim": 8, "hidden_dim": 16, "dropout": 0.0}
    m = NextTargetPredictionSTU(4, **defaults | options)
    with torch.no_grad():  # output layers are initialised to 0
        for tower in m.tower_layers.parameters():
            tower.normal_(std=0.3)
    return m


def batch(levels: int = 3, rows: int = 5, length: int = 6) -> STUBatch:
    g = torch.Generator().manual_seed(1)
    return STUBatch(
        actor_stu=torch.randint(CODES, (rows, levels), generator=g),
        actor_history_actions=torch.randint(4, (rows, length), generator=g),
        actor_history_targets=torch.randint(CODES, (rows, levels * length), generator=g),
        actor_history_mask=torch.arange(length).expand(rows, -1) >= torch.tensor([0, 2, 5, 6, 1])[:rows, None],
        example_action=torch.randint(4, (rows,), generator=g),
        example_target_stu=torch.randint(CODES, (rows, levels), generator=g),
    )


def make_query(m: NextTargetPredictionSTU, b: STUBatch) -> torch.Tensor:
    return m.get_user_action_repr(
        b.actor_stu, b.actor_history_actions, b.actor_history_targets, b.actor_history_mask, b.example_action
    )


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_the_loss_is_the_sum_of_the_levels_each_given_the_true_tokens_before(levels: int) -> None:
    m, b = model(num_codebooks=levels), batch(levels)
    figures, query = m.train_forward_with_target(b), make_query(m, b)
    is_correct = torch.ones(5, dtype=torch.bool)
    for level in range(levels):
        scores = m.predict_token(query, b.example_target_stu[:, :level], level)
        assert scores.shape == (5, CODES)
        token = b.example_target_stu[:, level]
        assert figures[f"loss_{level}"].item() == pytest.approx(F.cross_entropy(scores, token).item(), abs=1e-6)
        is_correct &= scores.argmax(1) == token
        assert figures[f"accuracy_{level}"].item() == (scores.argmax(1) == token).float().mean()
    total = sum(figures[f"loss_{level}"].item() for level in range(levels))
    assert figures["loss"].item() == pytest.approx(total, rel=1e-6)
    assert figures["overall_accuracy"].item() == is_correct.float().mean()


@pytest.mark.parametrize("tower", ["linear", "mlp", "moe"])
def test_token_scores_depend_on_the_tokens_before_and_on_the_query(tower: str) -> None:
    m, b = model(tower_type=tower), batch()
    query, prefix = make_query(m, b), b.example_target_stu[:, :2]
    scores = m.predict_token(query, prefix, 2)
    changed = prefix.clone()
    changed[:, 0] = (changed[:, 0] + 1) % CODES
    assert not torch.isclose(m.predict_token(query, changed, 2), scores).all(1).any()
    assert not torch.isclose(m.predict_token(query.flip(0), prefix, 2), scores).all(1)[[0, 1, 3, 4]].any()


def test_towers_read_the_query_and_the_embeddings_of_the_tokens_before() -> None:
    m = model()
    width = [sum(p.shape[1] for p in tower.parameters() if p.dim() == 2) for tower in m.tower_layers]
    assert width == [16, 16 + 8, 16 + 2 * 8]
    tied, untied = (sum(p.numel() for p in model(vocab_size=50, tied=t).parameters()) for t in (True, False))
    # tied towers have D instead of V outputs; each output reads H and a bias, and D for each token before
    assert untied - tied == (50 - 8) * (3 * (16 + 1) + 3 * 8)


@pytest.mark.parametrize("encoder", ["mean_pooling", "simple_attention", "transformer"])
def test_padding_changes_nothing_and_every_event_changes_its_own_query(encoder: str) -> None:
    m, b = model(history_encoder_type=encoder).eval(), batch()
    query = make_query(m, b)
    n = b.actor_history_mask.shape[1]
    for row, column in itertools.product(range(5), range(n)):
        targets = b.actor_history_targets.clone().view(5, n, 3)
        targets[row, column] = (targets[row, column] + 1) % CODES
        changed = m.get_user_action_repr(
            b.actor_stu, b.actor_history_actions, targets.view(5, -1), b.actor_history_mask, b.example_action
        )
        is_same = torch.isclose(changed, query, atol=1e-7).all(1)
        assert is_same[torch.arange(5) != row].all()
        assert is_same[row].item() == (not b.actor_history_mask[row, column].item())


def test_mean_pooling_is_the_mean_of_the_unmasked_events_so_far() -> None:
    from befriend.models.history_encoders import MeanPooling

    tokens, mask = torch.tensor([[[0.0], [2.0], [4.0]]]), torch.tensor([[False, True, True]])
    assert MeanPooling(0.0)(tokens, mask, None)[0, :, 0].tolist() == [0.0, 2.0, 3.0]


def test_temporal_pretraining_predicts_each_event_from_those_before() -> None:
    m, b = model(), batch()
    figures = m.train_forward(b)
    losses = []
    for row, column in b.actor_history_mask.nonzero().tolist():
        mask = b.actor_history_mask[row : row + 1].clone()
        mask[:, column:] = False
        columns = mask[0].nonzero().squeeze(1)
        targets = b.actor_history_targets.view(5, -1, 3)[row]
        single = STUBatch(
            b.actor_stu[row : row + 1],
            b.actor_history_actions[row : row + 1, columns],
            targets[columns].view(1, -1),
            mask[:, columns],
            b.actor_history_actions[row : row + 1, column],
            targets[column][None],
        )
        losses.append(m.train_forward_with_target(single)["loss"].item())
    assert figures["temporal_loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert m.temporal_pretraining_loss(b).item() == pytest.approx(figures["temporal_loss"].item())
    examples = m.train_forward_with_target(b)["loss"].item()
    total = (5 * examples + sum(losses)) / (5 + len(losses))
    assert figures["loss"].item() == pytest.approx(total, rel=1e-5)
    assert m.train_forward_with_target(b)["loss"].item() != pytest.approx(total)


def test_a_users_probability_is_the_product_over_its_tokens_among_those_that_lead_to_a_user() -> None:
    stus = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 5], [3, 0, 0], [3, 1, 6]])
    m, query = model(stus=stus).eval(), torch.randn(4, 16)
    log_probs = m.log_probs(query, torch.arange(5))
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(4), atol=1e-6)
    for user, stu in enumerate(stus):
        by_hand = torch.zeros(4)
        for level in range(3):
            has_prefix = (stus[:, :level] == stu[:level]).all(1)
            scores = m.predict_token(query, stu[:level].expand(4, -1), level)
            possible = stus[has_prefix, level].unique()
            log_counts = torch.tensor([(stus[has_prefix, level] == token).sum() for token in possible]).log()
            own_count = log_counts[(possible == stu[level]).nonzero().item()]
            by_hand += (scores[:, stu[level]] + own_count - (scores[:, possible] + log_counts).logsumexp(1)).detach()
        assert torch.allclose(log_probs[:, user], by_hand, atol=1e-5)
    for_pairs = m.log_probs(query, torch.tensor([[0, 4], [1, 2], [3, 3], [2, 0]]))
    assert torch.allclose(for_pairs, log_probs.gather(1, torch.tensor([[0, 4], [1, 2], [3, 3], [2, 0]])), atol=1e-6)


def test_probability_is_shared_among_the_eligible_users() -> None:
    stus = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 5], [3, 0, 0], [3, 1, 6], [6, 6, 6]])
    eligible = torch.tensor([True, False, True, True, False, False])
    m, query = model(stus=stus).eval(), torch.randn(4, 16)
    log_probs = m.log_probs(query, torch.arange(6), prefix_tree=m.prefix_tree.recount(stus, eligible))
    only_eligible = copy.deepcopy(m)
    only_eligible.set_users(stus[eligible])
    assert torch.allclose(log_probs[:, eligible], only_eligible.log_probs(query, torch.arange(3)), atol=1e-6)
    assert torch.allclose(log_probs[:, eligible].exp().sum(1), torch.ones(4), atol=1e-6)
    assert (log_probs[:, ~eligible] == -torch.inf).all()


def test_an_untrained_model_gives_all_users_the_same_probability() -> None:
    stus = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 5], [3, 0, 0], [3, 1, 6], [6, 6, 6]])
    for tower in ("linear", "mlp", "moe"):
        m = NextTargetPredictionSTU(4, 3, CODES, 8, 16, stus=stus, tower_type=tower).eval()  # type: ignore[arg-type]
        assert torch.allclose(m.log_probs(torch.randn(2, 16), torch.arange(6)).exp(), torch.tensor(1 / 6))


def test_the_neighbor_term_uses_the_mean_token_embeddings_of_recent_neighbors() -> None:
    stus = torch.tensor(list(itertools.product(range(2), repeat=3)))
    m = model(stus=stus, recent_neighbors=True)
    torch.nn.init.normal_(m.tokens.nobody)
    lookup = m.users.lookup()
    vectors = [m.tokens.mean(stu) for stu in stus] + [m.tokens.nobody]
    recent_neighbors = torch.tensor([[[0, 3], [5, -1], [-1, -1]], [[6, 6], [7, 99], [1, 2]]])  # 99: a later user
    means = [
        [(vectors[0] + vectors[3]) / 2, vectors[5], 0 * vectors[0]],
        [vectors[6], (vectors[7] + vectors[8]) / 2, (vectors[1] + vectors[2]) / 2],
    ]
    neighbor_vectors = m.neighbor_vectors(recent_neighbors, lookup)
    assert torch.allclose(neighbor_vectors, torch.stack([torch.stack(row) for row in means]), atol=1e-6)
    query = torch.randn(2, 8)
    by_hand = torch.einsum("pd,pkd->pk", query, neighbor_vectors)
    assert torch.allclose(m.neighbor_scores(query, recent_neighbors, lookup), by_hand, atol=1e-6)


def test_token_dropout_gives_users_uniform_probability_in_daily_queries() -> None:
    stus = torch.tensor(list(itertools.product(range(2), repeat=3)))
    m = model(stus=stus, token_dropout=0.5)
    row = torch.tensor([0, 1, 2])
    positions = Positions(row, row.clamp(max=1), row, row, regime=torch.tensor([2, 0, 3]))  # daily, streaming, frozen
    histories = NextTargetPredictionBatch(
        *(torch.tensor([0, 1, 6]), torch.zeros(3, 1).long(), torch.tensor([[2], [3], [7]])),
        *(torch.ones(3, 1).bool(), torch.tensor([0, 1, 1]), torch.tensor([4, 5, 6])),
    )
    query = m.query(histories, positions, m.encode_history(histories))
    all_users = torch.arange(8)
    scores = m.static_scores(query, all_users, m.users.lookup())
    assert (
        query.dropped_targets is not None
        and 0 < query.dropped_targets[0].sum() < 8
        and not query.dropped_targets[1:].any()
    )
    undropped = m.log_probs(query.static, all_users)
    uniform = torch.full_like(undropped, -math.log(8))
    assert torch.equal(scores, torch.where(query.dropped_targets, uniform, undropped)) and not torch.allclose(
        undropped, uniform
    )
    assert torch.autograd.grad(scores[query.dropped_targets].sum(), query.static)[0].abs().sum() == 0
    m.eval()
    assert m.query(histories, positions, m.encode_history(histories)).dropped_targets is None


def test_the_static_score_weight_scales_token_scores_at_inference_only() -> None:
    stus = torch.tensor(list(itertools.product(range(2), repeat=3)))
    m, query, users = model(stus=stus, static_score_weight=0.5), torch.randn(4, 16), torch.arange(8)
    unweighted = m.log_probs(query, users)
    weighted = m.eval().log_probs(query, users)
    assert torch.allclose(weighted.exp().sum(1), torch.ones(4))
    # Siblings differ in the last token only.
    log_odds, weighted_log_odds = (log_probs[:, 0::2] - log_probs[:, 1::2] for log_probs in (unweighted, weighted))
    assert log_odds.abs().min() > 0.001 and torch.allclose(weighted_log_odds, log_odds / 2, atol=1e-6)


def test_the_token_loss_is_the_negative_log_probability_without_sibling_smoothing() -> None:
    stus = torch.cartesian_prod(*[torch.arange(3)] * 3)[::2]
    m, query, users = model(stus=stus), torch.randn(4, 16), torch.tensor([0, 3, 7, 12])
    losses, _ = m.token_losses(query, users)
    assert torch.allclose(torch.stack(losses).sum(0), -m.log_probs(query, users[:, None]).squeeze(1), atol=1e-5)
    smoothed = model(stus=stus, sibling_smoothing=0.5)
    assert torch.allclose(smoothed.eval().token_losses(query, users)[0][0], losses[0])
    assert not torch.allclose(smoothed.train().token_losses(query, users)[0][0], losses[0])


def test_positions_outside_grad_mask_give_tokens_and_towers_no_gradient() -> None:
    stus = torch.cartesian_prod(*[torch.arange(3)] * 3)
    m, query = model(stus=stus), torch.randn(2, 16, requires_grad=True)
    log_probs = m.log_probs(query, torch.arange(27), torch.tensor([True, False]))
    assert torch.allclose(log_probs, m.log_probs(query, torch.arange(27)), atol=1e-5)
    log_probs[1, 3].backward()
    assert query.grad is not None and query.grad[1].abs().sum() > 0
    parameters = [*m.tower_layers.parameters(), *m.tokens.tables.parameters()]
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in parameters)


def test_log_sum_products_is_the_log_sum_of_the_added_scores() -> None:
    query_scores, prefix_scores = torch.randn(3, 5) * 5, torch.randn(4, 5) * 5
    prefix_scores[1, :4] = -torch.inf
    sums = (query_scores[:, None] + prefix_scores[None]).logsumexp(2)
    assert torch.allclose(log_sum_products(query_scores, prefix_scores), sums, atol=1e-4)


def test_one_batch_can_be_overfitted() -> None:
    m, b = model(embedding_dim=32, hidden_dim=64), batch()
    optimizer = torch.optim.Adam(m.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        figures = m.train_forward_with_target(b)
        figures["loss"].backward()
        optimizer.step()
    assert figures["overall_accuracy"].item() == 1.0


def test_the_usage_example() -> None:
    m = NextTargetPredictionSTU(
        num_actions=5, num_codebooks=4, vocab_size=10000, embedding_dim=128, hidden_dim=256, device="cpu"
    )
    results = m.train_forward_with_target(batch(4))
    assert results["loss"].item() == pytest.approx(4 * torch.tensor(10000.0).log().item(), rel=0.05)
    assert 0 <= results["overall_accuracy"] <= 1
