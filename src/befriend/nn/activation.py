"""The activations by name. Without PyTorch, since settings are read before it is loaded."""

from __future__ import annotations

from typing import Literal

ActivationName = Literal["gelu", "swiglu"]
