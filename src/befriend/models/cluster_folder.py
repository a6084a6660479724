"""Clusters on disk: the table and what users begin with, how they are searched, and who belongs where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch
from pydantic import ValidationError

from befriend import files
from befriend.data.columns import USER_ID
from befriend.data.log import EventLog
from befriend.errors import DataError
from befriend.models.cluster_settings import SearchSettings
from befriend.models.clusters import UserClusters

WEIGHTS_FILE, ABOUT_FILE, USERS_FILE = "weights.safetensors", "clusters.json", "users.parquet"


def save(
    folder: Path, model: UserClusters, search: SearchSettings, log: EventLog, of: np.ndarray, share: np.ndarray
) -> None:
    """of: int64[N], the cluster of each user of the log, at its end; share: float32[N], how far each belongs there."""
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    about = {"search": search.model_dump(mode="json"), "users": log.num_users, "lineage": log.lineage()}
    with files.atomic(folder) as new:
        new.mkdir()
        save_file(weights, new / WEIGHTS_FILE)
        files.write_json(new / ABOUT_FILE, about)
        table = {USER_ID: log.user_ids, "cluster": of.astype(np.int32), "share": share.round(4)}
        pl.DataFrame(table).write_parquet(new / USERS_FILE)


def load(folder: Path, log: EventLog) -> tuple[UserClusters, SearchSettings]:
    """Clusters for a log: the one they were learned on, or a later version of it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    again = "Run `dvc repro cluster`"
    if not (folder / ABOUT_FILE).is_file():
        raise DataError(f"there are no clusters in {folder}. {again} first.")
    try:
        about = files.read_json(folder / ABOUT_FILE)
        weights = load_file(folder / WEIGHTS_FILE)
        model = UserClusters(torch.zeros_like(weights["own.weight"][:-1]), len(weights["clusters.share"]))
        model.load_state_dict(weights)
        search, users, lineage = SearchSettings(**about["search"]), int(about["users"]), about["lineage"]
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError, ValidationError) as error:
        raise DataError(f"the clusters in {folder} cannot be read ({error}). {again}.") from None
    if log.num_users < users or log.lineage(users) != lineage:
        raise DataError(f"the clusters in {folder} were learned on another log. {again}.")
    return model.eval(), search
