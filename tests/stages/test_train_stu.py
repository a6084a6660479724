"""Stage train_stu: equal bytes after an interruption, the STUs that a model accepts, and users who join later."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

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
from tests.conftest import file_digests
from tests.projects import SMALL


@pytest.fixture(scope="module")
def project(trained_project: Path) -> Path:
    for folder in ("models/stu", "reports/training"):
        shutil.rmtree(trained_project / folder)
    train_again(trained_project, trained_project)
    return trained_project


def digests(root: Path) -> dict[str, str]:
    return file_digests(root, "models/stu", "reports/training")


def train_again(project: Path, root: Path) -> None:
    if not (root / "prepared").exists():
        shutil.copytree(project / "prepared", root / "prepared")
        for part in ("text", "tokens"):
            shutil.copytree(project / "models" / part, root / "models" / part)
    settings = StuSettings(**SMALL | {"epochs": 2})
    train_stu.run(settings, root / "prepared", root / "models", root / "reports", root / ".checkpoints")


@pytest.mark.system
def test_an_interrupted_and_resumed_training_gives_the_same_bytes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, calls = loop._Run.validate, []

    def interrupted_validate(self: loop._Run) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        validate(self)

    monkeypatch.setattr(loop._Run, "validate", interrupted_validate)
    with pytest.raises(KeyboardInterrupt):
        train_again(project, tmp_path)
    monkeypatch.undo()
    train_again(project, tmp_path)
    assert digests(tmp_path) == digests(project)


def test_training_in_bfloat16_gives_other_weights(project: Path, tmp_path: Path) -> None:
    for part in ("prepared", "models/text", "models/tokens"):
        shutil.copytree(project / part, tmp_path / part)
    settings = StuSettings(**SMALL | {"mixed_precision": "bf16"})
    folders = tmp_path / "prepared", tmp_path / "models", tmp_path / "reports", tmp_path / ".checkpoints"
    assert 0 < train_stu.run(settings, *folders).best_value < 1
    assert digests(tmp_path) != digests(project)


def test_a_model_is_loaded_with_the_stus_of_its_training_only(project: Path, tmp_path: Path) -> None:
    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    tokens = tokens_folder.load_tokenizer(project / "models" / "tokens", log, TextVectors.none(log.num_users))
    trained = load_stu(project / "models" / "stu", log, attributes, tokens.table)
    assert trained.stu_digest == tokens.table.digest()
    assert np.array_equal(trained.model.tokens.stus.numpy(), tokens.table.stus.numpy())
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    shutil.copytree(project / "models" / "text", tmp_path / "models" / "text")
    settings = TokenizeSettings(dimensions=8, threads=1, seed=5)
    tokenize.run(settings, tmp_path / "prepared", tmp_path / "models", tmp_path / "reports", tmp_path / ".checkpoints")
    other_tokens = tokens_folder.load_tokenizer(tmp_path / "models" / "tokens", log, TextVectors.none(log.num_users))
    with pytest.raises(DataError, match="trained with other STUs"):
        load_stu(project / "models" / "stu", log, attributes, other_tokens.table)


def test_users_who_joined_after_training_are_recommended(project: Path) -> None:
    from befriend.data.split import read_split
    from befriend.evaluation.protocol import make_eval_queries, make_requests
    from befriend.features.feature_view import FeatureView
    from befriend.retrieval.recommender import Recommender
    from befriend.retrieval.stu_retriever import StuRetriever

    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    tokens = tokens_folder.load_tokenizer(project / "models" / "tokens", log, TextVectors.none(log.num_users))
    trained = load_stu(project / "models" / "stu", log, attributes, tokens.table)
    stus = tokens.add_newcomers(log).table.stus
    assert len(stus) == log.num_users > len(tokens.table)
    observed = FeatureView.of(log)
    queries = make_eval_queries(log, read_split(project / "prepared", log), "test", 50, "streaming")
    lists = {}
    for width in (None, 200):
        recommender = Recommender([StuRetriever(trained.model, stus, observed, trained.settings, width)])
        requests = make_requests(log, observed.activity.histories, {"streaming": queries})
        lists[width] = np.concatenate(
            [recommender.rank(request, ("stu",)).top("stu").ids for request, _, _ in requests]
        )
    assert np.array_equal(np.sort(lists[None]), np.sort(lists[200]))
    assert (lists[None] == lists[200]).mean() > 0.99  # except for users with equal scores
    assert (lists[None] >= len(tokens.table)).any()


def test_a_user_before_the_first_event_has_the_query_of_an_unknown_user(project: Path) -> None:
    """An STU is computed from a user's first event, so a list that is made earlier must not use it."""
    from befriend.data.regimes import UNKNOWN_ACTION
    from befriend.features.feature_view import FeatureView
    from befriend.retrieval.stu_retriever import StuRetriever
    from tests.retrieval.request_helpers import make_request

    log, attributes = EventLog.read(project / "prepared"), Attributes.read(project / "prepared")
    tokens = tokens_folder.load_tokenizer(project / "models" / "tokens", log, TextVectors.none(log.num_users))
    trained = load_stu(project / "models" / "stu", log, attributes, tokens.table)
    retriever = StuRetriever(trained.model, tokens.add_newcomers(log).table.stus, FeatureView.of(log), trained.settings)
    newcomers = np.arange(len(tokens.table), log.num_users)
    snapshot = int(log.first_seen[newcomers].min())
    num_visible = int(log.count_before(snapshot))
    assert len(newcomers) > 3

    def static_queries(users: np.ndarray) -> np.ndarray:
        return retriever.queries(make_request(users, num_visible, snapshot, UNKNOWN_ACTION, 2)).static.numpy()

    unknown = static_queries(
        np.full(len(newcomers), log.num_users)
    )  # one distinct query: other rounding than in a batch
    assert np.allclose(static_queries(newcomers), unknown, rtol=0, atol=1e-12)
