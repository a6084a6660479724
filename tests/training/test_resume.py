"""A training stopped at any time ends with the bytes of an uninterrupted one; several processes end with equal
weights."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from befriend.training.loop import CHECKPOINT_FILE
from tests.conftest import ROOT
from tests.training.tiny import BATCHES, Killed, Tiny, content, rows, train, weights

PROGRAM = [sys.executable, "-m", "tests.training.tiny"]
CHECKPOINTS = {step for step in range(1, 3 * BATCHES) if step % 2 == 0 or step % BATCHES == 0}
"""steps after which there is a checkpoint: every 2, and the end of an epoch"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes]]:
    """Weights and curves of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    objective = Tiny()
    assert train(objective, folder).best_epoch == 1
    return weights(objective), content(folder / "curves")


@pytest.mark.parametrize("step", [0, 1, 3, BATCHES, BATCHES + 1, 2 * BATCHES + 4])
def test_a_run_killed_in_any_step_ends_with_the_same_bytes(
    step: int, reference: tuple[bytes, dict[str, bytes]], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(Tiny(dies_at_loss=step), tmp_path)
    objective = Tiny()
    fitted = train(objective, tmp_path)
    assert (weights(objective), content(tmp_path / "curves")) == reference
    last_checkpoint = max(step // BATCHES * BATCHES, step // 2 * 2)  # after each epoch, and every 2 steps
    assert objective.losses == 3 * BATCHES - last_checkpoint
    assert fitted.num_epochs == 3


class Uneven(Tiny):
    """Its epochs have 5, 8 and 4 batches."""

    uneven = (0, 3, -1)


@pytest.mark.parametrize("step", [3, 6, 11, 15])
def test_resumed_epochs_of_unequal_length_end_with_the_same_bytes(step: int, tmp_path: Path) -> None:
    uninterrupted = Uneven()
    train(uninterrupted, tmp_path / "whole")
    with pytest.raises(Killed):
        train(Uneven(dies_at_loss=step), tmp_path / "killed")
    objective = Uneven()
    train(objective, tmp_path / "killed")
    assert weights(objective) == weights(uninterrupted)
    assert content(tmp_path / "killed" / "curves") == content(tmp_path / "whole" / "curves")


def test_a_run_killed_twice_in_validation_ends_with_the_same_bytes(
    reference: tuple[bytes, dict[str, bytes]], tmp_path: Path
) -> None:
    for validation in (1, 0):
        with pytest.raises(Killed):
            train(Tiny(dies_at_validation=validation), tmp_path)
    objective = Tiny()
    train(objective, tmp_path)
    assert (weights(objective), content(tmp_path / "curves")) == reference


def test_a_finished_run_trains_nothing_again(reference: tuple[bytes, dict[str, bytes]], tmp_path: Path) -> None:
    first = train(Tiny(), tmp_path)
    for file in content(tmp_path / "curves"):
        (tmp_path / "curves" / file).unlink()
    objective = Tiny()
    second = train(objective, tmp_path)
    assert objective.losses == objective.validations == 0
    assert (weights(objective), content(tmp_path / "curves")) == reference
    assert (second.history, second.best_value, second.best_epoch) == (first.history, first.best_value, first.best_epoch)
    assert second.positions_per_second == 0 < first.positions_per_second


@pytest.mark.system
def test_a_killed_process_ends_with_the_same_bytes(reference: tuple[bytes, dict[str, bytes]], tmp_path: Path) -> None:
    # It rests 0.2 s in each of its 15 steps, so it still runs when it is killed, up to 0.5 s after its second step.
    process = subprocess.Popen([*PROGRAM, str(tmp_path), "0.2", "-1"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "checkpoints" / CHECKPOINT_FILE).exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(random.random() * 0.5)  # not seeded: the result is the same whenever it is killed
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    objective = Tiny()
    train(objective, tmp_path)
    assert 3 * BATCHES - objective.losses in CHECKPOINTS
    assert (weights(objective), content(tmp_path / "curves")) == reference


def test_training_starts_again_from_a_damaged_checkpoint(
    reference: tuple[bytes, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train(Tiny(dies_at_loss=7), tmp_path)
    file = tmp_path / "checkpoints" / CHECKPOINT_FILE
    file.write_bytes(file.read_bytes()[:-9])
    objective = Tiny()
    train(objective, tmp_path)
    assert "training starts from the beginning" in capsys.readouterr().err
    assert objective.losses == 3 * BATCHES
    assert (weights(objective), content(tmp_path / "curves")) == reference


def test_training_starts_again_from_a_checkpoint_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train(Tiny(dies_at_loss=7), tmp_path)
    objective = Tiny()
    objective.model.users = torch.nn.Embedding(7, 4)
    train(objective, tmp_path)
    assert "it is of another model" in capsys.readouterr().err
    assert objective.losses == 3 * BATCHES


def test_weights_with_two_names_are_resumed(tmp_path: Path) -> None:
    def tied(**options: int) -> Tiny:
        objective = Tiny(**options)
        objective.model.twin = objective.model.users
        return objective

    uninterrupted = tied()
    train(uninterrupted, tmp_path / "whole")
    with pytest.raises(Killed):
        train(tied(dies_at_loss=7), tmp_path / "killed")
    resumed = tied()
    train(resumed, tmp_path / "killed")
    for name, tensor in uninterrupted.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def two_processes(folder: Path, dies_at_loss: int = -1) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launch, *PROGRAM[1:], str(folder), "0", str(dies_at_loss)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.system
def test_two_processes_share_the_batches_and_end_with_equal_weights(tmp_path: Path) -> None:
    result = two_processes(tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "main.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    main_process, second_process = (
        [float(n) for n in (tmp_path / f"{name}.txt").read_text().split()] for name in ("main", "other")
    )
    epochs = [
        [float(rows(100 * epoch + batch_index).target.sum()) for batch_index in range(BATCHES)] for epoch in range(3)
    ]
    assert main_process == [value for epoch in epochs for value in epoch[0::2]]
    # In the last step the second process repeats the first batch.
    assert second_process == [value for epoch in epochs for value in [*epoch[1::2], epoch[0]]]
    assert result.stderr.count("epoch 3 of 3") == 1


@pytest.mark.proof
def test_two_killed_processes_end_with_the_same_bytes(tmp_path: Path) -> None:
    assert two_processes(tmp_path / "whole").returncode == 0
    assert two_processes(tmp_path / "killed", dies_at_loss=5).returncode != 0
    assert not (tmp_path / "killed/main.safetensors").exists()
    assert two_processes(tmp_path / "killed").returncode == 0
    uninterrupted, killed = (content(tmp_path / name / "curves") for name in ("whole", "killed"))
    assert uninterrupted == killed
    assert (tmp_path / "whole/main.safetensors").read_bytes() == (tmp_path / "killed/main.safetensors").read_bytes()
