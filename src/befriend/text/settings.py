"""Settings of the two text towers, and of the stage that trains them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from befriend.settings import Settings, Share
from befriend.training.settings import TrainingSettings

Count = Annotated[int, Field(ge=0)]
Length = Annotated[int, Field(ge=4)]
NegativesName = Literal["random", "hard", "semi-hard"]


class ModelConfig(Settings):
    """Two text towers and their training."""

    user_model_name: str = "Qwen/Qwen3-Embedding-0.6B"
    """encoder of users' texts: a name on the Hugging Face hub, a folder, or minilm (comes with befriend)"""
    item_model_name: str = "Qwen/Qwen3-Embedding-0.6B"
    """encoder of statements, likewise"""
    embedding_dim: Annotated[int, Field(ge=2)] = 1024
    """width of the space that users and statements share; columns beyond what is read stay 0"""
    lexical_dim: Count = 0
    """width of hashed, weighted words (TF-IDF) beside the encoder, for rare words that it never learned; 0: none"""

    max_chunk_length: Length = 250
    """tokens of a chunk: posts are packed together up to it, longer ones are cut"""
    max_statement_length: Length = 128
    """tokens of a statement; more are cut off"""
    max_context_length: Length = 64
    """tokens of a statement's context; more are cut off"""
    num_chunks_per_user: Annotated[int, Field(ge=1)] = 100
    """newest chunks of a user that are read"""

    use_attention_pooling: bool = True
    """weigh a user's chunks by attention; off: their mean"""
    attention_heads: Annotated[int, Field(ge=1)] = 8
    """heads of it; must divide the width of the encoder"""
    rank: Annotated[int, Field(ge=1)] = 64
    """rank of what each tower learns on top of the principal axes that it begins with"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """share of hidden units left out in training"""
    use_user_metadata: bool = False
    """numbers about a user (how many texts, how long, where, and UserData.metadata) are part of the user"""
    use_item_metadata: bool = False
    """numbers about a statement (its length, how common it is, and Statement.metadata) are part of it"""
    metadata_dim: Annotated[int, Field(ge=1)] = 64
    """hidden width of what is made of a user's numbers"""
    item_metadata_dim: Annotated[int, Field(ge=1)] = 64
    """hidden width of what is made of a statement's numbers"""

    batch_size: Annotated[int, Field(ge=2)] = 32
    """pairs of a user and a statement in one step, each other's negatives"""
    negatives: NegativesName = "hard"
    """further statements a pair stands against: random ones, the nearest (hard), or the nearest that are farther than
    the true one (semi-hard)"""
    num_negative_samples: Count = 15
    """how many of them"""
    author_weight: Annotated[float, Field(ge=0)] = 1.0
    """weight of finding one half of a user's chunks by the other half, beside finding the statement"""
    temperature: Annotated[float, Field(gt=0.01, lt=1)] = 0.1
    """of the softmax, to begin with; learned between 0.01 and 1"""
    tuned_layers: Count | Literal["all"] = 0
    """last layers of both encoders that are trained too; 0: frozen, and their vectors are kept in a cache"""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """AdamW's learning rate at its peak, of the user tower's encoder"""
    head_rate: Annotated[float, Field(gt=0)] = 10.0
    """what lies on top of an encoder learns so many times as fast"""
    item_rate: Annotated[float, Field(gt=0)] = 1.0
    """the item tower learns so many times as fast as the user tower"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay of matrices"""
    num_epochs: Annotated[int, Field(ge=1)] = 10
    """passes over the pairs, at most"""
    patience: Annotated[int, Field(ge=1)] | None = 3
    """epochs without a gain on validation before training stops; null never stops early"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice"""
    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads; equal inputs give equal bytes only for equal threads"""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """bf16 computes in bfloat16 where that is safe; auto does so on a CUDA device that has it"""

    def training(self) -> TrainingSettings:
        """What the training loop needs to know."""
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
    """Stage embed_text: a vector for every user at every moment, of what they wrote until then."""

    user_model_name: str = "minilm"
    """encoder of users' texts: a name on the Hugging Face hub, a folder, or minilm (comes with befriend)"""
    item_model_name: str = "minilm"
    """encoder of statements, likewise"""
    embedding_dim: Annotated[int, Field(ge=2)] = 64
    """width of the space that users and statements share"""
    lexical_dim: Count = 512
    """width of hashed, weighted words (TF-IDF) beside the encoder, for rare words that it never learned; 0: none"""
    head_rate: Annotated[float, Field(gt=0)] = 50.0
    """what lies on top of an encoder learns so many times as fast"""
    validation_share: Annotated[Share, Field(gt=0, lt=1)] = 0.1
    """share of the users by whom the best epoch is chosen"""

    def model_config_of(self) -> ModelConfig:
        """The part that the model is made of."""
        chosen: dict[str, Any] = {name: getattr(self, name) for name in ModelConfig.model_fields}
        return ModelConfig(**chosen)
