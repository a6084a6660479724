"""Two towers without a shared weight; chunks as a set; a temperature within bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from befriend.text import ModelConfig
from befriend.text.towers import HIGHEST, LOWEST, Passages, Statements, Temperature, UniversalUserEmbedding, Users

DENSE, WORDS = 8, 4
CONFIG = ModelConfig(
    user_model_name="random", item_model_name="random", embedding_dim=6, lexical_dim=WORDS, attention_heads=4, rank=3
)


def model(**changes: object) -> UniversalUserEmbedding:
    torch.manual_seed(0)
    config = CONFIG.model_validate(CONFIG.model_dump() | changes)
    found = UniversalUserEmbedding(config, (DENSE, DENSE), (4, 3) if config.use_user_metadata else (0, 0)).eval()
    with torch.no_grad():  # as if it had learned something
        for name, parameter in found.named_parameters():
            if not name.startswith("temperature"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return found


def passages(n: int = 5) -> Passages:
    return Passages(torch.randn(n, DENSE, generator=torch.Generator().manual_seed(1)))


def words(n: int) -> Tensor:
    return F.normalize(torch.randn(n, WORDS, generator=torch.Generator().manual_seed(2)), dim=1)


def users(chunks: Tensor, mask: Tensor, age: Tensor) -> Users:
    return Users(chunks, mask, age, words(len(chunks)), torch.zeros(len(chunks), 0))


def said(contexts: list[int]) -> Statements:
    n = len(contexts)
    return Statements(torch.zeros(n).long(), torch.tensor(contexts), words(1).expand(n, -1), torch.zeros(n, 0))


ONE = users(torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, True]]), torch.tensor([[0.0, 1.0, 2.0]]))


@pytest.mark.parametrize("tuned", [0, 1])
def test_no_weight_is_shared(tuned: int) -> None:
    found = UniversalUserEmbedding(CONFIG.model_copy(update={"tuned_layers": tuned}), (32, 32), (0, 0))
    own, other = ({p.data_ptr() for p in tower.parameters()} for tower in (found.user, found.item))
    assert own and other and not own & other
    learned = [name for name, p in found.named_parameters() if p.requires_grad and ".encoder." in name]
    assert bool(learned) == bool(tuned) and not any(".layer.0." in name for name in learned)  # the first of two


def test_masked_chunks_change_nothing() -> None:
    m = model()
    more = users(
        torch.tensor([[0, 1, 2, 4]]), torch.tensor([[True, True, True, False]]), torch.tensor([[0.0, 1.0, 2.0, 9.0]])
    )
    assert torch.equal(m.user(passages(), ONE), m.user(passages(), more))


def test_the_order_of_chunks_does_not_matter_but_their_age_does() -> None:
    m = model()
    turned = users(torch.tensor([[2, 0, 1]]), torch.ones(1, 3).bool(), torch.tensor([[2.0, 0.0, 1.0]]))
    older = users(torch.tensor([[0, 1, 2]]), torch.ones(1, 3).bool(), torch.tensor([[2.0, 0.0, 1.0]]))
    assert torch.allclose(m.user(passages(), ONE), m.user(passages(), turned), atol=1e-6)
    assert not torch.allclose(m.user(passages(), ONE), m.user(passages(), older), atol=1e-3)


def test_somebody_without_chunks_is_0_and_everybody_else_has_length_1() -> None:
    both = users(torch.tensor([[0], [0]]), torch.tensor([[True], [False]]), torch.zeros(2, 1))
    assert model().user(passages(), both).norm(dim=1).tolist() == pytest.approx([1, 0])


def test_before_anything_is_learned_attention_is_the_mean() -> None:
    torch.manual_seed(0)
    attention = UniversalUserEmbedding(CONFIG, (DENSE, DENSE), (0, 0)).eval()
    torch.manual_seed(0)
    mean = UniversalUserEmbedding(
        CONFIG.model_copy(update={"use_attention_pooling": False}), (DENSE, DENSE), (0, 0)
    ).eval()
    assert torch.allclose(attention.user(passages(), ONE), mean.user(passages(), ONE), atol=1e-6)


def test_both_towers_begin_at_the_same_place() -> None:
    found = UniversalUserEmbedding(CONFIG, (DENSE, DENSE), (0, 0)).eval()
    read = torch.cat([passages(50).dense, words(50)], 1)  # type: ignore[list-item]
    found.begin(read, read)
    alone = users(torch.arange(5)[:, None], torch.ones(5, 1).bool(), torch.zeros(5, 1))
    same = Statements(torch.arange(5), torch.full((5,), -1), words(5), torch.zeros(5, 0))
    assert torch.allclose(found.user(passages(), alone), found.item(passages(), same), atol=1e-5)


def test_a_context_changes_a_statement() -> None:
    one, other = model().item(passages(), said([-1, 3]))
    assert not torch.allclose(one, other, atol=1e-3)


def test_numbers_enter_both_sides() -> None:
    m = model(use_user_metadata=True, use_item_metadata=True)
    some, more = (replace(ONE, numbers=torch.full((1, 4), x)) for x in (0.0, 2.0))
    assert not torch.allclose(m.user(passages(), some), m.user(passages(), more), atol=1e-3)
    one, other = m.item(passages(), replace(said([-1, -1]), numbers=torch.tensor([[0.0] * 3, [2.0] * 3])))
    assert not torch.allclose(one, other, atol=1e-3)


def test_the_temperature_stays_in_bounds() -> None:
    temperature = Temperature(0.1)
    assert temperature().item() == pytest.approx(0.1)
    for place in (-1e3, -1.0, 0.0, 1.0, 1e3):
        with torch.no_grad():
            temperature.place.fill_(place)
        assert LOWEST - 1e-9 <= temperature().item() <= HIGHEST + 1e-9
