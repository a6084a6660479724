"""Trained models on disk: weights in safetensors; settings, actions, encoding of attributes and origin in model.json.

STU stands for social tokenized user id: the semantic ID of a user, a few tokens of a residual quantizer, as in TIGER.
The STUs themselves are in the files of the tokenizer.
"""

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
from befriend.features.activity import NUM_PAIR_FEATURES, NUM_USER_FEATURES
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import NUM_STATISTICS, TextVectors
from befriend.features.two_hop import NUM_TWO_HOP_FEATURES
from befriend.models.model_settings import ModelSettings, StuModelSettings, TwoTowerModelSettings
from befriend.models.query_tower import QueryTower
from befriend.models.stu_model import NextTargetPredictionSTU
from befriend.models.two_tower_model import NextTargetPredictionUserIDs
from befriend.tokens.stu_table import StuTable

M = TypeVar("M", bound=QueryTower)
S = TypeVar("S", bound=ModelSettings)
WEIGHTS_FILE = "weights.safetensors"
ABOUT_FILE = "model.json"


@dataclass(frozen=True)
class TrainedModel(Generic[M, S]):
    """A trained model, its settings, and what identifies the log, attributes and STUs that it was trained on."""

    model: M
    settings: S
    actions: tuple[str, ...]
    """labels of the actions: the model's id of an action is its index here"""
    attribute_encoding: AttributeEncoding
    """how users' attributes are encoded for the model"""
    num_users: int
    """number of users of the log that the model was trained on"""
    lineage: str
    """digest of the external ids of these users; a later version of the log begins with the same users"""
    events_digest: str
    """SHA-256 of the file of events that the model was trained on"""
    trained_until: int
    """cutoff of training: the UTC second at which the validation part begins"""
    validation_metrics: dict[str, float]
    """metrics on the validation part, of the epoch whose weights these are"""
    stu_digest: str = ""
    """digest of the STUs that the model was trained with; empty for a model without STUs"""
    text_width: int = 0
    """width of the text vectors that the model was trained with; 0 for a model without texts"""

    def feature_view(self, log: EventLog, texts: TextVectors, base: FeatureView | None = None) -> FeatureView:
        """A log and the texts of its users as this model reads them. base: as in `FeatureView.of`.

        Raises a DataError if the model uses texts and their vectors have another width than in training.
        """
        if self.text_width not in (0, texts.width):
            raise DataError(
                f"the model was trained with text vectors of width {self.text_width}, and they have {texts.width} now. "
                "Run `dvc repro train_two_tower train_stu`."
            )
        used_texts = texts if self.text_width else None
        return FeatureView.of(log, self.settings.received_events, self.actions, used_texts, base)


class AttributeWidths(TypedDict):
    """The sizes of encoded attributes: arguments for building a model."""

    categories: tuple[int, ...]
    """number of labels of each categorical attribute, including index 0 for unknown labels"""
    numeric: int
    """number of numeric inputs, two for each numeric attribute: its z-score, and whether it is missing"""


@dataclass(frozen=True)
class AttributeEncoding:
    """How users' attributes are encoded for a model. Fitted to the users of the training part."""

    vocabulary: dict[str, list[str]]
    """categorical attribute -> labels; their indices in the model start at 1"""
    scale: dict[str, tuple[float, float]]
    """numeric attribute -> mean and standard deviation"""

    @classmethod
    def of(cls, attributes: Attributes, is_training_user: np.ndarray) -> AttributeEncoding:
        """The encoding fitted to the users of the training part. is_training_user: bool[N]."""
        return cls(attributes.training_vocabulary(is_training_user), attributes.fit_scale(is_training_user))

    def widths(self) -> AttributeWidths:
        return {
            "categories": tuple(1 + len(labels) for labels in self.vocabulary.values()),
            "numeric": 2 * len(self.scale),
        }

    def apply_to(self, model: QueryTower, attributes: Attributes) -> None:
        """Sets the encoded attributes of all users in the model."""
        categorical = attributes.with_vocabulary(self.vocabulary).categorical.astype(np.int64)
        model.users.set_attributes(torch.from_numpy(categorical), torch.from_numpy(attributes.standardise(self.scale)))


TwoTowerModel = TrainedModel[NextTargetPredictionUserIDs, TwoTowerModelSettings]
StuModel = TrainedModel[NextTargetPredictionSTU, StuModelSettings]


def build_two_tower(
    settings: TwoTowerModelSettings,
    num_users: int,
    num_actions: int,
    attribute_encoding: AttributeEncoding,
    text_width: int = 0,
) -> NextTargetPredictionUserIDs:
    """A two-tower model of these settings with initial weights. text_width: width of text vectors, 0 for none."""
    return NextTargetPredictionUserIDs(
        num_users,
        num_actions,
        embedding_dim=settings.embedding_dim,
        hidden_dim=settings.hidden_dim,
        id_embedding=settings.id_embedding,
        clusters=settings.clusters,
        **attribute_encoding.widths(),
        **_arguments(settings, text_width),
    )


def build_stu(
    settings: StuModelSettings,
    table: StuTable,
    num_actions: int,
    attribute_encoding: AttributeEncoding,
    text_width: int = 0,
) -> NextTargetPredictionSTU:
    """An STU model of these settings with initial weights, for the users of a table of STUs.

    text_width: width of text vectors, 0 for none.
    """
    return NextTargetPredictionSTU(
        num_actions,
        len(table.vocabulary),
        table.vocabulary,
        embedding_dim=settings.embedding_dim,
        hidden_dim=settings.hidden_dim,
        stus=table.stus,
        tower_type=settings.towers,
        tied=settings.tied_tokens,
        sibling_smoothing=settings.sibling_smoothing,
        token_dropout=settings.token_dropout,
        **attribute_encoding.widths(),
        **_arguments(settings, text_width),
    )


