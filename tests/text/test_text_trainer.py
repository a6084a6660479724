"""Training on a few users with a tiny encoder: negatives, resuming, and towers that can be deployed alone."""

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
from befriend.text.saved_towers import load_tower
from befriend.text.text_trainer import CACHE
from befriend.training.loop import CHECKPOINT_FILE

pytestmark = pytest.mark.system  # importing the encoders of texts takes seconds

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


def simulated_users(n: int, seed: int = 0) -> list[UserData]:
    rng = np.random.default_rng(seed)
    users = []
    for k in range(n):
        topic = list(TOPICS)[k % 3]
        words = TOPICS[topic].split()
        chunks = [UserChunk(" ".join(rng.choice(words, 3)), "web", datetime(2024, 1, 1 + j)) for j in range(4)]
        users.append(UserData(f"u{k}", chunks, [f"interested in {topic}", f"Likes {topic} "]))
    return users


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def trainer(folder: Path, cache: Path, **changes: object) -> UniversalUserEmbeddingTrainer:
    config = CONFIG.model_validate(CONFIG.model_dump() | changes)
    return UniversalUserEmbeddingTrainer(
        config, simulated_users(12), simulated_users(6, 1), output=folder / "towers", cache=cache
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    trainer(folder, cache).train()
    return folder / "towers"


def test_a_trained_user_is_nearest_to_its_own_statements(trained: Path, cache: Path) -> None:
    towers = UniversalUserEmbeddingEvaluator(trained, cache)
    users = simulated_users(6, 2)
    metrics = towers.evaluate_retrieval(users, [f"interested in {topic}" for topic in TOPICS])
    assert metrics["mrr"] == 1
    # Chunks are in the order of time, so the last two of four are the newer half.
    older, newer = (
        torch.stack([towers.get_user_embedding(user.chunks[half]) for user in users])
        for half in (slice(2), slice(2, 4))
    )
    scores = (older @ newer.T).numpy()
    ranks = [1 + int((scores[k] > scores[k, k]).sum()) for k in range(6)]
    expected = {
        "mrr": np.mean([1 / rank for rank in ranks]),
        "recall@1": np.mean([rank == 1 for rank in ranks]),
        "recall@10": 1,
    }
    assert towers.evaluate_authors(users) == pytest.approx(expected)


def test_a_duplicate_statement_is_never_a_negative(tmp_path: Path, cache: Path) -> None:
    t = trainer(tmp_path, cache)
    assert len(t.pool) == 6  # three topics with two statements each, whatever the number of users
    with_duplicate = UniversalUserEmbeddingTrainer(
        CONFIG, [UserData("a", [UserChunk("x y")], ["Likes tea", "likes  TEA"])], output=tmp_path / "t", cache=cache
    )
    assert len(with_duplicate.pool) == 1
    batches = t.objective.batches(0)
    for batch in (batches[k] for k in range(len(batches))):
        rows, columns = len(batch.labelled_rows), batch.is_positive.shape[1]
        texts = batch.statements.text.tolist()
        for row in range(rows):
            equal = [column for column in range(columns) if texts[column] == texts[row]]
            assert all(bool(batch.is_positive[row, column]) for column in equal)


def test_a_training_that_was_stopped_ends_in_the_same_weights(tmp_path: Path, cache: Path) -> None:
    whole = trainer(tmp_path / "whole", cache)
    whole.train()

    class Stopped(Exception):
        pass

    stopped = trainer(tmp_path / "stopped", cache)
    validate, calls = stopped.objective.validate, []

    def validate_or_stop() -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        return validate()

    stopped.objective.validate = validate_or_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        stopped.train()
    assert list(stopped.checkpoints.rglob(CHECKPOINT_FILE))
    trainer(tmp_path / "stopped", cache).train()
    for tower in ("user_tower", "item_tower"):
        whole_weights, resumed_weights = (
            (tmp_path / name / "towers" / tower / "weights.safetensors").read_bytes() for name in ("whole", "stopped")
        )
        assert whole_weights == resumed_weights


def test_either_tower_can_be_deployed_alone(trained: Path, cache: Path, tmp_path: Path) -> None:
    whole = UniversalUserEmbeddingEvaluator(trained, cache)
    for tower, missing_tower in (("user_tower", "item_tower"), ("item_tower", "user_tower")):
        shutil.copytree(trained / tower, tmp_path / tower / tower)
        alone = UniversalUserEmbeddingEvaluator(tmp_path / tower, cache)
        if tower == "user_tower":
            assert torch.equal(alone.get_user_embedding(["steep the pot"]), whole.get_user_embedding(["steep the pot"]))
        else:
            assert torch.equal(alone.get_statement_embedding("likes tea"), whole.get_statement_embedding("likes tea"))
        with pytest.raises(DataError, match=rf"{missing_tower} holds no text tower\. Train one"):
            alone.compute_similarity(["steep the pot"], "likes tea")


@pytest.mark.parametrize("tuned", [1, "all"])
def test_a_tuned_encoder_is_saved_with_its_tower(tuned: int | str, cache: Path, tmp_path: Path) -> None:
    t = trainer(tmp_path, cache, tuned_layers=tuned, num_epochs=1, learning_rate=1e-3)
    before = {name: p.clone() for name, p in t.model.user.named_parameters()}
    t.train()
    moved = {name for name, p in t.model.user.named_parameters() if not torch.equal(p, before[name])}
    assert any(".layer.1." in name for name in moved)
    assert any(".layer.0." in name for name in moved) == (tuned == "all")
    saved, _, _ = load_tower(tmp_path / "towers", "user_tower", cache)
    weights = t.model.user.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in saved.state_dict().items())
    assert moved <= saved.state_dict().keys()
    vector = UniversalUserEmbeddingEvaluator(tmp_path / "towers", cache).get_user_embedding(["rook and pawn"])
    assert float(vector.norm()) == pytest.approx(1, abs=1e-5)


