"""Stage embed_text: an empty table without texts; with texts, users without events get lists and are on lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from befriend import api, files
from befriend.data.erasure import erasure_digest
from befriend.data.event_log import EventLog
from befriend.data.split import read_split
from befriend.errors import DataError
from befriend.evaluation.protocol import make_eval_queries, make_requests
from befriend.features.text_vectors import TextVectors
from befriend.readers.data_settings import DataSettings
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.recommender import HasEventsFilter
from befriend.stages import tokenize
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.tokenizer import load_tokenizer
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import embed, prepare, train_everything, validate_log

pytestmark = pytest.mark.system  # needs a run of several stages

WRITER = 10_001  # a user with a profile and no event


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small log whose users write about one of two topics, and all models trained on it."""
    root = tmp_path_factory.mktemp("project")
    prepare(root, users=80, events=1500)
    events = pl.read_parquet(root / "log" / "events.parquet")
    ids, (begin, end) = events["actor_id"].unique().sort(), (events["timestamp"].min(), events["timestamp"].max())
    assert isinstance(begin, int) and isinstance(end, int)
    rng = np.random.default_rng(0)
    texts = [
        {
            "user_id": user,
            "timestamp": int(rng.integers(begin, end)),
            "text": f"I like {('tea kettles', 'rook endgames')[user % 2]} number {rng.integers(9)}",
        }
        for user in [*ids, *ids, WRITER]
    ]
    (root / "whole").mkdir()
    events.write_parquet(root / "whole" / "events.parquet")
    pl.DataFrame(texts).write_parquet(root / "whole" / "texts.parquet")
    statements = pl.DataFrame({"user_id": ids, "statement": [("likes tea", "likes chess")[user % 2] for user in ids]})
    statements.write_parquet(root / "whole" / "statements.parquet")
    data = DataSettings(
        roles={"view": "signal", "block": "exclude"},
        texts={"file": "texts.parquet"},
        statements={"file": "statements.parquet"},
    )
    validate_log(data, ValidateSettings(), root / "whole", root / "prepared", root / "reports")
    shutil.rmtree(root / "models" / "text")
    embed(root)
    train_everything(root)
    return root


def test_without_texts_there_is_an_empty_table(tmp_path: Path) -> None:
    prepare(tmp_path, users=30, events=300)
    texts = TextVectors.read(tmp_path / "models" / "text", EventLog.read(tmp_path / "prepared"))
    assert (texts.width, len(texts.user)) == (0, 0)
    assert files.read_json(tmp_path / "reports" / "text.json") == {"texts": 0, "users": 0}
    settings = TokenizeSettings(dimensions=8, threads=1, source="text")
    folders = tmp_path / "prepared", tmp_path / "models", tmp_path / "reports", tmp_path / ".checkpoints"
    with pytest.raises(DataError, match="source is text, but the log has no texts"):
        tokenize.run(settings, *folders)


def test_running_again_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    embed(tmp_path)
    first, second = (
        {p.relative_to(root): files.sha256(p) for p in (root / "models" / "text").rglob("*") if p.is_file()}
        for root in (project, tmp_path)
    )
    assert first == second and len(first) == 9


def test_texts_after_the_training_part_do_not_change_the_towers(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "prepared", tmp_path / "prepared")
    cutoff = read_split(tmp_path / "prepared", EventLog.read(tmp_path / "prepared")).t_validation
    path = tmp_path / "prepared" / "texts.parquet"
    is_later = pl.col("timestamp") >= cutoff
    table = pl.read_parquet(path)
    table.with_columns(
        pl.when(is_later).then(pl.lit("something else entirely")).otherwise("text").alias("text")
    ).write_parquet(path)
    embed(tmp_path)
    for tower in ("user_tower", "item_tower"):
        name = Path("models") / "text" / "towers" / tower / "weights.safetensors"
        assert files.sha256(project / name) == files.sha256(tmp_path / name)


