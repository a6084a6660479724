"""Time to encode posts with a frozen encoder, once by the encoder and once from its cache.

    python bench/embed.py FILE... [--posts 5000] [--threads 2]

Each FILE is a Parquet table with columns user_id, timestamp, text. Encodes what stage `embed_text` would: the chunks of
all text snapshots (the points in time at which a user's vector is computed again). Prints the number of posts, the
number of distinct chunks, and seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import torch

from befriend.text.chunks import pack_pieces_at, snapshot_counts
from befriend.text.corpus import encoder_sides
from befriend.text.text_settings import EmbedTextSettings, ModelConfig
from befriend.text.text_snapshots import posts_by_user


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--posts", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = EmbedTextSettings().model_config_only()
    tables = [pl.read_parquet(path).select("user_id", "timestamp", "text") for path in arguments.files]
    user_ids = [pl.col("user_id") + k * 10**9 for k in range(len(tables))]
    table = pl.concat([posts.with_columns(user_id) for posts, user_id in zip(tables, user_ids, strict=True)])
    table = (
        table.filter(pl.col("text").is_not_null())
        .head(arguments.posts)
        .sort("user_id", "timestamp", maintain_order=True)
    )
    with TemporaryDirectory() as cache:
        for attempt in ("encoded", "from the cache"):
            start = time.perf_counter()
            texts = chunks(table, config)
            encoder_sides(config, Path(cache))[0].vectors(texts)
            seconds = time.perf_counter() - start
            print(f"{table.height:,} posts, {len(set(texts)):,} chunks, {attempt}: {seconds:.1f} s", flush=True)


def chunks(table: pl.DataFrame, config: ModelConfig) -> list[str]:
    """The text of every chunk of every text snapshot. table: sorted by user_id, then timestamp."""
    posts = posts_by_user(table["user_id"].to_numpy(), table["timestamp"], [""] * table.height, table["text"], config)
    chunk_texts = []
    for user_posts in posts.values():
        posts_with_text = [post for post in user_posts if post]
        ends = [
            sum(len(post) for post in posts_with_text[:k])
            for k in snapshot_counts([post[0].timestamp for post in posts_with_text])
        ]
        pieces = [piece for post in posts_with_text for piece in post]
        for packed in pack_pieces_at(pieces, config.max_chunk_length, ends, config.num_chunks_per_user):
            chunk_texts += [chunk.text for chunk in packed]
    return chunk_texts


if __name__ == "__main__":
    main()
