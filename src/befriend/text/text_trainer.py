"""Trains the two text towers: from users and a pool of statements to a folder that works on its own."""

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
from befriend.text import saved_towers as folder
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
    """Prepares, trains and saves one model."""

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
        """eval_data: users by whom the best epoch is chosen, by default the training users; statement_pool: more
        statements, for negatives.

        use_mixed_precision: whether to compute in bfloat16 where the device has it; None: as the config says.
        output: the folder to write. checkpoints: where a killed training resumes from; by default beside the output.
        cache: folder of the vectors from frozen encoders.
        """
        if use_mixed_precision is not None:
            config = config.model_copy(update={"mixed_precision": "auto" if use_mixed_precision else "no"})
        self.config, self.output = config, Path(output)
        self.checkpoints = checkpoints or self.output.with_name(f".{self.output.name}.checkpoints")
        user_side, item_side = encoder_sides(config, cache)
        statements_by_user = [[as_statement(s) for s in user.statements] for user in train_data]
        common = Counter(" | ".join(key) for statements in statements_by_user for key in {s.key for s in statements})
        names = (
            sorted({name for user in train_data for name in user.metadata}) if config.use_user_metadata else [],
            sorted({name for statements in statements_by_user for s in statements for name in s.metadata})
            if config.use_item_metadata
            else [],
        )
        self.corpus = Corpus(config, user_side, item_side, names, dict(common))
        self._index_of_key: dict[tuple[str, str], int] = {}
        self.pool: list[tuple[int, int, np.ndarray]] = []
        for statement in statement_pool:
            self._index(as_statement(statement))
        train = self._labelled(train_data)
        learnable = len(self.pool)  # statements of validation users alone are no negatives in training
        validation = self._labelled(eval_data or train_data)
        train_rows = sorted({int(row) for user in train.people for row in user.rows})
        self.lexicon = HashedTfidf.of([user_side.texts[k] for k in train_rows], config.lexical_dim)
        for side in (user_side, item_side):
            side.read(self.lexicon)
        if config.use_attention_pooling and user_side.width % config.attention_heads:
            raise SettingsError(
                f"attention_heads is {config.attention_heads}, which does not divide {user_side.width}, the width of "
                f"{config.user_model_name}."
            )
        torch.manual_seed(config.seed)
        self.model = UniversalUserEmbedding(
            config, (user_side.width, item_side.width), (self.corpus.user_width, self.corpus.item_width)
        )
        self._initialise(train, train_rows)
        self.objective = TextObjective(self.model, self.corpus, self.pool, train, validation, learnable)
        self.fitted: FitResult | None = None

    def train(self, curves: Path | None = None) -> FitResult | None:
        """Trains, and writes the folder. None where there is nothing to learn from: then the towers keep their initial
        weights. curves: the folder to draw; by default beside the checkpoints, and removed with them."""
        run_checkpoints = self.checkpoints / self._digest()
        if len(self.objective.pairs):
            self.fitted = fit(
                self.objective, self.config.training(), run_checkpoints, curves or run_checkpoints / "curves"
            )
        self.model.cpu().eval()
        if self.fitted is None or self.fitted.main:
            folder.save_towers(self.output, self.model, self.corpus, self.lexicon)
            files.remove(self.checkpoints)
        return self.fitted

    def threshold(self) -> float | None:
        """The cosine from which a statement counts as true, best for the validation users; None without any."""
        scores_and_truth = self.objective.scored(self.model)
        return None if scores_and_truth is None else round(best_threshold(*scores_and_truth), 6)

    def _index(self, statement: Statement) -> int:
        """Index of a statement in the pool; statements with equal keys share it."""
        if statement.key not in self._index_of_key:
            self._index_of_key[statement.key] = len(self.pool)
            self.pool.append(self.corpus.statement(statement))
        return self._index_of_key[statement.key]

    def _labelled(self, data: Sequence[UserData]) -> LabelledUsers:
        statements = [np.unique([self._index(as_statement(s)) for s in user.statements]) for user in data]
        return LabelledUsers(
            [self.corpus.person(user) for user in data], [indices.astype(np.int64) for indices in statements]
        )

    def _initialise(self, train: LabelledUsers, train_rows: list[int]) -> None:
        """Sets the towers' means and axes and the scales of their numbers, from the training users."""
        corpus, rows = self.corpus, np.array(train_rows, np.int64)
        statements = np.unique(np.concatenate([np.zeros(0, np.int64), *train.statements]))
        statement_rows = np.unique([self.pool[k][0] for k in statements]).astype(np.int64)
        inputs = []
        for side, side_rows in ((corpus.user_side, rows), (corpus.item_side, statement_rows)):
            sample = side_rows if side.dense is not None else side_rows[:2000]
            dense = side.dense[sample] if side.dense is not None else side.vectors([side.texts[k] for k in sample])
            words = side.words([sample[k : k + 1] for k in range(len(sample))])
            inputs.append(torch.from_numpy(np.concatenate([dense.reshape(len(sample), side.width), words], 1)))
        self.model.begin(inputs[0], inputs[1])
        for head, numbers in (
            (self.model.user.head, corpus.user_numbers(train.people)),
            (self.model.item.head, corpus.item_numbers([self.pool[k] for k in statements])),
        ):
            if head.standardise is not None and len(numbers) > 1:
                head.standardise.fit(torch.from_numpy(numbers))

    def _digest(self) -> str:
        """Fingerprint of everything that the result depends on."""
        inputs: list[Any] = [self.corpus.user_side.texts, self.corpus.item_side.texts, self.objective.pairs.tolist()]
        inputs += [[(text, context, numbers.tolist()) for text, context, numbers in self.pool]]
        for labelled in (self.objective.train, self.objective.validation):
            inputs += [[[array.tolist() for array in vars(user).values()] for user in labelled.people]]
            inputs += [[indices.tolist() for indices in labelled.statements]]
        inputs += [encoding.encoder_digest(side.name) for side in (self.corpus.user_side, self.corpus.item_side)]
        return hashlib.sha256(f"{self.config.model_dump_json()} {inputs}".encode()).hexdigest()[:16]
