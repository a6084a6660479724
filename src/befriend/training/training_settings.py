"""Settings of the training loop, which every training stage shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from befriend.settings import Settings, Share


class TrainingSettings(Settings):
    """The training loop. The same inputs, settings and machine give the same bytes."""

    epochs: Annotated[int, Field(ge=1)] = 20
    """passes over the training examples, at most"""
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    """AdamW's learning rate at its peak"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay of matrices and embeddings; biases, norms and scalars never decay"""
    warmup: Share = 0.05
    """share of all steps over which the learning rate rises linearly to its peak"""
    final_learning_rate: Share = 0.1
    """share of the peak learning rate at the end of the cosine decay"""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """largest norm of the gradient of a step; longer gradients are scaled down to it; null: no limit"""
    patience: Annotated[int, Field(ge=1)] | None = 3
    """epochs without a gain in the validation metric before training stops; null: never stop early"""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """steps between two checkpoints, in addition to the one after each epoch; does not change the result"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of every random choice in training"""
    threads: Annotated[int, Field(ge=1)] = 2
    """number of CPU threads of each process; results are the same to the byte only with the same number"""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """bf16: compute the loss in bfloat16 where that is safe; auto: bf16 on a CUDA device that supports it, else no"""
    device: Literal["auto", "cpu"] = "auto"
    """auto: an accelerator if there is one; cpu: always the CPU"""
