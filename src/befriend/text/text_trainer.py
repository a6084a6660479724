"""Trains the two text towers on users and statements, and saves them to a folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from befriend import files
from befriend.errors import SettingsError
from befriend.text import saved_towers
from befriend.text import text_encoder as encoding
from befriend.text.chunks import Statement, UserData, as_statement
from befriend.text.corpus import Corpus, encoder_sides
from befriend.text.lexicon import HashedTfidf
from befriend.text.text_metrics import best_threshold
from befriend.text.text_objective import LabelledUsers, TextObjective
from befriend.text.text_settings import ModelConfig
from befriend.text.towers import UniversalUserEmbedding
from befriend.training.loop import FitResult, fit

CACHE = Path(".cache/text")


class UniversalUserEmbeddingTrainer:
    """Initialises, trains and saves both towers."""

    def __init__(
        self,
        config: ModelConfig,
        train_data: Sequence[UserData],
        eval_data: Sequence[UserData] = (),
        statement_pool: Sequence[str | Statement] = (),
        use_mixed_precision: bool | None = None,
        output: Path | str = "text_model",
        checkpoints: Path | None = None,
        cache: Path = CACHE,
    ):
        """eval_data: validation users, for the choice of the best epoch; by default the training users.

        statement_pool: statements to use as negatives besides those of the training users.

        use_mixed_precision: whether to compute in bfloat16 if the device supports it; None: as in `config`.
        output: folder for the towers. checkpoints: folder from which a stopped training resumes, by default next to
        `output`. cache: folder of cached vectors of frozen encoders.
        """
        if use_mixed_precision is not None:
            config = config.model_copy(update={"mixed_precision": "auto" if use_mixed_precision else "no"})
        self.config, self.output = config, Path(output)
        self.checkpoints = checkpoints or self.output.with_name(f".{self.output.name}.checkpoints")
        user_side, statement_side = encoder_sides(config, cache)
        statements_by_user = [[as_statement(s) for s in user.statements] for user in train_data]
        statement_counts = Counter(
            " | ".join(key) for statements in statements_by_user for key in {s.key for s in statements}
        )
        names = (
            sorted({name for user in train_data for name in user.metadata}) if config.use_user_metadata else [],
            sorted({name for statements in statements_by_user for s in statements for name in s.metadata})
            if config.use_item_metadata
            else [],
        )
        self.corpus = Corpus(config, user_side, statement_side, names, dict(statement_counts))
        self._index_by_key: dict[tuple[str, str], int] = {}
        self.pool: list[tuple[int, int, np.ndarray]] = []
        for statement in statement_pool:
            self._pool_index(as_statement(statement))
        train = self._label(train_data)
        num_training_statements = len(self.pool)  # statements of validation users only are not used as negatives
        validation = self._label(eval_data or train_data)
        train_rows = sorted({int(row) for user in train.users for row in user.rows})
        self.lexicon = HashedTfidf.of([user_side.texts[k] for k in train_rows], config.lexical_dim)
        for side in (user_side, statement_side):
            side.index_new_texts(self.lexicon)
        if config.use_attention_pooling and user_side.width % config.attention_heads:
            raise SettingsError(
                f"attention_heads is {config.attention_heads}, which does not divide {user_side.width}, the width of "
                f"{config.user_model_name}."
            )
        torch.manual_seed(config.seed)
        self.model = UniversalUserEmbedding(
            config, (user_side.width, statement_side.width), (self.corpus.user_width, self.corpus.statement_width)
        )
        self._initialise(train, train_rows)
        self.objective = TextObjective(self.model, self.corpus, self.pool, train, validation, num_training_statements)
        self.fitted: FitResult | None = None

    def train(self, curves: Path | None = None) -> FitResult | None:
        """Trains and saves the towers. Returns None without training pairs: the towers then keep their initial weights.

        curves: folder for the figures of the training; by default with the checkpoints, and removed with them.
        """
        run_checkpoints = self.checkpoints / self._digest()
        if len(self.objective.pairs):
            self.fitted = fit(
                self.objective, self.config.training(), run_checkpoints, curves or run_checkpoints / "curves"
            )
        self.model.cpu().eval()
        if self.fitted is None or self.fitted.is_main_process:
            saved_towers.save_towers(self.output, self.model, self.corpus, self.lexicon)
            files.remove(self.checkpoints)
        return self.fitted

    def threshold(self) -> float | None:
        """The cosine from which a statement counts as true, with the best F1 on the validation users.

        None if no validation user has both a text and a statement.
        """
        scores_and_truth = self.objective.validation_scores(self.model)
        return None if scores_and_truth is None else round(best_threshold(*scores_and_truth), 6)

    def _pool_index(self, statement: Statement) -> int:
        """Index of a statement in the pool, where it is added if its key is new."""
        if statement.key not in self._index_by_key:
            self._index_by_key[statement.key] = len(self.pool)
            self.pool.append(self.corpus.statement(statement))
        return self._index_by_key[statement.key]

    def _label(self, data: Sequence[UserData]) -> LabelledUsers:
        statements = [np.unique([self._pool_index(as_statement(s)) for s in user.statements]) for user in data]
        return LabelledUsers(
            [self.corpus.chunked_user(user) for user in data], [indices.astype(np.int64) for indices in statements]
        )

    def _initialise(self, train: LabelledUsers, train_rows: list[int]) -> None:
        """Sets the towers' means and axes, and the scales of numeric features, from the training users."""
        corpus, rows = self.corpus, np.array(train_rows, np.int64)
        statements = np.unique(np.concatenate([np.zeros(0, np.int64), *train.statements]))
        statement_rows = np.unique([self.pool[k][0] for k in statements]).astype(np.int64)
        inputs = []
        for side, side_rows in ((corpus.user_side, rows), (corpus.statement_side, statement_rows)):
            sample = side_rows if side.encoder_vectors is not None else side_rows[:2000]
            encoder_vectors = (
                side.encoder_vectors[sample]
                if side.encoder_vectors is not None
                else side.vectors([side.texts[k] for k in sample])
            )
            words = side.words([sample[k : k + 1] for k in range(len(sample))])
            inputs.append(
                torch.from_numpy(np.concatenate([encoder_vectors.reshape(len(sample), side.width), words], 1))
            )
        self.model.initialise(inputs[0], inputs[1])
        for head, numeric_features in (
            (self.model.user.head, corpus.user_features(train.users)),
            (self.model.item.head, corpus.statement_features([self.pool[k] for k in statements])),
        ):
            if head.standardise is not None and len(numeric_features) > 1:
                head.standardise.fit(torch.from_numpy(numeric_features))

    def _digest(self) -> str:
        """Digest of everything that the trained weights depend on."""
        inputs: list[Any] = [
            self.corpus.user_side.texts,
            self.corpus.statement_side.texts,
            self.objective.pairs.tolist(),
        ]
        inputs += [[(text, context, numeric_features.tolist()) for text, context, numeric_features in self.pool]]
        for labelled in (self.objective.train, self.objective.validation):
            inputs += [[[array.tolist() for array in vars(user).values()] for user in labelled.users]]
            inputs += [[indices.tolist() for indices in labelled.statements]]
        inputs += [encoding.encoder_digest(side.name) for side in (self.corpus.user_side, self.corpus.statement_side)]
        return hashlib.sha256(f"{self.config.model_dump_json()} {inputs}".encode()).hexdigest()[:16]
