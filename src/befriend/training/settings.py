"""How a model is trained: the settings every training stage shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.settings import Settings, Share


class TrainingSettings(Settings):
    """The training loop. Equal inputs, settings and machine give equal bytes."""

    epochs: Annotated[int, Field(ge=1)] = 20
    """passes over the training examples, at most"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    """AdamW's learning rate at its peak"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay of matrices and embeddings; biases, norms and scalars never decay"""
    warmup: Share = 0.05
    """share of all steps over which the learning rate rises in a straight line to its peak"""
    final_learning_rate: Share = 0.1
    """share of the peak that is left at the end of the cosine decay"""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """largest norm of a step's gradient, longer ones are scaled down to it; null leaves them"""
    patience: Annotated[int, Field(ge=1)] | None = 3
    """epochs without a gain on the validation metric before training stops; null never stops early"""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """steps between checkpoints, beside the one after each epoch; changes nothing in the outcome"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice of the training"""
    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads of each process; equal inputs give equal bytes only for equal threads"""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """bf16 computes the loss in bfloat16 where that is safe; auto does so on a CUDA device that has it, else not"""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes an accelerator where there is one"""
