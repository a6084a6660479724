"""Stage tokenize: the same bytes again, only events of the training part, STUs that stay when users join."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from befriend import files
from befriend.data.event_log import EventLog
from befriend.data.split import read_split
from befriend.errors import DataError
from befriend.features.text_vectors import TextVectors
from befriend.stages import tokenize
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.tokenizer import StuTokenizer
from befriend.tokens.tokenizer import load_tokenizer as load_tokens
from befriend.tokens.trie import Trie
from tests.projects import prepare


def run(root: Path, **options: Any) -> tokenize.TokenizeResult:
    settings = TokenizeSettings(**{"dimensions": 8, "threads": 1, "latent_dim": 4, "epochs": 2} | options)
    return tokenize.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")


def digests(root: Path) -> dict[str, str]:
    found = [p for part in ("models/tokens", "reports/tokens") for p in (root / part).rglob("*") if p.is_file()]
    assert found
    return {str(p.relative_to(root)): files.sha256(p) for p in [*found, root / "reports" / "tokens.json"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    prepare(root, users=120, events=2500)
    run(root)
    return root


@pytest.fixture
def another(project: Path, tmp_path: Path) -> Path:
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    shutil.copytree(project / "models" / "text", tmp_path / "models" / "text")
    return tmp_path


def load(folder: Path, log: EventLog) -> StuTokenizer:
    return load_tokens(folder, log, TextVectors.none(log.num_users))


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


def test_nothing_after_training_is_looked_at(project: Path, another: Path) -> None:
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
    one, other = (load(root / "models" / "tokens", log) for root in (project, another))
    assert one.table.digest() != other.table.digest()
    assert len(other.table) == len(one.table)
    again = other.with_newcomers(log)
    assert torch.equal(again.table.stus[: len(other.table)], other.table.stus)
    assert len(again.table) == log.num_users


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
    shutil.copytree(project / "models" / "tokens", another / "kept")
    run(another, previous=str(another / "kept"))
    after = load(another / "models" / "tokens", log)
    assert len(after.table) > len(before.table)
    assert after.table.digest(len(before.table)) == before.table.digest()


def test_another_table_of_vectors_joins_by_its_weight(project: Path, another: Path) -> None:
    log = EventLog.read(project / "prepared")
    rows = pl.DataFrame({"user_id": log.user_ids, "vector": [[float(k % 3), 1.0] for k in range(log.num_users)]})
    rows.write_parquet(another / "vectors.parquet")
    run(another, vectors=str(another / "vectors.parquet"), vectors_weight=1.0)
    found = load(another / "models" / "tokens", log)
    assert found.quantizer.codebooks[0].shape[1] == 8 + 2
    group = np.arange(len(found.table)) % 3
    plain = found.quantizer.codes(found.vectors(log, np.arange(10), np.arange(len(found.table))))
    assert all(len(plain[group == k].unique(dim=0)) == 1 for k in range(3))
    rows.drop("vector").write_parquet(another / "vectors.parquet")
    with pytest.raises(DataError, match="has the columns user_id; needed: user_id, vector"):
        run(another, vectors=str(another / "vectors.parquet"))


def test_figures_are_of_all_users(project: Path) -> None:
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
        assert name in report and (project / "reports" / "tokens" / name).stat().st_size > 5000


def test_tokens_of_another_log_and_spoilt_ones_are_refused(project: Path, another: Path) -> None:
    log = EventLog.read(project / "prepared")
    with pytest.raises(DataError, match="holds no tokens"):
        load(another / "models" / "tokens", log)
    shutil.copytree(project / "models" / "tokens", another / "models" / "tokens")
    other = EventLog(**{**log.__dict__, "user_ids": log.user_ids + 1})
    with pytest.raises(DataError, match="belongs to another log"):
        load(another / "models" / "tokens", other)
    table = pl.read_parquet(another / "models/tokens/table.parquet")
    table.reverse().write_parquet(another / "models/tokens/table.parquet")
    with pytest.raises(DataError, match="is not the one that was written there"):
        load(another / "models" / "tokens", log)
