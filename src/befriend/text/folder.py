"""The towers on disk: each in a folder of its own with all it needs, so that either can be deployed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from befriend import files
from befriend.errors import DataError
from befriend.text.corpus import Corpus, sides
from befriend.text.lexicon import Lexicon
from befriend.text.settings import ModelConfig
from befriend.text.towers import ItemTower, UniversalUserEmbedding, UserTower

USER, ITEM = "user_tower", "item_tower"
CONFIG_FILE, WEIGHTS_FILE, LEXICON_FILE = "config.json", "weights.safetensors", "lexicon.safetensors"


def save(folder: Path, model: UniversalUserEmbedding, corpus: Corpus, lexicon: Lexicon) -> None:
    """Writes the folder, complete or not at all."""
    from safetensors.torch import save_file

    told: dict[str, Any] = {"config": corpus.config.model_dump(mode="json"), "common": dict(corpus.common)}
    told["metadata"] = [list(corpus.user_names), list(corpus.item_names)]
    with files.atomic(folder) as new:
        for name, tower, side in ((USER, model.user, corpus.user_side), (ITEM, model.item, corpus.item_side)):
            (new / name).mkdir(parents=True)
            weights = {key: value.detach().cpu().contiguous() for key, value in tower.state_dict().items()}
            save_file(weights, new / name / WEIGHTS_FILE)
            save_file({"rarity": torch.from_numpy(lexicon.rarity)}, new / name / LEXICON_FILE)
            files.write_json(new / name / CONFIG_FILE, told | {"width": side.width})


def load_tower(folder: Path, name: str, cache: Path) -> tuple[UserTower | ItemTower, Corpus, Lexicon]:
    """One of the towers, from its own part of the folder; DataError where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = folder / name
    if not (place / CONFIG_FILE).is_file():
        raise DataError(f"there is no {name.replace('_', ' ')} in {folder}. Train one: `befriend text demo`.")
    try:
        told = files.read_json(place / CONFIG_FILE)
        config = ModelConfig.model_validate(told["config"])
        user_side, item_side = sides(config, cache)
        user_names, item_names = told["metadata"]
        corpus = Corpus(config, user_side, item_side, (user_names, item_names), told["common"])
        tower = (
            UserTower(told["width"], config, corpus.user_width)
            if name == USER
            else ItemTower(told["width"], config, corpus.item_width)
        )
        tower.load_state_dict(load_file(place / WEIGHTS_FILE))
        rarity: np.ndarray = load_file(place / LEXICON_FILE)["rarity"].numpy()
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError, ValidationError) as error:
        raise DataError(f"the {name.replace('_', ' ')} in {folder} cannot be read ({error}). Train it anew.") from None
    return tower.eval(), corpus, Lexicon(rarity, config.lexical_dim)
