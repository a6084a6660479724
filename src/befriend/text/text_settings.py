"""Settings of the two text towers, and of the stage that trains them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from befriend.settings import Settings, Share
from befriend.training.training_settings import TrainingSettings

Count = Annotated[int, Field(ge=0)]
Length = Annotated[int, Field(ge=4)]
NegativesName = Literal["random", "hard", "semi-hard"]


class ModelConfig(Settings):
    """The two text towers and their training."""

    user_model_name: str = "Qwen/Qwen3-Embedding-0.6B"
    """encoder of users' texts: a name on the Hugging Face hub, a folder, or minilm (comes with befriend)"""
    item_model_name: str = "Qwen/Qwen3-Embedding-0.6B"
    """encoder of statements, likewise"""
    embedding_dim: Annotated[int, Field(ge=2)] = 1024
    """width of the space that users and statements share; columns beyond the width of the input are 0"""
    lexical_dim: Count = 0
    """width of the hashed TF-IDF vector that complements the encoder, for rare words it does not know; 0: none"""

    max_chunk_length: Length = 250
    """maximum number of tokens of a chunk: short posts are packed together, longer posts are cut"""
    max_statement_length: Length = 128
    """maximum number of tokens of a statement; longer statements are truncated"""
    max_context_length: Length = 64
    """maximum number of tokens of a statement's context; longer contexts are truncated"""
    num_chunks_per_user: Annotated[int, Field(ge=1)] = 100
    """maximum number of chunks of a user; older chunks are left out"""

    use_attention_pooling: bool = True
    """pool a user's chunks by attention; off: by their mean"""
    attention_heads: Annotated[int, Field(ge=1)] = 8
    """heads of that attention; must divide the width of the encoder"""
    rank: Annotated[int, Field(ge=1)] = 64
    """rank of the update that each tower learns on top of its initial principal axes"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """share of hidden units left out in training"""
    use_user_metadata: bool = False
    """give the user tower numeric features of a user: number of chunks, words, days and platforms, UserData.metadata"""
    use_item_metadata: bool = False
    """give the statement tower numeric features of a statement: length, number of users, Statement.metadata"""
    metadata_dim: Annotated[int, Field(ge=1)] = 64
    """hidden width of the MLP on a user's numeric features"""
    item_metadata_dim: Annotated[int, Field(ge=1)] = 64
    """hidden width of the MLP on a statement's numeric features"""

    batch_size: Annotated[int, Field(ge=2)] = 32
    """pairs of a user and a statement in a batch; the other pairs are the negatives of a pair"""
    negatives: NegativesName = "hard"
    """choice of the extra negative statements of a pair: random, the most similar to the user (hard), or the most
    similar among those that are less similar than the true statement (semi-hard)"""
    num_negative_samples: Count = 15
    """number of extra negatives"""
    author_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of the loss for matching two halves of a user's chunks; the loss for statements has weight 1"""
    temperature: Annotated[float, Field(gt=0.01, lt=1)] = 0.1
    """initial temperature of the softmax; training keeps it between 0.01 and 1"""
    tuned_layers: Count | Literal["all"] = 0
    """number of last layers of both encoders that are trained; 0: encoders are frozen, and their vectors are cached"""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """peak learning rate of AdamW, for the encoder of the user tower"""
    head_rate: Annotated[float, Field(gt=0)] = 10.0
    """learning rate of everything on top of an encoder, as a multiple of the encoder's"""
    item_rate: Annotated[float, Field(gt=0)] = 1.0
    """learning rate of the statement tower, as a multiple of the user tower's"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """weight decay of AdamW, for matrices only"""
    num_epochs: Annotated[int, Field(ge=1)] = 10
    """maximum number of passes over the pairs"""
    patience: Annotated[int, Field(ge=1)] | None = 3
    """epochs without a gain on validation before training stops; null never stops early"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice"""
    threads: Annotated[int, Field(ge=1)] = 2
    """number of CPU threads; equal inputs give equal bytes only with the same number"""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """bf16 computes in bfloat16 where that is safe; auto does so on a CUDA device that supports it"""

    def training(self) -> TrainingSettings:
        """The settings of the training loop."""
        return TrainingSettings(
            epochs=self.num_epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.patience,
            seed=self.seed,
            threads=self.threads,
            mixed_precision=self.mixed_precision,
        )


class EmbedTextSettings(ModelConfig):
    """Stage embed_text: text vectors of users over time."""

    user_model_name: str = "minilm"
    """encoder of users' texts: a name on the Hugging Face hub, a folder, or minilm (comes with befriend)"""
    item_model_name: str = "minilm"
    """encoder of statements, likewise"""
    embedding_dim: Annotated[int, Field(ge=2)] = 64
    """width of the space that users and statements share"""
    lexical_dim: Count = 512
    """width of the hashed TF-IDF vector that complements the encoder, for rare words it does not know; 0: none"""
    head_rate: Annotated[float, Field(gt=0)] = 50.0
    """learning rate of everything on top of an encoder, as a multiple of the encoder's"""
    validation_share: Annotated[Share, Field(gt=0, lt=1)] = 0.1
    """share of users held out for the choice of the best epoch"""

    def model_config_only(self) -> ModelConfig:
        """The settings of the model alone."""
        chosen: dict[str, Any] = {name: getattr(self, name) for name in ModelConfig.model_fields}
        return ModelConfig(**chosen)
