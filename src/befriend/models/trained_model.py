"""Models on disk: weights in safetensors, and everything else needed to use a model in model.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
import torch

from befriend import artifacts, files
from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.errors import DataError
from befriend.features.activity import PAIR_FEATURES, USER_FEATURES, Activity
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import STATISTICS, TextVectors
from befriend.models.model_settings import QuerySettings, StuTowerSettings, TowerSettings
from befriend.models.query_tower import QueryTower
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.tokens.stu_table import StuTable

M = TypeVar("M", bound=QueryTower)
S = TypeVar("S", bound=QuerySettings)
WEIGHTS_FILE = "weights.safetensors"
ABOUT_FILE = "model.json"


@dataclass(frozen=True)
class TrainedModel(Generic[M, S]):
    """A trained model, its settings, and the log, attributes and tokens it was trained on."""

    model: M
    tower: S
    actions: tuple[str, ...]
    """labels of the actions, in the model's numbering"""
    attribute_encoding: AttributeEncoding
    """how attributes are encoded for the model"""
    users: int
    """number of users of the log"""
    lineage: str
    """digest of their external ids; a later version of the log begins with the same users"""
    data: str
    """sha256 of the events it was trained on"""
    trained_until: int
    """cutoff of training: UTC second of the first event not trained on"""
    validation: dict[str, float]
    """validation metrics of the epoch whose weights these are"""
    tokens: str = ""
    """digest of the STUs it was trained with; empty for a model without STUs"""
    text_width: int = 0
    """width of the text vectors it was trained with; 0 for a model without texts"""

    def feature_view(self, log: EventLog, texts: TextVectors, activity: Activity | None = None) -> FeatureView:
        """The inputs of this model from a log and the texts of its users. activity: of the log, if already computed."""
        if self.text_width not in (0, texts.width):
            raise DataError(
                f"the model was trained with text vectors of width {self.text_width}, and they have {texts.width} now. "
                "Run `dvc repro train_two_tower train_stu`."
            )
        used_texts = texts if self.text_width else None
        return FeatureView.of(log, self.tower.received_events, self.actions, used_texts, activity)


class AttributeWidths(TypedDict):
    """The widths of encoded attributes, which a model needs to be built."""

    categories: tuple[int, ...]
    """sizes of the categorical attributes, index 0 for unknown labels included"""
    numeric: int
    """number of numeric inputs, two for each numeric attribute"""


@dataclass(frozen=True)
class AttributeEncoding:
    """How attributes are encoded for a model; fitted to the users it was trained on."""

    vocabulary: dict[str, list[str]]
    """categorical attribute -> labels, numbered from 1"""
    scale: dict[str, tuple[float, float]]
    """numeric attribute -> mean and standard deviation"""

    @classmethod
    def of(cls, attributes: Attributes, trained: np.ndarray) -> AttributeEncoding:
        """The encoding fitted to the users of the training part, trained: bool[N]."""
        return cls(attributes.vocabulary_of(trained), attributes.scale(trained))

    def widths(self) -> AttributeWidths:
        return {
            "categories": tuple(1 + len(labels) for labels in self.vocabulary.values()),
            "numeric": 2 * len(self.scale),
        }

    def apply_to(self, model: QueryTower, attributes: Attributes) -> None:
        """Sets the encoded attributes of all users in the model."""
        categorical = attributes.with_vocabulary(self.vocabulary).categorical.astype(np.int64)
        model.users.set_attributes(torch.from_numpy(categorical), torch.from_numpy(attributes.scaled(self.scale)))


TwoTowerModel = TrainedModel[NextTargetPredictionUserIDs, TowerSettings]
StuModel = TrainedModel[NextTargetPredictionSTU, StuTowerSettings]


def build_two_tower(
    tower: TowerSettings, num_users: int, num_actions: int, attribute_encoding: AttributeEncoding, text_width: int = 0
) -> NextTargetPredictionUserIDs:
    """A model of these settings with fresh weights. text_width: width of text vectors, 0 for none."""
    return NextTargetPredictionUserIDs(
        num_users,
        num_actions,
        embedding_dim=tower.embedding_dim,
        hidden_dim=tower.hidden_dim,
        id_embedding=tower.id_embedding,
        clusters=tower.clusters,
        **attribute_encoding.widths(),
        **_arguments(tower, text_width),
    )


