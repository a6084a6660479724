"""A model on disk: weights in safetensors, and everything else that is needed to use it in JSON beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from befriend import files
from befriend.data.activity import PAIR_FEATURES, USER_FEATURES, Activity
from befriend.data.attributes import Attributes
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.texts import STATISTICS, TextVectors
from befriend.errors import DataError
from befriend.models.query_tower import QueryTower, TowerArguments
from befriend.models.settings import QuerySettings, StuTowerSettings, TowerSettings
from befriend.models.stu import NextTargetPredictionSTU
from befriend.models.two_tower import NextTargetPredictionUserIDs

if TYPE_CHECKING:
    from befriend.tokens.folder import Tokens
    from befriend.tokens.table import Table

M = TypeVar("M", bound=QueryTower)
S = TypeVar("S", bound=QuerySettings)
WEIGHTS_FILE = "weights.safetensors"
ABOUT_FILE = "model.json"


@dataclass(frozen=True)
class Trained(Generic[M, S]):
    """A trained model and what it was trained on."""

    model: M
    tower: S
    actions: tuple[str, ...]
    """labels by the model's own numbers"""
    codes: Codes
    """how it reads attributes"""
    users: int
    """how many users the log had"""
    lineage: str
    """digest of their ids: a later version of the log begins with the same"""
    data: str
    """sha256 of the events it was trained on"""
    trained_until: int
    """UTC second of the first event that was not trained on"""
    validation: dict[str, float]
    """figures of the epoch whose weights were kept"""
    tokens: str = ""
    """digest of the STUs it was trained with, empty for a model that has none"""
    text_width: int = 0
    """width of the vectors of what users wrote that it was trained with, 0 for a model that has none"""

    def look(self, log: EventLog, texts: TextVectors, activity: Activity | None = None) -> Observed:
        """A log and what its users wrote as this model looks at them. activity: of the log, if it is there already."""
        if self.text_width not in (0, texts.width):
            raise DataError(
                f"the model was trained with vectors of texts of width {self.text_width}, and they have {texts.width} "
                "now. Run `dvc repro train_two_tower train_stu`."
            )
        seen = texts if self.text_width else None
        return Observed.of(log, self.tower.received_events, self.actions, seen, activity)


class Widths(TypedDict):
    """What a model has to know of attributes to be built."""

    categories: tuple[int, ...]
    numeric: int


@dataclass(frozen=True)
class Codes:
    """How a model reads attributes: fixed by the users it was trained on."""

    vocabulary: dict[str, list[str]]
    """categorical attribute -> labels, numbered from 1"""
    scale: dict[str, tuple[float, float]]
    """numeric attribute -> mean and deviation"""

    @classmethod
    def of(cls, attributes: Attributes, trained: np.ndarray) -> Codes:
        """trained: bool[N], the users of the training part."""
        return cls(attributes.vocabulary_of(trained), attributes.scale(trained))

    def widths(self) -> Widths:
        return {
            "categories": tuple(1 + len(labels) for labels in self.vocabulary.values()),
            "numeric": 2 * len(self.scale),
        }

    def describe(self, model: QueryTower, attributes: Attributes) -> None:
        """Tells the model the attributes of all users."""
        categorical = attributes.with_vocabulary(self.vocabulary).categorical.astype(np.int64)
        model.users.describe(torch.from_numpy(categorical), torch.from_numpy(attributes.scaled(self.scale)))


TwoTowerModel = Trained[NextTargetPredictionUserIDs, TowerSettings]
StuModel = Trained[NextTargetPredictionSTU, StuTowerSettings]


def build(
    tower: TowerSettings, num_users: int, num_actions: int, codes: Codes, text_width: int = 0
) -> NextTargetPredictionUserIDs:
    """The model that the settings describe, with fresh weights. text_width: of what users wrote."""
    return NextTargetPredictionUserIDs(
        num_users,
        num_actions,
        embedding_dim=tower.embedding_dim,
        hidden_dim=tower.hidden_dim,
        id_embedding=tower.id_embedding,
        clusters=tower.clusters,
        **codes.widths(),
        **_arguments(tower, text_width),
    )


def build_stu(
    tower: StuTowerSettings, table: Table, num_actions: int, codes: Codes, text_width: int = 0
) -> NextTargetPredictionSTU:
    """The model that the settings describe, with fresh weights, for the users of a table."""
    return NextTargetPredictionSTU(
        num_actions,
        len(table.vocabulary),
        table.vocabulary,
        embedding_dim=tower.embedding_dim,
        hidden_dim=tower.hidden_dim,
        stus=table.stus,
        tower_type=tower.towers,
        tied=tower.tied_tokens,
        sibling_smoothing=tower.sibling_smoothing,
        token_dropout=tower.token_dropout,
        **codes.widths(),
        **_arguments(tower, text_width),
    )


