"""Clusters on disk: weights of the clusters, settings of the search, and the cluster of every user (users.parquet)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from befriend import artifacts, files
from befriend.data.columns import USER_ID
from befriend.data.event_log import EventLog
from befriend.models.model_settings import ClusterSearchSettings
from befriend.models.user_clusters import UserClusters

WEIGHTS_FILE, ABOUT_FILE, USERS_FILE = "weights.safetensors", "clusters.json", "users.parquet"


def save_clusters(
    folder: Path,
    model: UserClusters,
    search: ClusterSearchSettings,
    log: EventLog,
    user_cluster: np.ndarray,
    membership: np.ndarray,
) -> None:
    """Writes the folder of the clusters, completely or not at all.

    user_cluster: int64[N], the cluster of each user at the end of the log; membership: float32[N], of the user in it.
    """
    about = {"search": search.model_dump(mode="json"), "users": log.num_users, "lineage": log.lineage()}
    with files.atomic(folder) as new:
        new.mkdir()
        artifacts.save_tensors(new / WEIGHTS_FILE, model.state_dict())
        files.write_json(new / ABOUT_FILE, about)
        table = {USER_ID: log.user_ids, "cluster": user_cluster.astype(np.int32), "share": membership.round(4)}
        pl.DataFrame(table).write_parquet(new / USERS_FILE)


def load_clusters(folder: Path, log: EventLog) -> tuple[UserClusters, ClusterSearchSettings]:
    """Saved clusters and their search settings. log: the one they were learned on, or a later version of it.

    Raises a DataError if they are missing, damaged, or of another log.
    """
    remedy = "Run `dvc repro cluster`"
    with artifacts.open_artifact(folder, ABOUT_FILE, "clusters", remedy) as about:
        weights = artifacts.load_tensors(folder / WEIGHTS_FILE)
        model = UserClusters(torch.zeros_like(weights["id_embedding.weight"][:-1]), len(weights["clusters.prior"]))
        model.load_state_dict(weights)
        search, users, lineage = ClusterSearchSettings(**about["search"]), int(about["users"]), about["lineage"]
    log.check_lineage(users, lineage, f"the model in {folder}", remedy)
    return model.eval(), search
