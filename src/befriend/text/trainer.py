"""Trains the two text towers, from users and a pool of statements to a folder that can be used anywhere."""

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
from befriend.text import encoder as encoding
from befriend.text import folder
from befriend.text.corpus import Corpus, sides
from befriend.text.data import Statement, UserData, as_statement
from befriend.text.lexicon import Lexicon
from befriend.text.protocols import best_threshold
from befriend.text.settings import ModelConfig
from befriend.text.towers import UniversalUserEmbedding
from befriend.text.trainee import Known, TextTrainee
from befriend.training.loop import Fitted, fit

CACHE = Path(".cache/text")


class UniversalUserEmbeddingTrainer:
    """The trainer of one model."""

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
        """eval_data: users by whom the best epoch is chosen, by default those of training; statement_pool: more
        statements, for negatives.

        use_mixed_precision: whether to compute in bfloat16 where the device has it; None: as the config says.
        output: the folder to write. checkpoints: where a killed training goes on from; by default beside the output.
        cache: of what frozen encoders have read.
        """
        if use_mixed_precision is not None:
            config = config.model_copy(update={"mixed_precision": "auto" if use_mixed_precision else "no"})
        self.config, self.output = config, Path(output)
        self.checkpoints = checkpoints or self.output.with_name(f".{self.output.name}.checkpoints")
        user_side, item_side = sides(config, cache)
        said = [[as_statement(s) for s in user.statements] for user in train_data]
        common = Counter(" | ".join(key) for own in said for key in {s.key for s in own})
        names = (
            sorted({name for user in train_data for name in user.metadata}) if config.use_user_metadata else [],
            sorted({name for own in said for s in own for name in s.metadata}) if config.use_item_metadata else [],
        )
        self.corpus = Corpus(config, user_side, item_side, names, dict(common))
        self._keys: dict[tuple[str, str], int] = {}
        self.pool: list[tuple[int, int, np.ndarray]] = []
        for statement in statement_pool:
            self._number(as_statement(statement))
        train = self._known(train_data)
        learnable = len(self.pool)  # what is said of users of validation alone is no negative in training
        validation = self._known(eval_data or train_data)
        learned = sorted({int(row) for person in train.people for row in person.rows})
        self.lexicon = Lexicon.of([user_side.texts[k] for k in learned], config.lexical_dim)
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
        self._begin(train, learned)
        self.trainee = TextTrainee(self.model, self.corpus, self.pool, train, validation, learnable)
        self.fitted: Fitted | None = None

    def train(self, curves: Path | None = None) -> Fitted | None:
        """Trains, and writes the folder. None where there is nothing to learn from: then the towers stay as they
        began. curves: the folder to draw; by default beside the checkpoints, and removed with them."""
        kept = self.checkpoints / self._digest()
        if len(self.trainee.pairs):
            self.fitted = fit(self.trainee, self.config.training(), kept, curves or kept / "curves")
        self.model.cpu().eval()
        if self.fitted is None or self.fitted.main:
            folder.save(self.output, self.model, self.corpus, self.lexicon)
            files.remove(self.checkpoints)
        return self.fitted

    def threshold(self) -> float | None:
        """The cosine from which on a statement is called true, best for the users of validation; None without any."""
        found = self.trainee.scored(self.model)
        return None if found is None else round(best_threshold(*found), 6)

    def _number(self, statement: Statement) -> int:
        """Place in the pool; statements that say the same have one."""
        if statement.key not in self._keys:
            self._keys[statement.key] = len(self.pool)
            self.pool.append(self.corpus.statement(statement))
        return self._keys[statement.key]

    def _known(self, data: Sequence[UserData]) -> Known:
        statements = [np.unique([self._number(as_statement(s)) for s in user.statements]) for user in data]
        return Known([self.corpus.person(user) for user in data], [found.astype(np.int64) for found in statements])

    def _begin(self, train: Known, learned: list[int]) -> None:
        """The towers' means, axes and scales, from what there is to learn from."""
        corpus, rows = self.corpus, np.array(learned, np.int64)
        said = np.unique(np.concatenate([np.zeros(0, np.int64), *train.statements]))
        texts = np.unique([self.pool[k][0] for k in said]).astype(np.int64)
        read = []
        for side, chosen in ((corpus.user_side, rows), (corpus.item_side, texts)):
            some = chosen if side.dense is not None else chosen[:2000]
            dense = side.dense[some] if side.dense is not None else side.vectors([side.texts[k] for k in some])
            words = side.words([some[k : k + 1] for k in range(len(some))])
            read.append(torch.from_numpy(np.concatenate([dense.reshape(len(some), side.width), words], 1)))
        self.model.begin(read[0], read[1])
        for head, numbers in (
            (self.model.user.head, corpus.user_numbers(train.people)),
            (self.model.item.head, corpus.item_numbers([self.pool[k] for k in said])),
        ):
            if head.standardise is not None and len(numbers) > 1:
                head.standardise.fit(torch.from_numpy(numbers))

    def _digest(self) -> str:
        """Of all that the outcome depends on."""
        known: list[Any] = [self.corpus.user_side.texts, self.corpus.item_side.texts, self.trainee.pairs.tolist()]
        known += [[(text, context, numbers.tolist()) for text, context, numbers in self.pool]]
        for part in (self.trainee.train, self.trainee.validation):
            known += [[[array.tolist() for array in vars(person).values()] for person in part.people]]
            known += [[own.tolist() for own in part.statements]]
        known += [encoding.digest(side.name) for side in (self.corpus.user_side, self.corpus.item_side)]
        return hashlib.sha256(f"{self.config.model_dump_json()} {known}".encode()).hexdigest()[:16]
