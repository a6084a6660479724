"""How long it takes to read posts with a frozen encoder, once and again from the cache.

python bench/embed.py FILE... [--posts 5000] [--threads 2]

FILES have user_id, timestamp, text. What stage `embed_text` has to read is read: the chunks of every moment at which
somebody's vector is made anew.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import torch

from befriend.text.corpus import sides
from befriend.text.data import moments, packed
from befriend.text.moments import posts_of
from befriend.text.settings import EmbedTextSettings, ModelConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--posts", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = EmbedTextSettings().model_config_of()
    parts = [pl.read_parquet(path).select("user_id", "timestamp", "text") for path in arguments.files]
    offset = [pl.col("user_id") + k * 10**9 for k in range(len(parts))]
    table = pl.concat([part.with_columns(user) for part, user in zip(parts, offset, strict=True)])
    table = (
        table.filter(pl.col("text").is_not_null())
        .head(arguments.posts)
        .sort("user_id", "timestamp", maintain_order=True)
    )
    with TemporaryDirectory() as cache:
        for attempt in ("read", "from the cache"):
            start = time.perf_counter()
            texts = chunks(table, config)
            sides(config, Path(cache))[0].vectors(texts)
            took = time.perf_counter() - start
            print(f"{table.height:,} posts, {len(set(texts)):,} chunks, {attempt}: {took:.1f} s", flush=True)


def chunks(table: pl.DataFrame, config: ModelConfig) -> list[str]:
    posts = posts_of(table["user_id"].to_numpy(), table["timestamp"], [""] * table.height, table["text"], config)
    found = []
    for own in posts.values():
        kept = [post for post in own if post]
        ends = [sum(len(post) for post in kept[:k]) for k in moments([post[0].second for post in kept])]
        pieces = [piece for post in kept for piece in post]
        for made in packed(pieces, config.max_chunk_length, ends, config.num_chunks_per_user):
            found += [chunk.text for chunk in made]
    return found


if __name__ == "__main__":
    main()
