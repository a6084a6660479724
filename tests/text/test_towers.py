"""The text towers: no shared weights, chunks as a set, and a bounded temperature."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.text import ModelConfig
from befriend.text.towers import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    PassageBatch,
    StatementBatch,
    Temperature,
    UniversalUserEmbedding,
    UserBatch,
)

DENSE, WORDS = 8, 4
CONFIG = ModelConfig(
    user_model_name="random", item_model_name="random", embedding_dim=6, lexical_dim=WORDS, attention_heads=4, rank=3
)


def make_model(**changes: object) -> UniversalUserEmbedding:
    torch.manual_seed(0)
    config = CONFIG.model_validate(CONFIG.model_dump() | changes)
    towers = UniversalUserEmbedding(config, (DENSE, DENSE), (4, 3) if config.use_user_metadata else (0, 0)).eval()
    with torch.no_grad():  # as after training
        for name, parameter in towers.named_parameters():
            if not name.startswith("temperature"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return towers


def passages(n: int = 5) -> PassageBatch:
    return PassageBatch(torch.randn(n, DENSE, generator=torch.Generator().manual_seed(1)))


def words(n: int) -> Tensor:
    return F.normalize(torch.randn(n, WORDS, generator=torch.Generator().manual_seed(2)), dim=1)


def users(chunks: Tensor, mask: Tensor, age: Tensor) -> UserBatch:
    return UserBatch(chunks, mask, age, words(len(chunks)), torch.zeros(len(chunks), 0))


def statements_with(contexts: list[int]) -> StatementBatch:
    n = len(contexts)
    return StatementBatch(torch.zeros(n).long(), torch.tensor(contexts), words(1).expand(n, -1), torch.zeros(n, 0))


ONE_USER = users(torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, True]]), torch.tensor([[0.0, 1.0, 2.0]]))


@pytest.mark.system
@pytest.mark.parametrize("tuned", [0, 1])
def test_the_towers_share_no_weight(tuned: int) -> None:
    towers = UniversalUserEmbedding(CONFIG.model_copy(update={"tuned_layers": tuned}), (32, 32), (0, 0))
    user_weights, item_weights = ({p.data_ptr() for p in tower.parameters()} for tower in (towers.user, towers.item))
    assert user_weights and item_weights and not user_weights & item_weights
    trained = [name for name, p in towers.named_parameters() if p.requires_grad and ".encoder." in name]
    assert bool(trained) == bool(tuned)
    assert not any(".layer.0." in name for name in trained)  # the first of two layers stays frozen


def test_masked_chunks_change_nothing() -> None:
    m = make_model()
    with_masked = users(
        torch.tensor([[0, 1, 2, 4]]), torch.tensor([[True, True, True, False]]), torch.tensor([[0.0, 1.0, 2.0, 9.0]])
    )
    assert torch.equal(m.user(passages(), ONE_USER), m.user(passages(), with_masked))


def test_the_order_of_chunks_does_not_matter_but_their_age_does() -> None:
    m = make_model()
    reordered = users(torch.tensor([[2, 0, 1]]), torch.ones(1, 3).bool(), torch.tensor([[2.0, 0.0, 1.0]]))
    other_ages = users(torch.tensor([[0, 1, 2]]), torch.ones(1, 3).bool(), torch.tensor([[2.0, 0.0, 1.0]]))
    assert torch.allclose(m.user(passages(), ONE_USER), m.user(passages(), reordered), atol=1e-6)
    assert not torch.allclose(m.user(passages(), ONE_USER), m.user(passages(), other_ages), atol=1e-3)


def test_a_user_without_chunks_has_the_zero_vector_and_all_others_length_1() -> None:
    batch = users(torch.tensor([[0], [0]]), torch.tensor([[True], [False]]), torch.zeros(2, 1))
    assert make_model().user(passages(), batch).norm(dim=1).tolist() == pytest.approx([1, 0])


def test_untrained_attention_is_the_mean() -> None:
    torch.manual_seed(0)
    attention = UniversalUserEmbedding(CONFIG, (DENSE, DENSE), (0, 0)).eval()
    torch.manual_seed(0)
    mean = UniversalUserEmbedding(
        CONFIG.model_copy(update={"use_attention_pooling": False}), (DENSE, DENSE), (0, 0)
    ).eval()
    assert torch.allclose(attention.user(passages(), ONE_USER), mean.user(passages(), ONE_USER), atol=1e-6)


def test_both_towers_begin_with_the_same_vectors() -> None:
    towers = UniversalUserEmbedding(CONFIG, (DENSE, DENSE), (0, 0)).eval()
    inputs = torch.cat([passages(50).encoder_vectors, words(50)], 1)  # type: ignore[list-item]
    towers.initialise(inputs, inputs)
    single_chunks = users(torch.arange(5)[:, None], torch.ones(5, 1).bool(), torch.zeros(5, 1))
    statements = StatementBatch(torch.arange(5), torch.full((5,), -1), words(5), torch.zeros(5, 0))
    assert torch.allclose(towers.user(passages(), single_chunks), towers.item(passages(), statements), atol=1e-5)


def test_a_context_changes_a_statement() -> None:
    without_context, with_context = make_model().item(passages(), statements_with([-1, 3]))
    assert not torch.allclose(without_context, with_context, atol=1e-3)


def test_metadata_numbers_change_both_towers() -> None:
    m = make_model(use_user_metadata=True, use_item_metadata=True)
    zeros, twos = (replace(ONE_USER, numeric_features=torch.full((1, 4), x)) for x in (0.0, 2.0))
    assert not torch.allclose(m.user(passages(), zeros), m.user(passages(), twos), atol=1e-3)
    zero_numbers, two_numbers = m.item(
        passages(), replace(statements_with([-1, -1]), numeric_features=torch.tensor([[0.0] * 3, [2.0] * 3]))
    )
    assert not torch.allclose(zero_numbers, two_numbers, atol=1e-3)


def test_the_temperature_stays_in_bounds() -> None:
    temperature = Temperature(0.1)
    assert temperature().item() == pytest.approx(0.1)
    for logit in (-1e3, -1.0, 0.0, 1.0, 1e3):
        with torch.no_grad():
            temperature.logit.fill_(logit)
        assert MIN_TEMPERATURE - 1e-9 <= temperature().item() <= MAX_TEMPERATURE + 1e-9
