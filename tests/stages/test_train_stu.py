"""Stage train_stu: a self-describing folder, the same bytes after a stop, and no STUs but those it was trained with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from befriend import files
from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.errors import DataError
from befriend.features.text_vectors import TextVectors
from befriend.models.trained_model import load_stu
from befriend.objectives.objective_settings import StuSettings
from befriend.stages import tokenize, train_stu
from befriend.tokens import tokenizer as tokens_folder
from befriend.tokens.token_settings import TokenizeSettings
from befriend.training import loop
from tests.projects import SMALL, prepare, train_tokens


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    prepare(root, users=100, events=2000)
    train_tokens(root, epochs=2)
    return root


def digests(root: Path) -> dict[str, str]:
    found = [p for part in ("models/stu", "reports/training") for p in (root / part).rglob("*") if p.is_file()]
    assert found
    return {str(p.relative_to(root)): files.sha256(p) for p in found}


def again(project: Path, root: Path) -> None:
    if not (root / "prepared").exists():
        shutil.copytree(project / "prepared", root / "prepared")
        for part in ("text", "tokens"):
            shutil.copytree(project / "models" / part, root / "models" / part)
    settings = StuSettings(**SMALL | {"epochs": 2})
    train_stu.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")


def test_training_again_and_training_after_a_stop_give_the_same_bytes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, epochs = loop._Run.validate, []

    def stopped(self: loop._Run) -> None:
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(loop._Run, "validate", stopped)
    with pytest.raises(KeyboardInterrupt):
        again(project, tmp_path)
    monkeypatch.undo()
    again(project, tmp_path)
    assert digests(tmp_path) == digests(project)


def test_it_trains_in_bfloat16_too(project: Path, tmp_path: Path) -> None:
    for part in ("prepared", "models/text", "models/tokens"):
        shutil.copytree(project / part, tmp_path / part)
    settings = StuSettings(**SMALL | {"mixed_precision": "bf16"})
    folders = tmp_path / "prepared", tmp_path / "models", tmp_path / "reports", tmp_path / ".checkpoints"
    assert 0 < train_stu.run(settings, *folders).value < 1
    assert digests(tmp_path) != digests(project)


def test_the_folder_names_the_tokens_and_takes_no_others(project: Path, tmp_path: Path) -> None:
    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    tokens = tokens_folder.load_tokenizer(project / "models" / "tokens", log, TextVectors.none(log.num_users))
    trained = load_stu(project / "models" / "stu", log, attributes, tokens.table)
    assert trained.tokens == tokens.table.digest()
    assert np.array_equal(trained.model.tokens.stus.numpy(), tokens.table.stus.numpy())
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    shutil.copytree(project / "models" / "text", tmp_path / "models" / "text")
    settings = TokenizeSettings(dimensions=8, threads=1, seed=5)
    tokenize.run(settings, tmp_path / "prepared", tmp_path / "models", tmp_path / "reports", tmp_path / ".checkpoints")
    others = tokens_folder.load_tokenizer(tmp_path / "models" / "tokens", log, TextVectors.none(log.num_users))
    with pytest.raises(DataError, match="trained with other STUs"):
        load_stu(project / "models" / "stu", log, attributes, others.table)


def test_whoever_joined_after_training_can_be_found(project: Path) -> None:
    from befriend.data.split import read_split
    from befriend.evaluation.protocol import make_eval_queries, make_requests
    from befriend.features.feature_view import FeatureView
    from befriend.retrieval.recommender import Recommender
    from befriend.retrieval.stu_retriever import StuRetriever

    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    tokens = tokens_folder.load_tokenizer(project / "models" / "tokens", log, TextVectors.none(log.num_users))
    trained = load_stu(project / "models" / "stu", log, attributes, tokens.table)
    stus = tokens.with_newcomers(log).table.stus
    assert len(stus) == log.num_users > len(tokens.table)
    observed = FeatureView.of(log)
    queries = make_eval_queries(log, read_split(project / "prepared", log), "test", 50, "streaming")
    found = {}
    for width in (None, 200):
        recommender = Recommender([StuRetriever(trained.model, stus, observed, trained.tower, width)])
        asked = make_requests(log, observed.activity.histories, {"streaming": queries})
        found[width] = np.concatenate([recommender.rank(request, ("stu",)).top("stu").ids for request, _, _ in asked])
    assert np.array_equal(np.sort(found[None]), np.sort(found[200]))
    assert (found[None] == found[200]).mean() > 0.99  # but for what is as good to the last digit
    assert (found[None] >= len(tokens.table)).any()


def test_who_is_not_there_yet_is_asked_for_as_a_stranger(project: Path) -> None:
    """An STU is made of the first event: a list that is made before must not know it."""
    from befriend.data.regimes import HIDDEN
    from befriend.features.feature_view import FeatureView
    from befriend.retrieval.stu_retriever import StuRetriever
    from tests.retrieval.asking import request

    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    tokens = tokens_folder.load_tokenizer(project / "models" / "tokens", log, TextVectors.none(log.num_users))
    trained = load_stu(project / "models" / "stu", log, attributes, tokens.table)
    retriever = StuRetriever(trained.model, tokens.with_newcomers(log).table.stus, FeatureView.of(log), trained.tower)
    newcomers = np.arange(len(tokens.table), log.num_users)
    snapshot = int(log.first_seen[newcomers].min())
    num_visible = int(log.count_before(snapshot))
    assert len(newcomers) > 3

    def asked(users: np.ndarray) -> np.ndarray:
        return retriever.queries(request(users, num_visible, snapshot, HIDDEN, 2)).static.numpy()

    assert np.array_equal(asked(newcomers), asked(np.full(len(newcomers), log.num_users)))