def test_users_without_statements_are_trained_on_halves_of_their_texts(tmp_path: Path, cache: Path) -> None:
    without_statements = [UserData(user.user_id, user.chunks) for user in simulated_users(8)]
    t = UniversalUserEmbeddingTrainer(
        CONFIG, without_statements, without_statements, output=tmp_path / "t", cache=cache
    )
    before = {name: value.clone() for name, value in t.model.user.named_parameters()}
    fitted = t.train()
    assert fitted is not None
    for epoch in fitted.history:
        assert epoch["train/statements"] == 0 and epoch["train/authors"] == pytest.approx(epoch["train/loss"])
        assert epoch["validation/mrr"] == epoch["validation/authors"] and "validation/statements" not in epoch
    assert any(not torch.equal(value, before[name]) for name, value in t.model.user.named_parameters())


def test_without_pairs_the_towers_keep_their_initial_weights(tmp_path: Path, cache: Path) -> None:
    t = UniversalUserEmbeddingTrainer(CONFIG, [UserData("a", [UserChunk("x y")])], output=tmp_path / "t", cache=cache)
    initial = [
        {name: value.clone() for name, value in tower.state_dict().items()} for tower in (t.model.user, t.model.item)
    ]
    assert t.train() is None
    for name, weights in zip(("user_tower", "item_tower"), initial, strict=True):
        saved, _, _ = load_tower(tmp_path / "t", name, cache)
        assert saved.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[key]) for key, value in saved.state_dict().items())
    assert UniversalUserEmbeddingEvaluator(tmp_path / "t", cache).get_user_embedding(["x"]).shape == (16,)


def test_heads_must_divide_the_width(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(SettingsError, match="attention_heads is 7, which does not divide 32"):
        trainer(tmp_path, cache, attention_heads=7)


def test_a_missing_encoder_is_an_error_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for a network
    with pytest.raises(DataError, match="the encoder nobody/nothing cannot be loaded"):
        trainer(tmp_path, tmp_path, user_model_name="nobody/nothing")


def test_learning_rates_depend_on_tower_and_layer(tmp_path: Path, cache: Path) -> None:
    objective = trainer(tmp_path, cache, item_rate=0.5, head_rate=10.0).objective
    rates = [
        objective.lr_multiplier(name) for name in ("user.encoder.x", "user.head.up", "item.encoder.x", "item.head.up")
    ]
    assert rates == [1.0, 10.0, 0.5, 5.0]


def test_the_usage_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        train_data=[user_data, *simulated_users(4)],
        eval_data=simulated_users(3, 5),
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
def test_bfloat16_gives_about_the_same_loss(tuned: int, cache: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("no", "bf16"):
        options = {"tuned_layers": tuned, "num_epochs": 1, "mixed_precision": precision}
        fitted = trainer(tmp_path / precision, cache, **options).train()
        assert fitted is not None
        losses.append(fitted.history[0]["train/loss"])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_statement_of_validation_users_only_is_no_negative(tmp_path: Path, cache: Path) -> None:
    validation_users = [UserData("v", [UserChunk("clouds at dawn"), UserChunk("rain")], ["interested in weather"])]
    objective = UniversalUserEmbeddingTrainer(
        CONFIG, simulated_users(6), validation_users, output=tmp_path / "t", cache=cache
    ).objective
    side, rows = objective.corpus.statement_side, [row for row, _, _ in objective.pool]
    assert side.texts[rows[-1]] == "interested in weather" and len(rows) == objective.num_training_statements + 1
    assert side.encoder_vectors is not None
    batches = objective.batches(0)
    vectors = torch.cat([batches[k].statement_passages.encoder_vectors for k in range(len(batches))])  # type: ignore[misc]
    in_batches = [bool((vectors == torch.from_numpy(side.encoder_vectors[row])).all(1).any()) for row in rows]
    assert in_batches == [True] * objective.num_training_statements + [False]


def test_statement_and_context_have_their_own_lengths(tmp_path: Path, cache: Path) -> None:
    t = trainer(tmp_path, cache, max_context_length=4, max_statement_length=8)
    long = " ".join(["tea"] * 20)
    text, context, _ = t.corpus.statement(Statement(long, long))
    texts = t.corpus.statement_side.texts
    assert (len(texts[text].split()), len(texts[context].split())) == (8, 4)