def build_stu(
    tower: StuTowerSettings,
    table: StuTable,
    num_actions: int,
    attribute_encoding: AttributeEncoding,
    text_width: int = 0,
) -> NextTargetPredictionSTU:
    """A model of these settings with fresh weights, for the users of a table. text_width: as of `build_two_tower`."""
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
        **attribute_encoding.widths(),
        **_arguments(tower, text_width),
    )


def text_width_of(tower: QuerySettings, texts: TextVectors) -> int:
    """Width of the text vectors that a model of these settings uses; 0 if it uses none."""
    return texts.width if tower.freshness and tower.texts else 0


def _arguments(tower: QuerySettings, text_width: int) -> dict[str, Any]:
    text_features = STATISTICS + text_width if text_width else 0
    return {
        "recent_neighbors": tower.recent_neighbors > 0,
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
        "num_user_features": USER_FEATURES + text_features if tower.freshness else 0,
        "text_width": text_width,
        "num_pair_features": PAIR_FEATURES if tower.pointer else 0,
        "id_dropout": tower.id_dropout,
        "static_score_weight": tower.static_score_weight,
    }


def save_model(folder: Path, trained: TrainedModel[Any, Any], name: str) -> None:
    """Writes the folder, complete or not at all. name: the kind of model."""
    about = {field: getattr(trained, field) for field in ("users", "lineage", "data", "trained_until", "validation")}
    about |= {
        "attributes": {"vocabulary": trained.attribute_encoding.vocabulary, "scale": trained.attribute_encoding.scale}
    }
    about |= {"model": name, "actions": list(trained.actions), "tower": trained.tower.model_dump(mode="json")}
    about |= {"tokens": trained.tokens, "text_width": trained.text_width}
    with files.atomic(folder) as new:
        new.mkdir()
        artifacts.save_tensors(new / WEIGHTS_FILE, trained.model.state_dict())
        files.write_json(new / ABOUT_FILE, about)


def load_two_tower(folder: Path, log: EventLog, attributes: Attributes) -> TwoTowerModel:
    """A saved two-tower model, for the log it was trained on or a later version of it."""

    def fresh(
        tower: TowerSettings, about: dict[str, Any], attribute_encoding: AttributeEncoding
    ) -> NextTargetPredictionUserIDs:
        return build_two_tower(tower, about["users"], len(about["actions"]), attribute_encoding, about["text_width"])

    return _load(folder, log, attributes, TowerSettings, fresh, "train_two_tower")


def load_stu(folder: Path, log: EventLog, attributes: Attributes, table: StuTable) -> StuModel:
    """A saved STU model, for the STUs it was trained with and its log or a later version of that."""

    def fresh(
        tower: StuTowerSettings, about: dict[str, Any], attribute_encoding: AttributeEncoding
    ) -> NextTargetPredictionSTU:
        if table.digest() != about["tokens"]:
            raise DataError(
                f"the model in {folder} was trained with other STUs than those of models/tokens. "
                "Run `dvc repro train_stu`."
            )
        return build_stu(tower, table, len(about["actions"]), attribute_encoding, about["text_width"])

    return _load(folder, log, attributes, StuTowerSettings, fresh, "train_stu")


def _load(
    folder: Path,
    log: EventLog,
    attributes: Attributes,
    settings: type[S],
    fresh: Callable[[S, dict[str, Any], AttributeEncoding], M],
    stage: str,
) -> TrainedModel[M, S]:
    remedy = f"Run `dvc repro {stage}`"
    with artifacts.reading(folder, ABOUT_FILE, "model", remedy) as about:
        about.pop("model")
        tower = settings.model_validate(about.pop("tower"))
        encoding = AttributeEncoding(**about.pop("attributes"))
        model = fresh(tower, about, encoding)
        model.load_state_dict(artifacts.load_tensors(folder / WEIGHTS_FILE))
        about["actions"] = tuple(about["actions"])
        trained = TrainedModel(model.eval(), tower, attribute_encoding=encoding, **about)
    log.check_lineage(trained.users, trained.lineage, f"the model in {folder}", remedy)
    encoding.apply_to(model, attributes)
    return trained