def test_a_user_with_a_profile_and_no_event_gets_an_stu_and_lists_and_is_recommended(project: Path) -> None:
    recommender = api.load(project)
    assert recommender.log.user_ids[-1] == WRITER
    stus = recommender.models.stus
    assert len(stus) == recommender.log.num_users and len(stus.unique(dim=0)) == len(stus)
    for model in ("two-tower", "stu", "both"):
        own = recommender.recommend([WRITER], k=5, model=model)
        assert own["known"].all() and own.height == 5 and WRITER not in own["recommended"]
        others = recommender.recommend(recommender.log.user_ids[:3], k=recommender.log.num_users - 1, model=model)
        assert others.filter(recommended=WRITER).height == 3
    text_timestamp = pl.read_parquet(project / "whole" / "texts.parquet").filter(user_id=WRITER)["timestamp"][0]
    row = recommender.recommend(recommender.log.user_ids[:1], k=recommender.log.num_users - 1, model="stu").filter(
        recommended=WRITER
    )
    assert row["last_active"].dt.epoch("s").item() == text_timestamp


def test_rules_apply_to_a_user_without_events_by_the_first_text(project: Path) -> None:
    """The age of a user without events counts from the first text."""
    recommender = api.load(project)
    users, num_others = recommender.log.user_ids[:3], recommender.log.num_users - 1
    for constraints in (
        api.ListConstraints(exclude=frozenset({5})),
        api.ListConstraints(diversity=0.001),
        api.ListConstraints(min_age_days=1e-6),
    ):
        lists = recommender.recommend(users, k=num_others, model="stu", constraints=constraints)
        assert lists.filter(recommended=WRITER).height == 3, constraints
    assert (
        WRITER
        not in recommender.recommend(
            users, k=num_others, model="stu", constraints=api.ListConstraints(min_age_days=1e4)
        )["recommended"]
    )


def test_an_erased_user_is_not_recommended_by_texts(project: Path) -> None:
    recommender = api.Befriend(project, frozenset({erasure_digest(str(WRITER))}))
    assert not recommender.recommend([WRITER], k=3)["known"].any()
    lists = recommender.recommend(recommender.log.user_ids[:3], k=recommender.log.num_users - 1, model="stu")
    assert WRITER not in lists["recommended"]


def test_evaluation_leaves_out_users_without_events(project: Path) -> None:
    log = EventLog.read(project / "prepared")
    models = LoadedModels.load(project / "prepared", project / "models", log)
    queries = make_eval_queries(log, read_split(project / "prepared", log), "test", 5, "daily")
    recommender = models.recommender({})
    num_listed = 0
    for request, _, _ in make_requests(log, models.activity.histories, {"daily": queries}):
        ranking = recommender.rank(request, ("two-tower", "stu"))
        for name in ("two-tower", "stu"):
            ranked = ranking.top(name, log.num_users)
            num_listed += (ranked.ids == log.num_users - 1).sum()
            assert log.num_users - 1 not in ranking.top(name, log.num_users, HasEventsFilter(log.first_seen)).ids
    assert num_listed  # serving lists the user without events


def test_the_source_of_user_vectors_changes_the_tokens(project: Path, tmp_path: Path) -> None:
    log = EventLog.read(project / "prepared")
    texts = TextVectors.read(project / "models" / "text", log)
    tokenizers = {}
    for source in ("graph", "text", "both", "auto"):
        root = tmp_path / source
        shutil.copytree(project / "models" / "text", root / "models" / "text")
        settings = TokenizeSettings(dimensions=8, threads=1, source=source)  # type: ignore[arg-type]
        tokenize.run(settings, project / "prepared", root / "models", root / "reports", root / ".checkpoints")
        tokenizers[source] = load_tokenizer(root / "models" / "tokens", log, texts)
    digests = {source: tokens.table.digest() for source, tokens in tokenizers.items()}
    assert digests["auto"] == digests["both"] and len(set(digests.values())) == 3
    nothing = TextVectors.none(log.num_users)
    load_tokenizer(tmp_path / "graph" / "models" / "tokens", log, nothing)
    with pytest.raises(DataError, match="text vectors of width 8, which now have width 0"):
        load_tokenizer(tmp_path / "text" / "models" / "tokens", log, nothing)


def test_models_reject_text_vectors_of_another_width(project: Path, tmp_path: Path) -> None:
    for part in ("prepared", "models"):
        shutil.copytree(project / part, tmp_path / part)
    embed(tmp_path, embedding_dim=6)
    log = EventLog.read(tmp_path / "prepared")
    with pytest.raises(DataError, match="width 8, which now have width 6"):
        LoadedModels.load(tmp_path / "prepared", tmp_path / "models", log)
