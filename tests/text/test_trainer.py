"""Training on a few users with a tiny encoder: what is a negative, resuming, and folders that stand alone."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from befriend.errors import DataError, SettingsError
from befriend.text import (
    ModelConfig,
    Statement,
    UniversalUserEmbeddingEvaluator,
    UniversalUserEmbeddingTrainer,
    UserChunk,
    UserData,
)
from befriend.text.trainer import CACHE
from befriend.training.loop import CHECKPOINT_FILE

CONFIG = ModelConfig(
    user_model_name="random",
    item_model_name="random",
    embedding_dim=16,
    lexical_dim=32,
    batch_size=4,
    num_epochs=3,
    head_rate=500.0,
    num_negative_samples=3,
    threads=1,
)
TOPICS = {"tea": "kettle leaves steep pot", "chess": "rook pawn castle endgame", "bikes": "gear chain wheel ride"}


def people(n: int, seed: int = 0) -> list[UserData]:
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        topic = list(TOPICS)[k % 3]
        words = TOPICS[topic].split()
        chunks = [UserChunk(" ".join(rng.choice(words, 3)), "web", datetime(2024, 1, 1 + j)) for j in range(4)]
        found.append(UserData(f"u{k}", chunks, [f"interested in {topic}", f"Likes {topic} "]))
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def trainer(folder: Path, cache: Path, **changes: object) -> UniversalUserEmbeddingTrainer:
    config = CONFIG.model_validate(CONFIG.model_dump() | changes)
    return UniversalUserEmbeddingTrainer(config, people(12), people(6, 1), output=folder / "towers", cache=cache)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    trainer(folder, cache).train()
    return folder / "towers"


def test_a_user_is_nearer_to_what_is_true_of_them(trained: Path, cache: Path) -> None:
    towers = UniversalUserEmbeddingEvaluator(trained, cache)
    found = towers.evaluate_retrieval(people(6, 2), [f"interested in {topic}" for topic in TOPICS])
    assert found["mrr"] == 1
    assert towers.evaluate_authors(people(6, 2)).keys() == {"mrr", "recall@1", "recall@10"}


def test_a_duplicate_statement_is_never_a_negative(tmp_path: Path, cache: Path) -> None:
    t = trainer(tmp_path, cache)
    assert len(t.pool) == 6  # three topics, two statements each: whoever says them
    again = UniversalUserEmbeddingTrainer(
        CONFIG, [UserData("a", [UserChunk("x y")], ["Likes tea", "likes  TEA"])], output=tmp_path / "t", cache=cache
    )
    assert len(again.pool) == 1
    batches = t.trainee.batches(0)
    for batch in (batches[k] for k in range(len(batches))):
        asked, columns = len(batch.asks), batch.true.shape[1]
        texts = batch.statements.text.tolist()
        for row in range(asked):
            same = [column for column in range(columns) if texts[column] == texts[row]]
            assert all(bool(batch.true[row, column]) for column in same)


def test_a_training_that_was_stopped_ends_in_the_same_weights(tmp_path: Path, cache: Path) -> None:
    whole = trainer(tmp_path / "whole", cache)
    whole.train()

    class Stopped(Exception):
        pass

    stopped = trainer(tmp_path / "stopped", cache)
    validate, calls = stopped.trainee.validate, []

    def once() -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        return validate()

    stopped.trainee.validate = once  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        stopped.train()
    assert list(stopped.checkpoints.rglob(CHECKPOINT_FILE))
    trainer(tmp_path / "stopped", cache).train()
    for tower in ("user_tower", "item_tower"):
        one, other = (
            (tmp_path / name / "towers" / tower / "weights.safetensors").read_bytes() for name in ("whole", "stopped")
        )
        assert one == other


def test_either_tower_can_be_deployed_alone(trained: Path, cache: Path, tmp_path: Path) -> None:
    whole = UniversalUserEmbeddingEvaluator(trained, cache)
    for kept, other in (("user_tower", "item_tower"), ("item_tower", "user_tower")):
        shutil.copytree(trained / kept, tmp_path / kept / kept)
        alone = UniversalUserEmbeddingEvaluator(tmp_path / kept, cache)
        if kept == "user_tower":
            assert torch.equal(alone.get_user_embedding(["steep the pot"]), whole.get_user_embedding(["steep the pot"]))
        else:
            assert torch.equal(alone.get_statement_embedding("likes tea"), whole.get_statement_embedding("likes tea"))
        with pytest.raises(DataError, match=f"there is no {other.replace('_', ' ')}"):
            alone.compute_similarity(["steep the pot"], "likes tea")


@pytest.mark.parametrize("tuned", [1, "all"])
def test_an_encoder_can_be_tuned_and_is_kept_with_its_tower(tuned: int | str, cache: Path, tmp_path: Path) -> None:
    t = trainer(tmp_path, cache, tuned_layers=tuned, num_epochs=1, learning_rate=1e-3)
    before = {name: p.clone() for name, p in t.model.user.named_parameters()}
    t.train()
    moved = {name for name, p in t.model.user.named_parameters() if not torch.equal(p, before[name])}
    assert any(".layer.1." in name for name in moved)
    assert any(".layer.0." in name for name in moved) == (tuned == "all")
    found = UniversalUserEmbeddingEvaluator(tmp_path / "towers", cache).get_user_embedding(["rook and pawn"])
    assert float(found.norm()) == pytest.approx(1, abs=1e-5)


def test_texts_alone_teach_something_too(tmp_path: Path, cache: Path) -> None:
    silent = [UserData(user.user_id, user.chunks) for user in people(8)]
    t = UniversalUserEmbeddingTrainer(CONFIG, silent, silent, output=tmp_path / "t", cache=cache)
    fitted = t.train()
    assert fitted is not None and {"validation/authors", "validation/mrr"} <= fitted.history[0].keys()


def test_nothing_to_learn_from_leaves_the_towers_as_they_began(tmp_path: Path, cache: Path) -> None:
    t = UniversalUserEmbeddingTrainer(CONFIG, [UserData("a", [UserChunk("x y")])], output=tmp_path / "t", cache=cache)
    assert t.train() is None
    assert UniversalUserEmbeddingEvaluator(tmp_path / "t", cache).get_user_embedding(["x"]).shape == (16,)


def test_heads_must_divide_the_width(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(SettingsError, match="attention_heads is 7, which does not divide 32"):
        trainer(tmp_path, cache, attention_heads=7)


def test_an_encoder_that_is_not_there_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for a network
    with pytest.raises(DataError, match="the encoder nobody/nothing cannot be loaded"):
        trainer(tmp_path, tmp_path, user_model_name="nobody/nothing")


def test_towers_learn_at_their_own_rates(tmp_path: Path, cache: Path) -> None:
    t = trainer(tmp_path, cache, item_rate=0.5, head_rate=10.0).trainee
    rates = [t.scale(name) for name in ("user.encoder.x", "user.head.up", "item.encoder.x", "item.head.up")]
    assert [t.scale("user.head.up"), t.scale("item.head.up")] == [10.0, 5.0] and len(rates) == 4


def test_the_usage_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(
        user_model_name="random",
        item_model_name="random",
        embedding_dim=1024,
        batch_size=32,
        learning_rate=2e-5,
        temperature=0.1,
        num_epochs=2,
        use_user_metadata=True,
        use_item_metadata=True,
    )
    user_data = UserData(
        user_id="user_001",
        chunks=[
            UserChunk(text="Talking about machine learning again.", platform="reddit", timestamp=datetime.now()),
            UserChunk(text="A project with user embeddings.", platform="whatsapp", timestamp=datetime.now()),
        ],
        statements=["interested in machine learning", Statement("works on projects", context="at night")],
    )
    trainer = UniversalUserEmbeddingTrainer(
        config=config,
        train_data=[user_data, *people(4)],
        eval_data=people(3, 5),
        statement_pool=["enjoys reading", "interested in tea"],
        use_mixed_precision=True,
    )
    trainer.train()
    evaluator = UniversalUserEmbeddingEvaluator("text_model")
    user_chunks = ["I love programming", "Working on AI projects"]
    user_embedding = evaluator.get_user_embedding(user_chunks)
    statement_embedding = evaluator.get_statement_embedding("interested in technology")
    similarity = evaluator.compute_similarity(user_chunks, "interested in technology")
    assert similarity == pytest.approx(float(user_embedding @ statement_embedding), abs=1e-6)
    assert user_embedding.shape == (1024,) and CACHE.is_dir()
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("tuned", [0, 1])
def test_half_precision_learns_about_the_same(tuned: int, cache: Path, tmp_path: Path) -> None:
    losses = []
    for kind in ("no", "bf16"):
        fitted = trainer(tmp_path / kind, cache, tuned_layers=tuned, num_epochs=1, mixed_precision=kind).train()
        assert fitted is not None
        losses.append(fitted.history[0]["train/loss"])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


def test_what_is_said_of_others_alone_is_no_negative(tmp_path: Path, cache: Path) -> None:
    held = [UserData("v", [UserChunk("clouds at dawn"), UserChunk("rain")], ["interested in weather"])]
    t = UniversalUserEmbeddingTrainer(CONFIG, people(6), held, output=tmp_path / "t", cache=cache).trainee
    weather = next(k for k, one in enumerate(t.pool) if t.corpus.item_side.texts[one[0]] == "interested in weather")
    assert weather == t.learnable == len(t.pool) - 1
    batches = t.batches(0)
    rows = [set(b.statements.text.tolist()) for b in (batches[k] for k in range(len(batches)))]
    assert all(len(row) <= t.learnable for row in rows)


def test_a_context_has_a_length_of_its_own(tmp_path: Path, cache: Path) -> None:
    t = trainer(tmp_path, cache, max_context_length=4, max_statement_length=8)
    long = " ".join(["tea"] * 20)
    text, context, _ = t.corpus.statement(Statement(long, long))
    texts = t.corpus.item_side.texts
    assert (len(texts[text].split()), len(texts[context].split())) == (8, 4)