def width_of_texts(tower: QuerySettings, texts: TextVectors) -> int:
    """Of the texts' vectors, for a model of these settings; 0 where it looks at none."""
    return texts.width if tower.freshness and tower.texts else 0


def _arguments(tower: QuerySettings, text_width: int) -> TowerArguments:
    written = STATISTICS + text_width if text_width else 0
    return {
        "partners": tower.partners > 0,
        "dropout": tower.dropout,
        "history_encoder_type": tower.history_encoder,
        "interaction_type": tower.interaction,
        "num_experts": tower.num_experts,
        "activation": tower.activation,
        "layers": tower.layers,
        "heads": tower.heads,
        "history_projection": tower.history_projection,
        "shortcut": tower.shortcut,
        "history_scale": tower.history_scale,
        "latent_cross": tower.latent_cross,
        "user_features": USER_FEATURES + written if tower.freshness else 0,
        "text_width": text_width,
        "pair_features": PAIR_FEATURES if tower.pointer else 0,
        "id_dropout": tower.id_dropout,
        "user_weight": tower.user_weight,
    }


def save(folder: Path, trained: Trained[Any, Any], name: str) -> None:
    """Writes the folder, complete or not at all. name: of the kind of model."""
    from safetensors.torch import save_file

    about = {field: getattr(trained, field) for field in ("users", "lineage", "data", "trained_until", "validation")}
    about |= {"attributes": {"vocabulary": trained.codes.vocabulary, "scale": trained.codes.scale}}
    about |= {"model": name, "actions": list(trained.actions), "tower": trained.tower.model_dump(mode="json")}
    about |= {"tokens": trained.tokens, "text_width": trained.text_width}
    weights = {name: value.detach().cpu().contiguous() for name, value in trained.model.state_dict().items()}
    with files.atomic(folder) as new:
        new.mkdir()
        save_file(weights, new / WEIGHTS_FILE)
        files.write_json(new / ABOUT_FILE, about)


def load(folder: Path, log: EventLog, attributes: Attributes) -> TwoTowerModel:
    """A saved two-tower model for a log and its users: the one it was trained on, or a later version of it."""

    def fresh(tower: TowerSettings, about: dict[str, Any], codes: Codes) -> NextTargetPredictionUserIDs:
        return build(tower, about["users"], len(about["actions"]), codes, about["text_width"])

    return _load(folder, log, attributes, TowerSettings, fresh, "train_two_tower")


def load_stu(folder: Path, log: EventLog, attributes: Attributes, tokens: Tokens) -> StuModel:
    """A saved STU model for a log, its users, and the tokens it was trained with."""
    table = tokens.table

    def fresh(tower: StuTowerSettings, about: dict[str, Any], codes: Codes) -> NextTargetPredictionSTU:
        if table.digest() != about["tokens"]:
            raise DataError(
                f"the model in {folder} was trained with other STUs than those of models/tokens. "
                "Run `dvc repro train_stu`."
            )
        return build_stu(tower, table, len(about["actions"]), codes, about["text_width"])

    return _load(folder, log, attributes, StuTowerSettings, fresh, "train_stu")


def _load(
    folder: Path,
    log: EventLog,
    attributes: Attributes,
    settings: type[S],
    fresh: Callable[[S, dict[str, Any], Codes], M],
    stage: str,
) -> Trained[M, S]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    again = f"Run `dvc repro {stage}`"
    if not (folder / ABOUT_FILE).is_file():
        raise DataError(f"there is no model in {folder}. {again} first.")
    try:
        about: dict[str, Any] = files.read_json(folder / ABOUT_FILE)
        about.pop("model")
        tower, codes = settings.model_validate(about.pop("tower")), Codes(**about.pop("attributes"))
        model = fresh(tower, about, codes)
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        model.eval()
        trained = Trained(model, tower, codes=codes, **about | {"actions": tuple(about["actions"])})
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError, ValidationError) as error:
        raise DataError(f"the model in {folder} cannot be read ({error}). {again}.") from None
    found = log.lineage(trained.users) if log.num_users >= trained.users else "shorter"
    if found != trained.lineage:
        raise DataError(
            f"the model in {folder} was trained on another log: lineage {trained.lineage[:12]} of {trained.users:,} "
            f"users, this log has {log.num_users:,} users and lineage {log.lineage()[:12]}. {again}."
        )
    codes.describe(model, attributes)
    return trained
