"""A training that was stopped at any moment ends as if nothing had happened; several processes end as one."""

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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes]]:
    """Weights and curves of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    trainee = Tiny()
    assert train(trainee, folder).best_epoch == 1
    return weights(trainee), content(folder / "curves")


@pytest.mark.parametrize("step", [0, 1, 3, BATCHES, BATCHES + 1, 2 * BATCHES + 4])
def test_a_run_killed_in_any_step_ends_in_the_same_bytes(
    step: int, whole: tuple[bytes, dict[str, bytes]], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(Tiny(dies_at_loss=step), tmp_path)
    trainee = Tiny()
    fitted = train(trainee, tmp_path)
    assert (weights(trainee), content(tmp_path / "curves")) == whole
    assert trainee.losses == 3 * BATCHES - max(step // BATCHES * BATCHES, step // 2 * 2)  # epochs' ends; every 2 steps
    assert fitted.epochs == 3


class Uneven(Tiny):
    """Its epochs have 5, 8 and 4 batches."""

    uneven = (0, 3, -1)


@pytest.mark.parametrize("step", [3, 6, 11, 15])
def test_epochs_of_unequal_length_are_resumed_in_the_same_bytes(step: int, tmp_path: Path) -> None:
    undisturbed = Uneven()
    train(undisturbed, tmp_path / "whole")
    with pytest.raises(Killed):
        train(Uneven(dies_at_loss=step), tmp_path / "killed")
    trainee = Uneven()
    train(trainee, tmp_path / "killed")
    assert weights(trainee) == weights(undisturbed)
    assert content(tmp_path / "killed" / "curves") == content(tmp_path / "whole" / "curves")


def test_a_run_killed_twice_in_validation_ends_in_the_same_bytes(
    whole: tuple[bytes, dict[str, bytes]], tmp_path: Path
) -> None:
    for validation in (1, 0):
        with pytest.raises(Killed):
            train(Tiny(dies_at_validation=validation), tmp_path)
    trainee = Tiny()
    train(trainee, tmp_path)
    assert (weights(trainee), content(tmp_path / "curves")) == whole


def test_a_finished_run_has_nothing_left_to_train(whole: tuple[bytes, dict[str, bytes]], tmp_path: Path) -> None:
    first = train(Tiny(), tmp_path)
    for file in content(tmp_path / "curves"):
        (tmp_path / "curves" / file).unlink()
    trainee = Tiny()
    again = train(trainee, tmp_path)
    assert trainee.losses == trainee.validations == 0
    assert (weights(trainee), content(tmp_path / "curves")) == whole
    assert (again.history, again.value, again.best_epoch) == (first.history, first.value, first.best_epoch)
    assert again.positions_per_second == 0 < first.positions_per_second


def test_a_killed_process_ends_in_the_same_bytes(whole: tuple[bytes, dict[str, bytes]], tmp_path: Path) -> None:
    process = subprocess.Popen([*PROGRAM, str(tmp_path), "0.05", "-1"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "checkpoints" / CHECKPOINT_FILE).exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(random.random() * 0.5)  # unseeded: any moment must do
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    trainee = Tiny()
    train(trainee, tmp_path)
    assert 0 < trainee.losses < 3 * BATCHES
    assert (weights(trainee), content(tmp_path / "curves")) == whole


def test_a_damaged_checkpoint_starts_anew(
    whole: tuple[bytes, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train(Tiny(dies_at_loss=7), tmp_path)
    file = tmp_path / "checkpoints" / CHECKPOINT_FILE
    file.write_bytes(file.read_bytes()[:-9])
    trainee = Tiny()
    train(trainee, tmp_path)
    assert "training starts anew" in capsys.readouterr().err
    assert trainee.losses == 3 * BATCHES
    assert (weights(trainee), content(tmp_path / "curves")) == whole


def test_a_checkpoint_of_another_model_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Killed):
        train(Tiny(dies_at_loss=7), tmp_path)
    other = Tiny()
    other.model.users = torch.nn.Embedding(7, 4)
    train(other, tmp_path)
    assert "it is of another model" in capsys.readouterr().err
    assert other.losses == 3 * BATCHES


def test_weights_that_two_names_share_are_resumed(tmp_path: Path) -> None:
    def tied(**options: int) -> Tiny:
        trainee = Tiny(**options)
        trainee.model.twin = trainee.model.users
        return trainee

    reference = tied()
    train(reference, tmp_path / "whole")
    with pytest.raises(Killed):
        train(tied(dies_at_loss=7), tmp_path / "killed")
    resumed = tied()
    train(resumed, tmp_path / "killed")
    for name, tensor in reference.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def two_processes(folder: Path, dies_at_loss: int = -1) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launch, *PROGRAM[1:], str(folder), "0", str(dies_at_loss)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.system
def test_two_processes_share_the_batches_and_end_with_equal_weights(tmp_path: Path) -> None:
    done = two_processes(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "main.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    main, other = ([float(n) for n in (tmp_path / f"{name}.txt").read_text().split()] for name in ("main", "other"))
    epochs = [[float(rows(100 * epoch + number).wanted.sum()) for number in range(BATCHES)] for epoch in range(3)]
    assert main == [value for epoch in epochs for value in epoch[0::2]]
    assert other == [value for epoch in epochs for value in [*epoch[1::2], epoch[0]]]  # the last step is filled up
    assert done.stderr.count("epoch 3 of 3") == 1


@pytest.mark.system
def test_two_processes_that_were_killed_end_in_the_same_bytes(tmp_path: Path) -> None:
    assert two_processes(tmp_path / "whole").returncode == 0
    assert two_processes(tmp_path / "killed", dies_at_loss=5).returncode != 0
    assert not (tmp_path / "killed/main.safetensors").exists()
    assert two_processes(tmp_path / "killed").returncode == 0
    whole, killed = (content(tmp_path / name / "curves") for name in ("whole", "killed"))
    assert whole == killed
    assert (tmp_path / "whole/main.safetensors").read_bytes() == (tmp_path / "killed/main.safetensors").read_bytes()
