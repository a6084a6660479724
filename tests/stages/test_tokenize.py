"""Stage tokenize: reproducible, from events of the training part only; STUs do not change when users join."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.figure import Figure

from befriend import files
from befriend.data.event_log import EventLog
from befriend.data.split import read_split
from befriend.errors import DataError
from befriend.features.text_vectors import TextVectors
from befriend.stages import tokenize
from befriend.tokens.token_figures import draw_code_usage, draw_map
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.tokenizer import StuTokenizer, load_tokenizer
from befriend.tokens.trie import Trie
from tests.conftest import file_digests
from tests.projects import prepare


def run(root: Path, **options: Any) -> tokenize.TokenizeResult:
    settings = TokenizeSettings(**{"dimensions": 8, "threads": 1, "latent_dim": 4, "epochs": 2} | options)
    return tokenize.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")


def digests(root: Path) -> dict[str, str]:
    metrics = files.sha256(root / "reports" / "tokens.json")
    return file_digests(root, "models/tokens", "reports/tokens") | {"reports/tokens.json": metrics}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    prepare(root, users=120, events=2500)
    run(root)
    return root


@pytest.fixture
def another(project: Path, tmp_path: Path) -> Path:
    """A copy of the inputs of the stage."""
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    shutil.copytree(project / "models" / "text", tmp_path / "models" / "text")
    return tmp_path


def load(folder: Path, log: EventLog) -> StuTokenizer:
    return load_tokenizer(folder, log, TextVectors.none(log.num_users))


@pytest.mark.system
@pytest.mark.usefixtures("pictures")
def test_running_again_gives_the_same_pictures(another: Path) -> None:
    run(another)
    before = digests(another)
    run(another)
    assert digests(another) == before


def test_running_again_gives_the_same_bytes(project: Path, another: Path) -> None:
    run(another)
    assert digests(another) == digests(project)


def test_every_user_of_the_training_part_has_an_stu_and_the_trie_holds_them_all(project: Path) -> None:
    from safetensors.torch import load_file

    log = EventLog.read(project / "prepared")
    end = read_split(project / "prepared", log).part("train")[1]
    tokens = load(project / "models" / "tokens", log)
    assert len(tokens.table) == 1 + max(log.actor[:end].max(), log.target[:end].max()) < log.num_users
    trie, saved = Trie.of(tokens.table.stus), load_file(project / "models" / "tokens" / "trie.safetensors")
    assert torch.equal(saved["users"], trie.users) and torch.equal(saved["leaves"], trie.leaves)
    assert all(torch.equal(saved[f"starts.{level}"], child_ptr) for level, child_ptr in enumerate(trie.child_ptr))
    assert all(torch.equal(saved[f"tokens.{level}"], nodes) for level, nodes in enumerate(trie.tokens))


def test_events_after_the_training_part_do_not_change_the_table(project: Path, another: Path) -> None:
    """Other validation and test events between the same users give the same STUs."""
    log = EventLog.read(project / "prepared")
    end = read_split(project / "prepared", log).part("train")[1]
    events = pl.read_parquet(another / "prepared" / "events.parquet")
    swapped = events[end:].with_columns(actor_id=pl.col("target_id"), target_id=pl.col("actor_id"))
    pl.concat([events[:end], swapped]).write_parquet(another / "prepared" / "events.parquet")
    run(another)
    for file in ("table.parquet", "codebooks.safetensors"):
        assert files.sha256(another / "models/tokens" / file) == files.sha256(project / "models/tokens" / file)


@pytest.mark.parametrize(
    "option",
    [
        {"half_life": 1.0},
        {"action_weights": {"message": 5.0}},
        {"num_codebooks": 2},
        {"codes": 40},
        {"collisions": "digit"},
        {"balance": 1.0},
        {"seed": 1},
        {"dimensions": 4},
        {"iterations": 1},
        {"quantizer": "rqvae"},
    ],
    ids=str,
)
def test_every_setting_changes_the_table(project: Path, another: Path, option: dict[str, Any]) -> None:
    run(another, **option)
    log = EventLog.read(project / "prepared")
    first, second = (load(root / "models" / "tokens", log) for root in (project, another))
    assert first.table.digest() != second.table.digest()
    assert len(second.table) == len(first.table)
    extended = second.add_newcomers(log)
    assert torch.equal(extended.table.stus[: len(second.table)], second.table.stus)
    assert len(extended.table) == log.num_users


def test_saved_codebooks_give_the_codes_of_the_stage(another: Path) -> None:
    run(another, quantizer="rqvae", collisions="digit")
    log = EventLog.read(another / "prepared")
    end = read_split(another / "prepared", log).part("train")[1]
    tokens = load(another / "models" / "tokens", log)
    vectors = tokens.vectors(log, np.arange(end), np.arange(len(tokens.table)))
    assert torch.equal(tokens.quantizer.codes(vectors), tokens.table.stus[:, :3])
    assert not (another / ".checkpoints" / "tokenize").exists()


def test_a_retrain_keeps_the_stus_of_an_earlier_table(project: Path, another: Path) -> None:
    log = EventLog.read(project / "prepared")
    split = json.loads((another / "prepared" / "split.json").read_text())
    before = load(project / "models" / "tokens", log)
    later = {"validation_start": split["test_start"], "t_validation": split["t_test"]}
    (another / "prepared" / "split.json").write_text(json.dumps(split | later))
    shutil.copytree(project / "models" / "tokens", another / "previous")
    run(another, previous=str(another / "previous"))
    after = load(another / "models" / "tokens", log)
    assert len(after.table) > len(before.table)
    assert after.table.digest(len(before.table)) == before.table.digest()


def test_a_table_of_vectors_is_weighted_by_its_share(project: Path, another: Path) -> None:
    log = EventLog.read(project / "prepared")
    rows = pl.DataFrame({"user_id": log.user_ids, "vector": [[float(k % 3), 1.0] for k in range(log.num_users)]})
    rows.write_parquet(another / "vectors.parquet")
    run(another, vectors=str(another / "vectors.parquet"), vectors_weight=1.0)
    tokenizer = load(another / "models" / "tokens", log)
    assert tokenizer.quantizer.codebooks[0].shape[1] == 8 + 2
    group = np.arange(len(tokenizer.table)) % 3
    codes = tokenizer.quantizer.codes(tokenizer.vectors(log, np.arange(10), np.arange(len(tokenizer.table))))
    assert all(len(codes[group == k].unique(dim=0)) == 1 for k in range(3))
    rows.drop("vector").write_parquet(another / "vectors.parquet")
    with pytest.raises(DataError, match="has the columns user_id; needed: user_id, vector"):
        run(another, vectors=str(another / "vectors.parquet"))


def test_metrics_cover_all_users_of_the_table(project: Path) -> None:
    figures = json.loads((project / "reports" / "tokens.json").read_text())
    log = EventLog.read(project / "prepared")
    tokens = load(project / "models" / "tokens", log)
    assert figures["users"] == len(tokens.table)
    assert figures["after"]["collision_rate"] == 0
    assert figures["level"].keys() == {"0", "1", "2"}
    used = len(tokens.table.stus[:, 0].unique()) / tokens.table.vocabulary[0]
    assert figures["level"]["0"]["used_share"] == pytest.approx(used)
    report = (project / "reports" / "tokens" / "report.md").read_text()
    for name in ("use.png", "map.png"):
        assert name in report and (project / "reports" / "tokens" / name).is_file()


def test_figures_show_each_code_of_a_level_and_each_user(tmp_path: Path, figures: dict[str, Figure]) -> None:
    draw_code_usage(torch.tensor([[0, 2], [0, 1], [1, 1], [0, 0]]), (2, 3), tmp_path / "use.png")
    assert [axes.get_title() for axes in figures["use.png"].axes] == ["token 0: 100% in use", "token 1: 100% in use"]
    points = pl.DataFrame({"user": [5, 7, 9], "x": [0.0, 1.0, 2.0], "y": [3.0, 4.0, 5.0], "token": [0, 1, 0]})
    draw_map(points, 2, "three users", tmp_path / "map.png")
    (axes,) = figures["map.png"].axes
    assert axes.collections[0].get_offsets().tolist() == [[0, 3], [1, 4], [2, 5]]
    first, second, third = axes.collections[0].get_facecolors().tolist()
    assert first == third != second


def test_tokenizers_that_are_missing_damaged_or_of_another_log_are_rejected(project: Path, another: Path) -> None:
    log = EventLog.read(project / "prepared")
    with pytest.raises(DataError, match="holds no tokens"):
        load(another / "models" / "tokens", log)
    shutil.copytree(project / "models" / "tokens", another / "models" / "tokens")
    other = EventLog(**{**log.__dict__, "user_ids": log.user_ids + 1})
    with pytest.raises(DataError, match="belongs to another log"):
        load(another / "models" / "tokens", other)
    table = pl.read_parquet(another / "models/tokens/table.parquet")
    table.reverse().write_parquet(another / "models/tokens/table.parquet")
    with pytest.raises(DataError, match="has changed since the tokenizer was saved"):
        load(another / "models" / "tokens", log)
