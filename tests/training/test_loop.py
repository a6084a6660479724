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
from befriend.training.loop import Losses
from befriend.training.optimizer import adamw, learning_rate
from befriend.training.settings import TrainingSettings
from tests.training.tiny import BATCHES, SETTINGS, Rows, Tiny, content, train, weights


class Scripted(Tiny):
    """Its validation says what it is told, and remembers the weights it said it of."""

    metric = "gain"

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.gains, self.kept = gains, list[bytes]()

    def validate(self) -> dict[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        self.kept.append(weights(self))
        return {"gain": self.gains[len(self.kept) - 1]}


def test_early_stopping_returns_to_the_best_weights(tmp_path: Path) -> None:
    trainee = Scripted(1.0, 3.0, 3.0, 2.0, 9.0)  # an equal value is no gain
    fitted = train(trainee, tmp_path, SETTINGS.model_copy(update={"epochs": 5, "patience": 2}))
    assert (fitted.epochs, fitted.best_epoch, fitted.value, fitted.stopped_early) == (4, 2, 3.0, True)
    assert weights(trainee) == trainee.kept[1] != trainee.kept[3]
    assert [row["validation/gain"] for row in fitted.history] == [1.0, 3.0, 3.0, 2.0]
    assert (tmp_path / "curves/metrics.json").read_text().count('"gain": 3.0') == 1


def test_patience_that_runs_out_in_the_last_epoch_stopped_nothing(tmp_path: Path) -> None:
    fitted = train(Scripted(2.0, 1.0), tmp_path, SETTINGS.model_copy(update={"epochs": 2, "patience": 1}))
    assert (fitted.epochs, fitted.best_epoch, fitted.stopped_early) == (2, 1, False)


def test_the_learning_rate_rises_in_a_line_and_falls_by_half_a_cosine() -> None:
    settings = TrainingSettings(learning_rate=2.0, warmup=0.4, final_learning_rate=0.1)
    rates = [learning_rate(step, 10, settings) for step in range(1, 11)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[6] == pytest.approx(2 * (0.1 + 0.9 * 0.5))  # half-way down
    assert rates[9] == pytest.approx(0.2)
    assert learning_rate(5, 5, settings.model_copy(update={"warmup": 1.0})) == 2.0
    assert learning_rate(10, 10, settings.model_copy(update={"warmup": 0.0})) == pytest.approx(0.2)


def test_the_rate_of_an_epochs_last_step_is_drawn(tmp_path: Path) -> None:
    fitted = train(Tiny(), tmp_path)
    assert [row["learning_rate"] for row in fitted.history] == [
        learning_rate(step, 3 * BATCHES, SETTINGS) for step in (BATCHES, 2 * BATCHES, 3 * BATCHES)
    ]


@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("lengths", [(20, 23, 19, 17), (20, 23, 24, 22)], ids=["fewer steps", "more steps"])
def test_epochs_of_any_length_each_cover_their_share_of_the_schedule(
    lengths: tuple[int, ...], warmup: float, tmp_path: Path
) -> None:
    trainee = Tiny(batches=20)
    trainee.uneven = tuple(length - 20 for length in lengths)
    settings = SETTINGS.model_copy(update={"epochs": 4, "warmup": warmup, "final_learning_rate": 0.1})
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        fitted = train(trainee, tmp_path, settings)
    finally:
        hook.remove()
    assert len(rates) == sum(lengths)
    assert rates[-1] == pytest.approx(settings.learning_rate * (1.0 if warmup == 1 else 0.1))
    ends = [rates[sum(lengths[: epoch + 1]) - 1] for epoch in range(4)]
    assert [row["learning_rate"] for row in fitted.history] == ends
    quarters = [learning_rate(quarter * 1000, 4 * 1000, settings) for quarter in (1, 2, 3, 4)]
    assert ends == pytest.approx(quarters, rel=0.03)  # but for whole steps of warm-up
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_only_matrices_and_embeddings_decay() -> None:
    model = Tiny().model
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    optimizer = adamw(model, TrainingSettings(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        kept = 1 - 0.1 * 0.5 if parameter.ndim >= 2 else 1  # AdamW: minus rate × decay × itself
        assert torch.allclose(parameter, before[name] * kept), name


class Settled(Tiny):
    """Its users learn nothing, the rest as ever."""

    def scale(self, name: str) -> float:
        return 0.0 if name.startswith("users.") else 1.0


def test_a_parameter_learns_as_fast_as_its_trainee_says(tmp_path: Path) -> None:
    trainee = Settled()
    before = {name: value.detach().clone() for name, value in trainee.model.named_parameters()}
    train(trainee, tmp_path)
    kept = {name for name, value in trainee.model.named_parameters() if torch.equal(value, before[name])}
    assert kept == {"users.weight"}


class Watching(Tiny):
    """Its loss is steep; records the norm of the gradient that each epoch's last step was taken with."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def loss(self, batch: Rows) -> Losses:
        losses = super().loss(batch)
        return Losses(losses.loss * 1000, losses.positions, {})

    def batches(self, epoch: int) -> Sequence[Rows]:
        self.read()
        return super().batches(epoch)

    def validate(self) -> dict[str, float]:
        self.read()
        return super().validate()

    def read(self) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if gradients:
            self.norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))


def test_no_gradient_is_longer_than_allowed(tmp_path: Path) -> None:
    clipped, free = Watching(), Watching()
    train(clipped, tmp_path / "clipped", SETTINGS.model_copy(update={"gradient_clip": 0.5}))
    train(free, tmp_path / "free", SETTINGS.model_copy(update={"gradient_clip": None}))
    assert clipped.norms
    assert max(clipped.norms) == pytest.approx(0.5, rel=1e-4)
    assert min(free.norms) > 50


class Weighted(Tiny):
    """Two batches of unlike weight, whose loss does not depend on the model."""

    def __init__(self) -> None:
        super().__init__(batches=2)

    def loss(self, batch: Rows) -> Losses:
        self.losses += 1
        value, positions = (1.0, 30) if self.losses % 2 else (5.0, 10)
        nothing = super().loss(batch).loss * 0
        self.losses -= 1
        return Losses(nothing + value, positions, {"rank": torch.tensor(value * 10)})


def test_an_epochs_figures_are_means_over_positions(tmp_path: Path) -> None:
    row = train(Weighted(), tmp_path).history[0]
    assert row["train/loss"] == pytest.approx((1 * 30 + 5 * 10) / 40)
    assert row["train/rank"] == pytest.approx((10 * 30 + 50 * 10) / 40)


class Broken(Tiny):
    def loss(self, batch: Rows) -> Losses:
        losses = super().loss(batch)
        return Losses(losses.loss * (torch.nan if self.losses == 8 else 1), losses.positions, losses.figures)


def test_a_loss_that_is_no_number_stops_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"loss became nan in step 3 of epoch 2. Lower learning_rate \(now 0.05\)"):
        train(Broken(), tmp_path)
    trainee = Tiny()
    train(trainee, tmp_path)  # nothing of the broken step was kept
    assert all(bool(tensor.isfinite().all()) for tensor in trainee.model.state_dict().values())


def test_a_validation_that_is_no_number_stops(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gain is nan after epoch 2"):
        train(Scripted(1.0, float("nan")), tmp_path)


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        train(Tiny(batches=0), tmp_path)


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    trainee = Tiny()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(trainee, tmp_path, SETTINGS.model_copy(update={"epochs": 1, "threads": threads + 1}))
    assert torch.equal(torch.rand(3), wanted)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_computes_the_loss_in_bfloat16_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    kinds = set()

    class Typed(Tiny):
        def loss(self, batch: Rows) -> Losses:
            kinds.add(self.model.out(torch.zeros(1, 8)).dtype)
            return super().loss(batch)

    trainee = Typed()
    train(trainee, tmp_path, SETTINGS.model_copy(update={"mixed_precision": "bf16", "epochs": 1}))
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainee.model.parameters()} == {torch.float32}


def test_curves_touch_no_repository_and_hold_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    train(Tiny(), Path("run"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git", "run"]
    drawn = content(Path("run/curves"))
    names = ["learning_rate", "train/absolute error", "train/loss", "validation/gain", "validation/luck"]
    assert sorted(drawn) == ["metrics.json", "plots/loss.tsv", *(f"plots/metrics/{name}.tsv" for name in names)]
    lines = drawn["plots/metrics/validation/gain.tsv"].decode().splitlines()
    assert lines[0] == "step\tgain"
    assert [line.split("\t")[0] for line in lines[1:]] == ["1", "2", "3"]


@pytest.mark.parametrize("batches", [7, 33])
def test_losses_inside_an_epoch_are_twenty_means_at_most_that_add_up_to_its_own(tmp_path: Path, batches: int) -> None:
    fitted = train(Tiny(batches=batches), tmp_path)
    rows = pl.read_csv(tmp_path / "curves" / "plots" / "loss.tsv", separator="\t")
    some = min(batches, 20)
    assert rows.height == 3 * some
    assert rows["step"][some - 1 :: some].to_list() == [batches, 2 * batches, 3 * batches]
    steps = rows["step"].diff().fill_null(rows["step"][0])
    for epoch, row in enumerate(fitted.history):
        here = slice(epoch * some, (epoch + 1) * some)
        assert (rows["loss"][here] * steps[here]).sum() / batches == pytest.approx(row["train/loss"])


def test_each_epoch_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = train(Tiny(), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(f"epoch 2 of 3: loss {fitted.history[1]['train/loss']:.4f}, luck ")
    assert lines[1].endswith(" positions/s")


def test_settings_need_no_torch() -> None:
    code = "import sys, befriend.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
