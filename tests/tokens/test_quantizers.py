"""Residual k-means and the RQ-VAE: what they leave over, codes that die, the weight of commitment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from befriend.tokens import residual_kmeans
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.rqvae import Rows, RqVaeTrainee
from befriend.tokens.settings import TokenizeSettings
from befriend.training.loop import fit
from befriend.training.settings import TrainingSettings


def blobs(n: int = 400, centres: int = 12, width: int = 6) -> Tensor:
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(centres, width, generator=g)
    return centre[torch.randint(centres, (n,), generator=g)] + 0.2 * torch.randn(n, width, generator=g)


def settings(**options: Any) -> TokenizeSettings:
    return TokenizeSettings(latent_dim=4, encoder_dim=16, threads=1, **options)


def test_each_level_leaves_less_over() -> None:
    vectors = blobs()
    quantizer = residual_kmeans.fit(vectors, (8, 8, 8), 20, seed=0, threads=1)
    errors = quantizer.errors(vectors, quantizer.codes(vectors))
    assert 1 > errors[0] > errors[1] > errors[2] > 0


def test_codebooks_that_fit_each_other_leave_less_over_than_one_after_the_other() -> None:
    vectors = blobs()
    level = residual_kmeans.kmeans(vectors, 8, 20, seed=0, threads=1)
    left = vectors - level[residual_kmeans.nearest(vectors, level)]
    apart = Quantizer((level, residual_kmeans.kmeans(left, 8, 20, seed=1, threads=1)), nn.Identity(), nn.Identity())
    together = Quantizer(residual_kmeans.together(vectors, apart.codebooks), nn.Identity(), nn.Identity())
    before, after = (q.errors(vectors, q.codes(vectors))[-1] for q in (apart, together))
    assert after < 0.95 * before


def test_points_are_their_own_centroids_where_codes_abound() -> None:
    vectors = blobs(5)
    quantizer = residual_kmeans.fit(vectors, (16, 4), 20, seed=0, threads=1)
    assert quantizer.sizes == (16, 4)
    assert quantizer.errors(vectors, quantizer.codes(vectors))[0] == pytest.approx(0, abs=1e-6)
    assert len(quantizer.codes(vectors).unique(dim=0)) == 5


@pytest.mark.parametrize("vectors", [torch.zeros(7, 3), torch.ones(1, 3)], ids=["all equal", "one user"])
def test_what_has_no_spread_is_quantised_all_the_same(vectors: Tensor) -> None:
    quantizer = residual_kmeans.fit(vectors, (4, 4), 5, seed=0, threads=1)
    assert all(codebook.isfinite().all() for codebook in quantizer.codebooks)
    assert torch.equal(quantizer.codes(vectors), quantizer.codes(vectors[:1]).expand(len(vectors), 2))


def test_no_code_starts_out_dead() -> None:
    trainee = RqVaeTrainee(blobs(), (8, 8), settings())
    codes = trainee.quantizer().codes(blobs())
    assert all(len(column.unique()) == 8 for column in codes.T)


def test_the_rqvae_begins_no_worse_than_k_means_on_its_axes_and_learns(tmp_path: Path) -> None:
    vectors = blobs()
    trainee = RqVaeTrainee(vectors, (8, 8), settings())
    before = trainee.validate()["explained"]
    training = TrainingSettings(epochs=15, patience=None, threads=1, device="cpu", learning_rate=0.003)
    fitted = fit(trainee, training, tmp_path / "checkpoints", tmp_path / "curves")
    assert fitted.value > before > 0.5


def test_the_commitment_weight_changes_the_loss() -> None:
    vectors = blobs(200)
    found = {}
    for weight in (0.0, 0.25, 0.5):
        loss = RqVaeTrainee(vectors, (4, 4), settings(commitment_weight=weight)).loss(Rows(vectors))
        found[weight] = float(loss.figures["commitment"])
        assert loss.loss.item() == pytest.approx(float(loss.figures["reconstruction"]) + found[weight], rel=1e-5)
    assert found[0.0] == 0 and found[0.5] == pytest.approx(2 * found[0.25], rel=1e-4) and found[0.25] > 0


def test_commitment_and_reconstruction_are_on_one_scale() -> None:
    """With weight 1 and no encoder to speak of, what the codes leave over is both."""
    vectors = blobs(300, width=4)
    loss = RqVaeTrainee(vectors, (8,), settings(commitment_weight=1.0)).loss(Rows(vectors))
    assert float(loss.figures["commitment"]) == pytest.approx(float(loss.figures["reconstruction"]), rel=1e-3)


def test_a_dead_code_is_revived() -> None:
    vectors = blobs()
    trainee = RqVaeTrainee(vectors, (8, 8), settings())
    layer = trainee.model.quantizer.layers[0]
    with torch.no_grad():
        layer._codebook.embed[0, 3] = 1e4  # nobody is near
        layer._codebook.embed_avg[0, 3] = 1e4
        layer._codebook.cluster_size[0, 3] = 0
    assert (trainee.quantizer().codes(vectors)[:, 0] != 3).all()
    trainee.model.train()
    torch.manual_seed(0)
    for _ in range(3):
        trainee.loss(Rows(vectors))
    assert (trainee.quantizer().codes(vectors)[:, 0] == 3).any()
