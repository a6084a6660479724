"""Towers on disk: each in a folder with everything it needs, so that you can deploy either without the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from befriend import artifacts, files
from befriend.text.corpus import Corpus, encoder_sides
from befriend.text.lexicon import HashedTfidf
from befriend.text.text_settings import ModelConfig
from befriend.text.towers import StatementTower, UniversalUserEmbedding, UserTower

USER, STATEMENT = "user_tower", "item_tower"
CONFIG_FILE, WEIGHTS_FILE, LEXICON_FILE = "config.json", "weights.safetensors", "lexicon.safetensors"


def save_towers(folder: Path, model: UniversalUserEmbedding, corpus: Corpus, lexicon: HashedTfidf) -> None:
    """Writes the folder atomically."""
    shared: dict[str, Any] = {"config": corpus.config.model_dump(mode="json"), "common": dict(corpus.statement_counts)}
    shared["metadata"] = [list(corpus.user_metadata_names), list(corpus.statement_metadata_names)]
    with files.atomic(folder) as new:
        for name, tower, side in ((USER, model.user, corpus.user_side), (STATEMENT, model.item, corpus.statement_side)):
            (new / name).mkdir(parents=True)
            artifacts.save_tensors(new / name / WEIGHTS_FILE, tower.state_dict())
            artifacts.save_tensors(new / name / LEXICON_FILE, {"rarity": torch.from_numpy(lexicon.idf)})
            files.write_json(new / name / CONFIG_FILE, shared | {"width": side.width})


def load_tower(folder: Path, name: str, cache: Path) -> tuple[UserTower | StatementTower, Corpus, HashedTfidf]:
    """A tower, its corpus and its lexicon, from the subfolder `name`: USER or STATEMENT.

    Raises DataError if it is missing or damaged.
    """
    tower_folder = folder / name
    with artifacts.open_artifact(tower_folder, CONFIG_FILE, "text tower", "Train one: `befriend text demo`") as saved:
        config = ModelConfig.model_validate(saved["config"])
        user_side, statement_side = encoder_sides(config, cache)
        user_metadata_names, statement_metadata_names = saved["metadata"]
        corpus = Corpus(
            config, user_side, statement_side, (user_metadata_names, statement_metadata_names), saved["common"]
        )
        tower = (
            UserTower(saved["width"], config, corpus.user_width)
            if name == USER
            else StatementTower(saved["width"], config, corpus.statement_width)
        )
        tower.load_state_dict(artifacts.load_tensors(tower_folder / WEIGHTS_FILE))
        idf: np.ndarray = artifacts.load_tensors(tower_folder / LEXICON_FILE)["rarity"].numpy()
    return tower.eval(), corpus, HashedTfidf(idf, config.lexical_dim)
