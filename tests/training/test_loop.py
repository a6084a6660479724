from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from befriend.errors import DataError
from befriend.training.loop import BatchLoss
from befriend.training.optimizer import adamw, learning_rate
from befriend.training.training_settings import TrainingSettings
from tests.training.tiny import BATCHES, SETTINGS, Rows, Tiny, content, train, weights


class Scripted(Tiny):
    """Its validation returns the given gains, and records the weights at each validation."""

    metric = "gain"

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.gains, self.validated = gains, list[bytes]()

    def validate(self) -> dict[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        self.validated.append(weights(self))
        return {"gain": self.gains[len(self.validated) - 1]}


def test_early_stopping_returns_to_the_best_weights(tmp_path: Path) -> None:
    objective = Scripted(1.0, 3.0, 3.0, 2.0, 9.0)  # an equal value is no gain
    fitted = train(objective, tmp_path, SETTINGS.model_copy(update={"epochs": 5, "patience": 2}))
    assert (fitted.num_epochs, fitted.best_epoch, fitted.best_value, fitted.stopped_early) == (4, 2, 3.0, True)
    assert weights(objective) == objective.validated[1] != objective.validated[3]
    assert [row["validation/gain"] for row in fitted.history] == [1.0, 3.0, 3.0, 2.0]
    assert (tmp_path / "curves/metrics.json").read_text().count('"gain": 3.0') == 1


def test_patience_that_runs_out_in_the_last_epoch_is_no_early_stop(tmp_path: Path) -> None:
    fitted = train(Scripted(2.0, 1.0), tmp_path, SETTINGS.model_copy(update={"epochs": 2, "patience": 1}))
    assert (fitted.num_epochs, fitted.best_epoch, fitted.stopped_early) == (2, 1, False)


def test_the_learning_rate_rises_linearly_and_falls_by_half_a_cosine() -> None:
    settings = TrainingSettings(learning_rate=2.0, warmup=0.4, final_learning_rate=0.1)
    rates = [learning_rate(step, 10, settings) for step in range(1, 11)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[6] == pytest.approx(2 * (0.1 + 0.9 * 0.5))  # half-way down
    assert rates[9] == pytest.approx(0.2)
    assert learning_rate(5, 5, settings.model_copy(update={"warmup": 1.0})) == 2.0
    assert learning_rate(10, 10, settings.model_copy(update={"warmup": 0.0})) == pytest.approx(0.2)


def test_the_history_has_the_learning_rate_of_the_last_step_of_an_epoch(tmp_path: Path) -> None:
    fitted = train(Tiny(), tmp_path)
    assert [row["learning_rate"] for row in fitted.history] == [
        learning_rate(step, 3 * BATCHES, SETTINGS) for step in (BATCHES, 2 * BATCHES, 3 * BATCHES)
    ]


@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("lengths", [(20, 23, 19, 17), (20, 23, 24, 22)], ids=["fewer steps", "more steps"])
def test_epochs_of_any_length_each_cover_their_share_of_the_schedule(
    lengths: tuple[int, ...], warmup: float, tmp_path: Path
) -> None:
    objective = Tiny(batches=20)
    objective.uneven = tuple(length - 20 for length in lengths)
    settings = SETTINGS.model_copy(
        update={"epochs": 4, "warmup": warmup, "final_learning_rate": 0.1, "checkpoint_every": 100}
    )
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        fitted = train(objective, tmp_path, settings)
    finally:
        hook.remove()
    assert len(rates) == sum(lengths)
    assert rates[-1] == pytest.approx(settings.learning_rate * (1.0 if warmup == 1 else 0.1))
    ends = [rates[sum(lengths[: epoch + 1]) - 1] for epoch in range(4)]
    assert [row["learning_rate"] for row in fitted.history] == ends
    quarters = [learning_rate(quarter * 1000, 4 * 1000, settings) for quarter in (1, 2, 3, 4)]
    assert ends == pytest.approx(quarters, rel=0.03)  # up to the rounding of warm-up to whole steps
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_only_matrices_and_embeddings_decay() -> None:
    model = Tiny().model
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    optimizer = adamw(model, TrainingSettings(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.ndim >= 2 else 1  # AdamW subtracts rate × decay × the weight
        assert torch.allclose(parameter, before[name] * factor), name


class FrozenUsers(Tiny):
    """Its user embeddings have learning rate 0."""

    def lr_multiplier(self, name: str) -> float:
        return 0.0 if name.startswith("users.") else 1.0


def test_lr_multiplier_scales_the_learning_rate_of_a_parameter(tmp_path: Path) -> None:
    objective = FrozenUsers()
    before = {name: value.detach().clone() for name, value in objective.model.named_parameters()}
    train(objective, tmp_path)
    unchanged = {name for name, value in objective.model.named_parameters() if torch.equal(value, before[name])}
    assert unchanged == {"users.weight"}


class GradientRecorder(Tiny):
    """Its loss is steep; records the gradient norm of the last step of each epoch, after clipping."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient_norms: list[float] = []

    def loss(self, batch: Rows) -> BatchLoss:
        losses = super().loss(batch)
        return BatchLoss(losses.loss * 1000, losses.num_positions, {})

    def batches(self, epoch: int) -> Sequence[Rows]:
        self.record_norm()
        return super().batches(epoch)

    def validate(self) -> dict[str, float]:
        self.record_norm()
        return super().validate()

    def record_norm(self) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if gradients:
            self.gradient_norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))


def test_gradients_are_clipped_to_the_given_norm(tmp_path: Path) -> None:
    clipped, free = GradientRecorder(), GradientRecorder()
    train(clipped, tmp_path / "clipped", SETTINGS.model_copy(update={"gradient_clip": 0.5}))
    train(free, tmp_path / "free", SETTINGS.model_copy(update={"gradient_clip": None}))
    assert clipped.gradient_norms
    assert max(clipped.gradient_norms) == pytest.approx(0.5, rel=1e-4)
    assert min(free.gradient_norms) > 50


class Weighted(Tiny):
    """Two batches with different numbers of positions, whose loss does not depend on the model."""

    def __init__(self) -> None:
        super().__init__(batches=2)

    def loss(self, batch: Rows) -> BatchLoss:
        self.losses += 1
        value, positions = (1.0, 30) if self.losses % 2 else (5.0, 10)
        nothing = super().loss(batch).loss * 0
        self.losses -= 1
        return BatchLoss(nothing + value, positions, {"rank": torch.tensor(value * 10)})


def test_metrics_of_an_epoch_are_means_over_positions(tmp_path: Path) -> None:
    row = train(Weighted(), tmp_path).history[0]
    assert row["train/loss"] == pytest.approx((1 * 30 + 5 * 10) / 40)
    assert row["train/rank"] == pytest.approx((10 * 30 + 50 * 10) / 40)


class Broken(Tiny):
    def loss(self, batch: Rows) -> BatchLoss:
        losses = super().loss(batch)
        return BatchLoss(losses.loss * (torch.nan if self.losses == 8 else 1), losses.num_positions, losses.metrics)


def test_a_loss_that_is_nan_stops_training_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"loss became nan in step 3 of epoch 2. Lower learning_rate \(now 0.05\)"):
        train(Broken(), tmp_path)
    objective = Tiny()
    train(objective, tmp_path)  # resumes from the last checkpoint, before the broken step
    assert all(bool(tensor.isfinite().all()) for tensor in objective.model.state_dict().values())


def test_a_validation_metric_that_is_nan_stops_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gain is nan after epoch 2"):
        train(Scripted(1.0, float("nan")), tmp_path)


def test_an_epoch_without_batches_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        train(Tiny(batches=0), tmp_path)


def test_training_restores_the_state_of_torch(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    objective = Tiny()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(objective, tmp_path, SETTINGS.model_copy(update={"epochs": 1, "threads": threads + 1}))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_computes_the_loss_in_bfloat16_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    dtypes = set()

    class Typed(Tiny):
        def loss(self, batch: Rows) -> BatchLoss:
            dtypes.add(self.model.out(torch.zeros(1, 8)).dtype)
            return super().loss(batch)

    objective = Typed()
    train(objective, tmp_path, SETTINGS.model_copy(update={"mixed_precision": "bf16", "epochs": 1}))
    assert dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in objective.model.parameters()} == {torch.float32}


def test_curves_change_no_repository_and_hold_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    train(Tiny(), Path("run"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "run"]
    curves = content(Path("run/curves"))
    names = ["learning_rate", "train/absolute error", "train/loss", "validation/gain", "validation/luck"]
    assert sorted(curves) == ["metrics.json", "plots/loss.tsv", *(f"plots/metrics/{name}.tsv" for name in names)]
    lines = curves["plots/metrics/validation/gain.tsv"].decode().splitlines()
    assert lines[0] == "step\tgain"
    assert [line.split("\t")[0] for line in lines[1:]] == ["1", "2", "3"]


@pytest.mark.parametrize("batches", [7, 33])
def test_an_epoch_has_at_most_twenty_loss_points_with_its_mean(tmp_path: Path, batches: int) -> None:
    fitted = train(Tiny(batches=batches), tmp_path)
    rows = pl.read_csv(tmp_path / "curves" / "plots" / "loss.tsv", separator="\t")
    points = min(batches, 20)
    assert rows.height == 3 * points
    assert rows["step"][points - 1 :: points].to_list() == [batches, 2 * batches, 3 * batches]
    steps = rows["step"].diff().fill_null(rows["step"][0])
    for epoch, row in enumerate(fitted.history):
        of_epoch = slice(epoch * points, (epoch + 1) * points)
        assert (rows["loss"][of_epoch] * steps[of_epoch]).sum() / batches == pytest.approx(row["train/loss"])


def test_each_epoch_prints_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = train(Tiny(), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(f"epoch 2 of 3: loss {fitted.history[1]['train/loss']:.4f}, luck ")
    assert lines[1].endswith(" positions/s")


@pytest.mark.system
def test_importing_settings_does_not_import_torch() -> None:
    code = "import sys, befriend.training.training_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
