"""Stage train_two_tower: the metadata it saves, equal bytes after an interruption, and which folders are rejected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from befriend import files
from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.errors import DataError
from befriend.models.trained_model import load_two_tower
from befriend.readers.data_settings import DataSettings
from befriend.training import loop
from befriend.validation.validate_settings import ValidateSettings
from tests.conftest import file_digests
from tests.projects import SMALL, train, validate_log


def prepare(root: Path, until: float = 1.0) -> None:
    """Simulates and validates a log of about 100 users with attributes. until: share of its events to use."""
    from befriend.simulate.network import write
    from befriend.simulate.network_settings import SimulateSettings

    write(SimulateSettings(users=100, events=2000, seed=1), root / "simulated")
    events = pl.read_parquet(root / "simulated" / "events.parquet")
    (root / "log").mkdir()
    events.head(int(events.height * until)).write_parquet(root / "log" / "events.parquet")
    ids = events["actor_id"].unique().sort()
    attributes_table = pl.DataFrame(
        {"user_id": ids, "city": [f"c{k % 3}" for k in range(len(ids))], "age": range(len(ids))}
    )
    attributes_table.write_parquet(root / "log" / "attributes.parquet")
    attributes = {"file": "attributes.parquet", "categorical": ["city"], "numeric": ["age"]}
    data = DataSettings(roles={"view": "signal", "block": "exclude"}, attributes=attributes)
    validate_log(data, ValidateSettings(), root / "log", root / "prepared", root / "reports")


def digests(root: Path) -> dict[str, str]:
    return file_digests(root, "models", "reports/training")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    prepare(root)
    train(root, epochs=2)
    return root


def copy(project: Path, root: Path) -> None:
    shutil.copytree(project / "prepared", root / "prepared")
    shutil.copytree(project / "models" / "text", root / "models" / "text")


def test_model_json_describes_the_model_and_its_training_data(project: Path) -> None:
    log = EventLog.read(project / "prepared")
    about = files.read_json(project / "models" / "two_tower" / "model.json")
    assert about["users"] == log.num_users and about["lineage"] == log.lineage()
    assert about["data"] == files.sha256(project / "prepared" / "events.parquet")
    assert about["actions"] == list(log.actions)
    assert about["tower"]["embedding_dim"] == SMALL["embedding_dim"]
    assert about["attributes"]["vocabulary"] == {"city": ["c0", "c1", "c2"]}
    curves = json.loads((project / "reports" / "training" / "two_tower" / "metrics.json").read_text())
    assert curves["validation"]["ndcg@10"] == pytest.approx(about["validation"]["ndcg@10"])
    assert not (project / ".checkpoints" / "train_two_tower").exists()


@pytest.mark.system
def test_an_interrupted_and_resumed_training_gives_the_same_bytes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(project, tmp_path)
    train_step, steps = loop._Run._train_step, []

    def stop_once(run: object, *args: object) -> None:
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        train_step(run, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop._Run, "_train_step", stop_once)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs=2, checkpoint_every=2)
    assert any((tmp_path / ".checkpoints" / "train_two_tower").rglob("*.safetensors"))
    assert not (tmp_path / "models" / "two_tower").exists()
    num_steps_before = len(steps)
    train(tmp_path, epochs=2, checkpoint_every=2)
    all_steps = pl.read_csv(project / "reports" / "training" / "two_tower" / "plots" / "loss.tsv", separator="\t")[
        "step"
    ]
    assert len(steps) - num_steps_before == all_steps.max() - 4  # it resumed from its last checkpoint, after step 4
    assert digests(tmp_path) == digests(project)


def test_a_saved_model_loads_with_the_same_weights_and_encoding(project: Path) -> None:
    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    first, second = (load_two_tower(project / "models" / "two_tower", log, attributes) for _ in range(2))
    for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert np.array_equal(a.numpy(), b.numpy())
    assert first.attribute_encoding.scale.keys() == {"age"}
    assert not first.model.training


def test_a_model_of_an_earlier_log_version_needs_the_attributes_of_its_training(tmp_path: Path) -> None:
    prepare(tmp_path, until=0.7)
    train(tmp_path)
    log = EventLog.read(tmp_path / "prepared")
    (tmp_path / "users.parquet").write_bytes((tmp_path / "prepared" / "users.parquet").read_bytes())
    rules = ValidateSettings(previous_users=tmp_path / "users.parquet")
    data = DataSettings(roles={"view": "signal", "block": "exclude"})
    later = tmp_path / "simulated" / "events.parquet"
    validate_log(data, rules, later, tmp_path / "prepared", tmp_path / "reports")
    grown = EventLog.read(tmp_path / "prepared")
    assert grown.num_users > log.num_users
    with pytest.raises(DataError, match="city"):  # the model was trained with attributes that are gone
        load_two_tower(tmp_path / "models" / "two_tower", grown, Attributes.read(tmp_path / "prepared"))


def test_a_model_of_another_log_or_a_damaged_one_is_rejected(project: Path, tmp_path: Path) -> None:
    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    folder = tmp_path / "two_tower"
    with pytest.raises(DataError, match=r"two_tower holds no model\. Run `dvc repro train_two_tower` first"):
        load_two_tower(folder, log, attributes)
    shutil.copytree(project / "models" / "two_tower", folder)
    about = files.read_json(folder / "model.json")
    files.write_json(folder / "model.json", about | {"lineage": "0" * 64})
    with pytest.raises(DataError, match="belongs to another log: lineage 000000000000"):
        load_two_tower(folder, log, attributes)
    files.write_json(folder / "model.json", about)
    (folder / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        load_two_tower(folder, log, attributes)
