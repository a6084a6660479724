"""The towers on disk: each in a folder of its own with everything it needs, so that either can be deployed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from befriend import artifacts, files
from befriend.text.corpus import Corpus, encoder_sides
from befriend.text.lexicon import HashedTfidf
from befriend.text.text_settings import ModelConfig
from befriend.text.towers import ItemTower, UniversalUserEmbedding, UserTower

USER, ITEM = "user_tower", "item_tower"
CONFIG_FILE, WEIGHTS_FILE, LEXICON_FILE = "config.json", "weights.safetensors", "lexicon.safetensors"


def save_towers(folder: Path, model: UniversalUserEmbedding, corpus: Corpus, lexicon: HashedTfidf) -> None:
    """Writes the folder, complete or not at all."""
    shared: dict[str, Any] = {"config": corpus.config.model_dump(mode="json"), "common": dict(corpus.common)}
    shared["metadata"] = [list(corpus.user_names), list(corpus.item_names)]
    with files.atomic(folder) as new:
        for name, tower, side in ((USER, model.user, corpus.user_side), (ITEM, model.item, corpus.item_side)):
            (new / name).mkdir(parents=True)
            artifacts.save_tensors(new / name / WEIGHTS_FILE, tower.state_dict())
            artifacts.save_tensors(new / name / LEXICON_FILE, {"rarity": torch.from_numpy(lexicon.rarity)})
            files.write_json(new / name / CONFIG_FILE, shared | {"width": side.width})


def load_tower(folder: Path, name: str, cache: Path) -> tuple[UserTower | ItemTower, Corpus, HashedTfidf]:
    """One tower, from its own subfolder: USER or ITEM; DataError where it cannot be read."""
    tower_folder = folder / name
    with artifacts.reading(tower_folder, CONFIG_FILE, "text tower", "Train one: `befriend text demo`") as saved:
        config = ModelConfig.model_validate(saved["config"])
        user_side, item_side = encoder_sides(config, cache)
        user_names, item_names = saved["metadata"]
        corpus = Corpus(config, user_side, item_side, (user_names, item_names), saved["common"])
        tower = (
            UserTower(saved["width"], config, corpus.user_width)
            if name == USER
            else ItemTower(saved["width"], config, corpus.item_width)
        )
        tower.load_state_dict(artifacts.load_tensors(tower_folder / WEIGHTS_FILE))
        rarity: np.ndarray = artifacts.load_tensors(tower_folder / LEXICON_FILE)["rarity"].numpy()
    return tower.eval(), corpus, HashedTfidf(rarity, config.lexical_dim)
