"""Residual k-means and the RQ-VAE: quantisation error, dead codes, and the commitment loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from befriend.tokens import residual_kmeans
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.rqvae import RqVaeObjective, VectorBatch
from befriend.tokens.token_settings import TokenizeSettings
from befriend.training.loop import fit
from befriend.training.training_settings import TrainingSettings


def blobs(n: int = 400, centres: int = 12, width: int = 6) -> Tensor:
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(centres, width, generator=g)
    return centre[torch.randint(centres, (n,), generator=g)] + 0.2 * torch.randn(n, width, generator=g)


def settings(**options: Any) -> TokenizeSettings:
    return TokenizeSettings(latent_dim=4, encoder_dim=16, threads=1, **options)


def test_each_level_lowers_the_error() -> None:
    vectors = blobs()
    quantizer = residual_kmeans.fit_residual_kmeans(vectors, (8, 8, 8), 20, seed=0, threads=1)
    errors = quantizer.errors(vectors, quantizer.codes(vectors))
    assert 1 > errors[0] > errors[1] > errors[2] > 0


def test_refined_codebooks_have_a_lower_error_than_codebooks_fitted_one_by_one() -> None:
    vectors = blobs()
    level = residual_kmeans.kmeans(vectors, 8, 20, seed=0, threads=1)
    residual = vectors - level[residual_kmeans.nearest(vectors, level)]
    separate = Quantizer(
        (level, residual_kmeans.kmeans(residual, 8, 20, seed=1, threads=1)), nn.Identity(), nn.Identity()
    )
    refined = Quantizer(residual_kmeans.refine_codebooks(vectors, separate.codebooks), nn.Identity(), nn.Identity())
    before, after = (q.errors(vectors, q.codes(vectors))[-1] for q in (separate, refined))
    assert after < 0.95 * before


def test_with_more_codes_than_points_every_point_is_its_own_centroid() -> None:
    vectors = blobs(5)
    quantizer = residual_kmeans.fit_residual_kmeans(vectors, (16, 4), 20, seed=0, threads=1)
    assert quantizer.sizes == (16, 4)
    assert quantizer.errors(vectors, quantizer.codes(vectors))[0] == pytest.approx(0, abs=1e-6)
    assert len(quantizer.codes(vectors).unique(dim=0)) == 5


@pytest.mark.parametrize("vectors", [torch.zeros(7, 3), torch.ones(1, 3)], ids=["all equal", "one user"])
def test_equal_vectors_are_quantised_to_the_same_codes(vectors: Tensor) -> None:
    quantizer = residual_kmeans.fit_residual_kmeans(vectors, (4, 4), 5, seed=0, threads=1)
    assert all(codebook.isfinite().all() for codebook in quantizer.codebooks)
    assert torch.equal(quantizer.codes(vectors), quantizer.codes(vectors[:1]).expand(len(vectors), 2))


def test_no_vectors_have_no_codes_though_the_encoder_changes_the_width() -> None:
    quantizer = Quantizer((torch.zeros(4, 2), torch.zeros(4, 2)), nn.Linear(5, 2), nn.Linear(2, 5))
    assert quantizer.codes(torch.zeros(0, 5)).shape == (0, 2)


def test_the_rqvae_begins_without_dead_codes() -> None:
    objective = RqVaeObjective(blobs(), (8, 8), settings())
    codes = objective.quantizer().codes(blobs())
    assert all(len(column.unique()) == 8 for column in codes.T)


def test_the_rqvae_begins_with_a_good_fit_and_improves_in_training(tmp_path: Path) -> None:
    vectors = blobs()
    objective = RqVaeObjective(vectors, (8, 8), settings())
    before = objective.validate()["explained"]
    training = TrainingSettings(epochs=15, patience=None, threads=1, device="cpu", learning_rate=0.003)
    fitted = fit(objective, training, tmp_path / "checkpoints", tmp_path / "curves")
    assert fitted.best_value > before > 0.5


def test_the_loss_is_the_reconstruction_plus_the_weighted_commitment() -> None:
    vectors = blobs(200)
    commitment = {}
    for weight in (0.0, 0.25, 0.5):
        loss = RqVaeObjective(vectors, (4, 4), settings(commitment_weight=weight)).loss(VectorBatch(vectors))
        commitment[weight] = float(loss.metrics["commitment"])
        assert loss.loss.item() == pytest.approx(float(loss.metrics["reconstruction"]) + commitment[weight], rel=1e-5)
    assert commitment[0.0] == 0 < commitment[0.25]
    assert commitment[0.5] == pytest.approx(2 * commitment[0.25], rel=1e-4)


def test_commitment_and_reconstruction_are_on_one_scale() -> None:
    """With weight 1 and an untrained encoder, both are the error of the codes."""
    vectors = blobs(300, width=4)
    loss = RqVaeObjective(vectors, (8,), settings(commitment_weight=1.0)).loss(VectorBatch(vectors))
    assert float(loss.metrics["commitment"]) == pytest.approx(float(loss.metrics["reconstruction"]), rel=1e-3)


def test_a_dead_code_is_revived() -> None:
    vectors = blobs()
    objective = RqVaeObjective(vectors, (8, 8), settings())
    layer = objective.model.quantizer.layers[0]
    with torch.no_grad():
        layer._codebook.embed[0, 3] = 1e4  # far from all vectors
        layer._codebook.embed_avg[0, 3] = 1e4
        layer._codebook.cluster_size[0, 3] = 0
    assert (objective.quantizer().codes(vectors)[:, 0] != 3).all()
    objective.model.train()
    torch.manual_seed(0)
    for _ in range(3):
        objective.loss(VectorBatch(vectors))
    assert (objective.quantizer().codes(vectors)[:, 0] == 3).any()
