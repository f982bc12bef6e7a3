"""The task of writing on: at every step, which character comes next.

    characters: |------ training ------|-- validation --|-- held out --|

Training sequences begin anywhere; the held-out tail is read by `evaluate` only.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from service.contract.characters import CharacterCodec, GenerateSpec
from service.contract.errors import TextError
from service.contract.manifest import DataSource
from training.config import Recipe, Section
from training.data.dataset import find_dataset
from training.data.plain_text import PlainText
from training.errors import DataError, RecipeError
from training.evaluate.generation import evaluate_generator
from training.evaluate.report import Evaluation
from training.evaluate.served_model import ServedModel
from training.tasks.base import (
    Arrays,
    Batch,
    GraphParts,
    ManifestParts,
    StreamNetwork,
    Task,
)
from training.tasks.character_parts import TOKENS, logits_of
from training.tasks.generate.network import GenerateNetwork
from training.tasks.generate.options import GenerateOptions
from training.tasks.stack_network import EveryStepLoss


class GenerateTask(Task):
    """A language model of characters, bound to a recipe and one text."""

    Options = GenerateOptions

    def __init__(self, recipe: Recipe, options: Section, data_path: str | None) -> None:
        super().__init__(recipe, options, data_path)
        assert isinstance(options, GenerateOptions)
        dataset = find_dataset(recipe.data.source)
        if not isinstance(dataset, PlainText):
            raise RecipeError(
                f"data.source {recipe.data.source!r} is not one text; task 'generate' needs one,"
                " such as 'shakespeare'"
            )
        self.refuse_refit()
        self._options = options
        self._dataset = dataset

    def network(self) -> GenerateNetwork:
        options, size = self._options, len(self._codec.spec.characters)
        return GenerateNetwork(self.recipe.cell, size, options.embedding_size, options.dropout)

    def train_batches(self, *, with_validation: bool) -> DataLoader[Any]:
        assert not with_validation  # refused above
        rows = Passages(self._parts[0], self._options.sequence_steps, moves=True)
        return DataLoader(rows, batch_size=self.recipe.fit.batch_size, shuffle=True)

    def validation_batches(self) -> DataLoader[Any]:
        part = self._parts[1] if len(self._parts[1]) else self._parts[0]
        rows = Passages(part, self._options.sequence_steps, moves=False)
        return DataLoader(rows, batch_size=self.recipe.fit.batch_size)

    def loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        return self.sequence_loss().part(network, batch, None)[0]

    def sequence_loss(self) -> EveryStepLoss:
        return EveryStepLoss()

    def graph_parts(self) -> GraphParts:
        recipe, size = self.recipe, len(self._codec.spec.characters)
        schema = f"{recipe.name}/{recipe.version}/{recipe.cell.kind}/generate-network/1"
        return GraphParts((TOKENS,), (logits_of(size),), schema)

    def example_inputs(self, num_rows: int, num_steps: int) -> Arrays:
        """The text from its start on, as often as it takes."""
        return {"tokens": np.resize(self._parts[0], (num_rows, num_steps)).astype(np.int64)}

    def manifest_parts(self) -> ManifestParts:
        return ManifestParts(
            weights_licence=self._dataset.weights_licence,
            weights_note=self._dataset.weights_note,
            generate=self._codec.spec,
        )

    def sources(self) -> tuple[DataSource, ...]:
        path = self._dataset.locate(self.data_path)
        return (self._dataset.source(path, len(self._text)),)

    def evaluate(self, model: ServedModel) -> Evaluation:
        known, held_out = np.concatenate(self._parts[:2]), self._parts[2]
        return evaluate_generator(model, known, held_out, self._options.ngram_order)

    @cached_property
    def _text(self) -> str:
        text, options = self._dataset.read(self._dataset.locate(self.data_path)), self._options
        alphabet = options.characters or "".join(sorted(set(text)))
        for option, wanted in (("start", options.start), ("end", options.end or "")):
            strangers = sorted(set(wanted) - set(alphabet))
            if strangers:
                where = "task.characters" if options.characters else "the characters of the text"
                raise DataError(
                    f"task.{option} {wanted!r} holds {strangers}, which are not in {where}:"
                    f" expected some of {alphabet[:100]!r}; set task.{option} to such, or"
                    " task.characters to an alphabet that holds them"
                )
        return text

    @cached_property
    def _codec(self) -> CharacterCodec:
        options = self._options
        return CharacterCodec(
            GenerateSpec(
                characters=options.characters or "".join(sorted(set(self._text))),
                start=options.start,
                end=options.end,
                language=self._dataset.language,
            )
        )

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        """Tokens of training, validation and held-out text."""
        try:
            tokens = np.array(self._codec.encode(self._text))
        except TextError as error:
            raise DataError(f"task.characters: {error}") from None
        shares = np.array([self._options.validation_share, self._options.held_out_share])
        after = len(tokens) - np.round(np.cumsum(shares[::-1])[::-1] * len(tokens)).astype(int)
        return np.split(tokens, after)


class Passages(TorchDataset[tuple[Tensor, Tensor]]):
    """Passages `(read[T], next[T])` that cover a text; with `moves` they begin anywhere."""

    def __init__(self, tokens: np.ndarray, num_steps: int, *, moves: bool) -> None:
        self._tokens = torch.from_numpy(tokens)
        self._num_steps = min(num_steps, len(tokens) - 1)
        self._moves = moves

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._num_steps

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start, last = index * self._num_steps, len(self._tokens) - self._num_steps - 1
        if self._moves:
            start = min(start + int(torch.randint(self._num_steps, ())), last)
        passage = self._tokens[start : start + self._num_steps + 1]
        return passage[:-1], passage[1:]


TASK = GenerateTask
