"""The STU model: teacher forcing, losses by level, probabilities over the people there are."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from befriend.models.batch import NextTargetPredictionBatch, Positions, Targets
from befriend.models.stu import NextTargetPredictionSTU, STUBatch, log_sums

CODES = 7


def model(**options: Any) -> NextTargetPredictionSTU:
    torch.manual_seed(0)
    plain = {"num_codebooks": 3, "vocab_size": CODES, "embedding_dim": 8, "hidden_dim": 16, "dropout": 0.0}
    m = NextTargetPredictionSTU(4, **plain | options)
    with torch.no_grad():  # training starts from 0 in some places
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


def asked(m: NextTargetPredictionSTU, b: STUBatch) -> torch.Tensor:
    return m.get_user_action_repr(
        b.actor_stu, b.actor_history_actions, b.actor_history_targets, b.actor_history_mask, b.example_action
    )


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_the_loss_is_the_sum_of_the_levels_each_given_the_true_tokens_before(levels: int) -> None:
    m, b = model(num_codebooks=levels), batch(levels)
    figures, query = m.train_forward_with_target(b), asked(m, b)
    right = torch.ones(5, dtype=torch.bool)
    for level in range(levels):
        scores = m.predict_token(query, b.example_target_stu[:, :level], level)
        assert scores.shape == (5, CODES)
        token = b.example_target_stu[:, level]
        assert figures[f"loss_{level}"].item() == pytest.approx(F.cross_entropy(scores, token).item(), abs=1e-6)
        right &= scores.argmax(1) == token
        assert figures[f"accuracy_{level}"].item() == (scores.argmax(1) == token).float().mean()
    total = sum(figures[f"loss_{level}"].item() for level in range(levels))
    assert figures["loss"].item() == pytest.approx(total, rel=1e-6)
    assert figures["overall_accuracy"].item() == right.float().mean()


@pytest.mark.parametrize("tower", ["linear", "mlp", "moe"])
def test_a_token_depends_on_those_before_and_on_the_query(tower: str) -> None:
    m, b = model(tower_type=tower), batch()
    query, before = asked(m, b), b.example_target_stu[:, :2]
    plain = m.predict_token(query, before, 2)
    other = before.clone()
    other[:, 0] = (other[:, 0] + 1) % CODES
    assert not torch.isclose(m.predict_token(query, other, 2), plain).all(1).any()
    assert not torch.isclose(m.predict_token(query.flip(0), before, 2), plain).all(1)[[0, 1, 3, 4]].any()


def test_towers_are_as_wide_as_the_query_and_the_tokens_before() -> None:
    m = model()
    width = [sum(p.shape[1] for p in tower.parameters() if p.dim() == 2) for tower in m.tower_layers]
    assert width == [16, 16 + 8, 16 + 2 * 8]
    tied, apart = (sum(p.numel() for p in model(vocab_size=50, tied=t).parameters()) for t in (True, False))
    # a tower's rows are D instead of V: 16 and a bias on each level, and D for each token before
    assert apart - tied == (50 - 8) * (3 * (16 + 1) + 3 * 8)


@pytest.mark.parametrize("encoder", ["mean_pooling", "simple_attention", "transformer"])
def test_padding_changes_nothing_and_every_event_counts(encoder: str) -> None:
    m, b = model(history_encoder_type=encoder).eval(), batch()
    query = asked(m, b)
    n = b.actor_history_mask.shape[1]
    for row, column in itertools.product(range(5), range(n)):
        targets = b.actor_history_targets.clone().view(5, n, 3)
        targets[row, column] = (targets[row, column] + 1) % CODES
        again = m.get_user_action_repr(
            b.actor_stu, b.actor_history_actions, targets.view(5, -1), b.actor_history_mask, b.example_action
        )
        same = torch.isclose(again, query, atol=1e-7).all(1)
        assert same[torch.arange(5) != row].all()
        assert same[row].item() == (not b.actor_history_mask[row, column].item())


def test_mean_pooling_is_the_mean_of_the_events_there_are() -> None:
    from befriend.models.history import MeanPooling

    tokens, mask = (
        torch.tensor([[[9.0], [2.0], [4.0]]]) * torch.tensor([[[0.0], [1.0], [1.0]]]),
        torch.tensor([[0, 1, 1]]),
    )
    assert MeanPooling(0.0)(tokens, mask.bool(), None)[0, :, 0].tolist() == [0.0, 2.0, 3.0]


def test_temporal_pretraining_predicts_each_event_from_those_before() -> None:
    m, b = model(), batch()
    figures = m.train_forward(b)
    losses = []
    for row, column in b.actor_history_mask.nonzero().tolist():
        mask = b.actor_history_mask[row : row + 1].clone()
        mask[:, column:] = False
        keep = mask[0].nonzero().squeeze(1)
        targets = b.actor_history_targets.view(5, -1, 3)[row]
        one = STUBatch(
            b.actor_stu[row : row + 1],
            b.actor_history_actions[row : row + 1, keep],
            targets[keep].view(1, -1),
            mask[:, keep],
            b.actor_history_actions[row : row + 1, column],
            targets[column][None],
        )
        losses.append(m.train_forward_with_target(one)["loss"].item())
    assert figures["temporal_loss"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert m.temporal_pretraining_loss(b).item() == pytest.approx(figures["temporal_loss"].item())
    examples = m.train_forward_with_target(b)["loss"].item()
    total = (5 * examples + sum(losses)) / (5 + len(losses))
    assert figures["loss"].item() == pytest.approx(total, rel=1e-5)
    assert m.train_forward_with_target(b)["loss"].item() != pytest.approx(total)


def test_everyones_probability_is_the_product_of_their_tokens_among_those_that_lead_to_somebody() -> None:
    stus = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 5], [3, 0, 0], [3, 1, 6]])
    m, query = model(stus=stus).eval(), torch.randn(4, 16)
    log = m.log_probs(query, torch.arange(5))
    assert torch.allclose(log.exp().sum(1), torch.ones(4), atol=1e-6)
    for user, stu in enumerate(stus):
        by_hand = torch.zeros(4)
        for level in range(3):
            same = (stus[:, :level] == stu[:level]).all(1)
            scores = m.predict_token(query, stu[:level].expand(4, -1), level)
            real = stus[same, level].unique()
            count = torch.tensor([(stus[same, level] == token).sum() for token in real]).log()
            mine = count[(real == stu[level]).nonzero().item()]
            by_hand += (scores[:, stu[level]] + mine - (scores[:, real] + count).logsumexp(1)).detach()
        assert torch.allclose(log[:, user], by_hand, atol=1e-5)
    each = m.log_probs(query, torch.tensor([[0, 4], [1, 2], [3, 3], [2, 0]]))
    assert torch.allclose(each, log.gather(1, torch.tensor([[0, 4], [1, 2], [3, 3], [2, 0]])), atol=1e-6)


def test_probability_is_shared_among_those_who_are_there() -> None:
    stus = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 5], [3, 0, 0], [3, 1, 6], [6, 6, 6]])
    there = torch.tensor([True, False, True, True, False, False])
    m, query = model(stus=stus).eval(), torch.randn(4, 16)
    log = m.log_probs(query, torch.arange(6), paths=m.paths.among(stus, there))
    alone = copy.deepcopy(m)
    alone.with_users(stus[there])
    assert torch.allclose(log[:, there], alone.log_probs(query, torch.arange(3)), atol=1e-6)
    assert torch.allclose(log[:, there].exp().sum(1), torch.ones(4), atol=1e-6)
    assert (log[:, ~there] == -torch.inf).all()


def test_before_anything_is_learned_everyone_is_as_probable() -> None:
    stus = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 5], [3, 0, 0], [3, 1, 6], [6, 6, 6]])
    for tower in ("linear", "mlp", "moe"):
        m = NextTargetPredictionSTU(4, 3, CODES, 8, 16, stus=stus, tower_type=tower).eval()  # type: ignore[arg-type]
        assert torch.allclose(m.log_probs(torch.randn(2, 16), torch.arange(6)).exp(), torch.tensor(1 / 6))


def test_a_target_is_also_the_people_it_was_last_in_contact_with_by_their_tokens() -> None:
    stus = torch.tensor(list(itertools.product(range(2), repeat=3)))
    m = model(stus=stus, partners=True)
    torch.nn.init.normal_(m.tokens.nobody)
    rows = m.users.rows()
    users = [m.tokens.mean(stu) for stu in stus] + [m.tokens.nobody]
    partners = torch.tensor([[[0, 3], [5, -1], [-1, -1]], [[6, 6], [7, 99], [1, 2]]])  # 99 came later
    means = [
        [(users[0] + users[3]) / 2, users[5], 0 * users[0]],
        [users[6], (users[7] + users[8]) / 2, (users[1] + users[2]) / 2],
    ]
    found = m.social(partners, rows)
    assert torch.allclose(found, torch.stack([torch.stack(row) for row in means]), atol=1e-6)
    asked = torch.randn(2, 8)
    by_hand = torch.einsum("pd,pkd->pk", asked, found)
    assert torch.allclose(m.social_scores(asked, partners, rows), by_hand, atol=1e-6)


def test_who_is_left_out_of_a_nightly_list_is_as_probable_as_anybody() -> None:
    stus = torch.tensor(list(itertools.product(range(2), repeat=3)))
    m = model(stus=stus, token_dropout=0.5)
    row = torch.tensor([0, 1, 2])
    positions = Positions(row, row.clamp(max=1), row, row, refresh=torch.tensor([2, 0, 3]))  # daily, streaming, frozen
    histories = NextTargetPredictionBatch(
        *(torch.tensor([0, 1, 6]), torch.zeros(3, 1).long(), torch.tensor([[2], [3], [7]])),
        *(torch.ones(3, 1).bool(), torch.tensor([0, 1, 1]), torch.tensor([4, 5, 6])),
    )
    query = m.query(histories, positions, m.encode_history(histories))
    everyone = Targets(torch.arange(8))
    scores = m.static_columns(query, everyone, m.users.rows())
    assert torch.equal(scores, m.static_each(query, Targets(torch.arange(8).expand(3, -1)), m.users.rows()))
    assert query.plain is not None and 0 < query.plain[0].sum() < 8 and not query.plain[1:].any()
    learned = m.log_probs(query.static, everyone.users)
    uniform = torch.full_like(learned, -math.log(8))
    assert torch.equal(scores, torch.where(query.plain, uniform, learned)) and not torch.allclose(learned, uniform)
    assert torch.autograd.grad(scores[query.plain].sum(), query.static)[0].abs().sum() == 0
    m.eval()
    assert m.query(histories, positions, m.encode_history(histories)).plain is None


def test_once_training_is_over_tokens_count_for_less() -> None:
    stus = torch.tensor(list(itertools.product(range(2), repeat=3)))
    m, asked, users = model(stus=stus, user_weight=0.5), torch.randn(4, 16), torch.arange(8)
    whole = m.log_probs(asked, users)
    half = m.eval().log_probs(asked, users)
    assert torch.allclose(half.exp().sum(1), torch.ones(4))
    odds, less = (log[:, 0::2] - log[:, 1::2] for log in (whole, half))  # of siblings, who differ in the last token
    assert odds.abs().min() > 0.001 and torch.allclose(less, odds / 2, atol=1e-6)


def test_loss_of_tokens_is_the_negative_log_probability_but_for_what_goes_to_siblings() -> None:
    stus = torch.cartesian_prod(*[torch.arange(3)] * 3)[::2]
    m, query, users = model(stus=stus), torch.randn(4, 16), torch.tensor([0, 3, 7, 12])
    losses, _ = m.token_losses(query, users)
    assert torch.allclose(torch.stack(losses).sum(0), -m.log_probs(query, users[:, None]).squeeze(1), atol=1e-5)
    smooth = model(stus=stus, sibling_smoothing=0.5)
    assert torch.allclose(smooth.eval().token_losses(query, users)[0][0], losses[0])
    assert not torch.allclose(smooth.train().token_losses(query, users)[0][0], losses[0])


def test_positions_that_teach_nothing_leave_tokens_and_towers_without_a_gradient() -> None:
    stus = torch.cartesian_prod(*[torch.arange(3)] * 3)
    m, query = model(stus=stus), torch.randn(2, 16, requires_grad=True)
    log = m.log_probs(query, torch.arange(27), torch.tensor([True, False]))
    assert torch.allclose(log, m.log_probs(query, torch.arange(27)), atol=1e-5)
    log[1, 3].backward()
    assert query.grad is not None and query.grad[1].abs().sum() > 0
    learned = [*m.tower_layers.parameters(), *m.tokens.tables.parameters()]
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in learned)


def test_sums_behind_prefixes_are_those_of_the_softmax() -> None:
    wanted, following = torch.randn(3, 5) * 5, torch.randn(4, 5) * 5
    following[1, :4] = -torch.inf
    assert torch.allclose(log_sums(wanted, following), (wanted[:, None] + following[None]).logsumexp(2), atol=1e-4)


def test_one_batch_can_be_learned_by_heart() -> None:
    m, b = model(embedding_dim=32, hidden_dim=64), batch()
    optimizer = torch.optim.Adam(m.parameters(), lr=0.01)
    for _ in range(150):
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