def used_text_width(settings: ModelSettings, texts: TextVectors) -> int:
    """Width of the text vectors that a model of these settings uses; 0 if it uses none."""
    return texts.width if settings.freshness and settings.texts else 0


def _arguments(settings: ModelSettings, text_width: int) -> dict[str, Any]:
    """The fields of `QueryTowerConfig`, as arguments for building a model."""
    text_features = NUM_STATISTICS + text_width if text_width else 0
    return {
        "recent_neighbors": settings.recent_neighbors > 0,
        "dropout": settings.dropout,
        "history_encoder_type": settings.history_encoder,
        "interaction_type": settings.interaction,
        "num_experts": settings.num_experts,
        "activation": settings.activation,
        "layers": settings.layers,
        "heads": settings.heads,
        "history_projection": settings.history_projection,
        "shortcut": settings.shortcut,
        "history_scale": settings.history_scale,
        "latent_cross": settings.latent_cross,
        "num_user_features": NUM_USER_FEATURES + text_features if settings.freshness else 0,
        "text_width": text_width,
        "num_pair_features": NUM_PAIR_FEATURES if settings.pointer else 0,
        "num_two_hop_features": NUM_TWO_HOP_FEATURES if settings.two_hop_candidates else 0,
        "id_dropout": settings.id_dropout,
        "static_score_weight": settings.static_score_weight,
    }


def save_model(folder: Path, trained: TrainedModel[Any, Any], name: str) -> None:
    """Writes the folder of a model, completely or not at all. name: kind of the model, two-tower or stu."""
    metadata = {
        "users": trained.num_users,
        "lineage": trained.lineage,
        "data": trained.events_digest,
        "trained_until": trained.trained_until,
        "validation": trained.validation_metrics,
    }
    metadata |= {
        "attributes": {"vocabulary": trained.attribute_encoding.vocabulary, "scale": trained.attribute_encoding.scale}
    }
    metadata |= {"model": name, "actions": list(trained.actions), "tower": trained.settings.model_dump(mode="json")}
    metadata |= {"tokens": trained.stu_digest, "text_width": trained.text_width}
    with files.atomic(folder) as new:
        new.mkdir()
        artifacts.save_tensors(new / WEIGHTS_FILE, trained.model.state_dict())
        files.write_json(new / ABOUT_FILE, metadata)


def load_two_tower(folder: Path, log: EventLog, attributes: Attributes) -> TwoTowerModel:
    """A saved two-tower model. log: the one it was trained on, or a later version of it.

    Raises a DataError if the model is missing, damaged, or of another log.
    """

    def build(
        settings: TwoTowerModelSettings, metadata: dict[str, Any], attribute_encoding: AttributeEncoding
    ) -> NextTargetPredictionUserIDs:
        num_actions = len(metadata["actions"])
        return build_two_tower(settings, metadata["users"], num_actions, attribute_encoding, metadata["text_width"])

    return _load(folder, log, attributes, TwoTowerModelSettings, build, "train_two_tower")


def load_stu(folder: Path, log: EventLog, attributes: Attributes, table: StuTable) -> StuModel:
    """A saved STU model. log: the one it was trained on, or a later version of it; table: the STUs of that training.

    Raises a DataError if the model is missing, damaged, or of another log, or if it was trained with other STUs.
    """

    def build(
        settings: StuModelSettings, metadata: dict[str, Any], attribute_encoding: AttributeEncoding
    ) -> NextTargetPredictionSTU:
        if table.digest() != metadata["tokens"]:
            raise DataError(
                f"the model in {folder} was trained with other STUs than those of models/tokens. "
                "Run `dvc repro train_stu`."
            )
        return build_stu(settings, table, len(metadata["actions"]), attribute_encoding, metadata["text_width"])

    return _load(folder, log, attributes, StuModelSettings, build, "train_stu")


def _load(
    folder: Path,
    log: EventLog,
    attributes: Attributes,
    settings_class: type[S],
    build: Callable[[S, dict[str, Any], AttributeEncoding], M],
    stage: str,
) -> TrainedModel[M, S]:
    """A saved model. build: makes a model with initial weights from settings, metadata and attribute encoding.

    stage: the stage that trains this kind of model, for error messages.
    """
    remedy = f"Run `dvc repro {stage}`"
    with artifacts.open_artifact(folder, ABOUT_FILE, "model", remedy) as metadata:
        metadata.pop("model")
        settings = settings_class.model_validate(metadata.pop("tower"))
        encoding = AttributeEncoding(**metadata.pop("attributes"))
        model = build(settings, metadata, encoding)
        model.load_state_dict(artifacts.load_tensors(folder / WEIGHTS_FILE))
        trained = TrainedModel(
            model=model.eval(),
            settings=settings,
            actions=tuple(metadata["actions"]),
            attribute_encoding=encoding,
            num_users=metadata["users"],
            lineage=metadata["lineage"],
            events_digest=metadata["data"],
            trained_until=metadata["trained_until"],
            validation_metrics=metadata["validation"],
            stu_digest=metadata["tokens"],
            text_width=metadata["text_width"],
        )
    log.check_lineage(trained.num_users, trained.lineage, f"the model in {folder}", remedy)
    encoding.apply_to(model, attributes)
    return trained
