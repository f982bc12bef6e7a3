"""The task of writing what a text becomes, such as the ISO form of a spelled date.

    read, a character each:  the third of march 2019=      written:  2019-03-03⏎

To the service it is a model that writes (`generate`): who reads it a text with its mark may have it
write on. Pairs are divided by what is written, so that no answer of the held-out pairs was ever
seen: of a hundred answers, 80 are trained on, 10 decide what is kept, 10 are for the card.
"""

import zlib
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from service.contract.characters import CharacterCodec, GenerateSpec
from service.contract.manifest import DataSource
from training.config import Recipe
from training.data.dataset import find_dataset
from training.data.text_pairs import Pair, TextPairs
from training.errors import DataError, RecipeError
from training.evaluate.report import Evaluation
from training.evaluate.served_model import ServedModel
from training.evaluate.translation import evaluate_translator
from training.fit.rival import fit_rival
from training.tasks.base import (
    Arrays,
    Batch,
    GraphParts,
    ManifestParts,
    StreamNetwork,
    Task,
)
from training.tasks.character_parts import TOKENS, logits_of
from training.tasks.stack_network import UNSAID, log_loss
from training.tasks.translate.network import Marks, TranslateNetwork
from training.tasks.translate.options import TranslateOptions


class TranslateTask(Task):
    """An encoder and decoder, bound to a recipe and its pairs of texts."""

    Options = TranslateOptions
    served_as = "generate"

    def __init__(self, recipe: Recipe, options: TranslateOptions, data_path: str | None) -> None:
        super().__init__(recipe, options, data_path)
        dataset = find_dataset(recipe.data.source)
        if not isinstance(dataset, TextPairs):
            raise RecipeError(
                f"data.source {recipe.data.source!r} does not hold pairs of texts; task 'translate'"
                " needs some, such as 'dates'"
            )
        self.refuse_refit()
        if recipe.cell.kind != "gru" or recipe.cell.num_layers != 1:
            raise RecipeError(
                "cell: task 'translate' has one GRU that reads and one that writes; expected kind"
                f" 'gru' and one layer, got {recipe.cell.kind!r} and {recipe.cell.num_layers}"
            )
        cell = recipe.cell
        if cell.dropout or cell.residual or cell.options:
            raise RecipeError(
                "cell: task 'translate' makes its GRUs without cell.dropout, cell.residual and"
                f" [cell.options], got {cell.dropout}, {cell.residual} and {cell.options}: leave"
                " them out; task.dropout is its own"
            )
        self.options = options
        self._dataset = dataset

    def network(self) -> TranslateNetwork:
        return self._network(attends=True)

    def _network(self, *, attends: bool) -> TranslateNetwork:
        options, codec = self.options, self._codec
        [mark, end] = codec.encode(options.mark + options.end)
        return TranslateNetwork(
            len(codec.spec.characters),
            Marks(mark, end),
            options.embedding_size,
            self.recipe.cell.hidden_size,
            options.memory_steps,
            options.dropout,
            attends=attends,
        )

    def train_batches(self, *, with_validation: bool) -> DataLoader[Any]:
        assert not with_validation  # refused above
        rows = self._tensors(self.parts[0])
        return DataLoader(rows, batch_size=self.recipe.fit.batch_size, shuffle=True)

    def validation_batches(self) -> DataLoader[Any]:
        return DataLoader(self._tensors(self.parts[1]), batch_size=256)

    def loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        assert isinstance(network, TranslateNetwork)
        source, length, read, said = batch
        return log_loss(network.teach(source, length, read), said)

    def graph_parts(self) -> GraphParts:
        recipe, size = self.recipe, len(self._codec.spec.characters)
        schema = f"{recipe.name}/{recipe.version}/translate-network/1"
        return GraphParts((TOKENS,), (logits_of(size),), schema)

    def example_inputs(self, num_rows: int, num_steps: int) -> Arrays:
        """Whole pairs, one behind the other, each row from another one on."""
        pairs = self.parts[0][:200]
        texts = [f"{p.source}{self.options.mark}{p.target}{self.options.end}" for p in pairs]
        rows = []
        for row in range(num_rows):
            stream = self._codec.encode("".join(texts[row % len(texts) :] + texts))
            rows.append(np.resize(stream, num_steps))
        return {"tokens": np.stack(rows).astype(np.int64)}

    def manifest_parts(self) -> ManifestParts:
        is_ours = self.data_path is None
        return ManifestParts(
            weights_licence="Apache-2.0, as the project" if is_ours else "not decided",
            weights_note="" if is_ours else "Whoever shares these weights must look up the data's.",
            generate=self._codec.spec,
        )

    def sources(self) -> tuple[DataSource, ...]:
        return (self._dataset.source_of(self._pairs, self.data_path),)

    def evaluate(self, model: ServedModel) -> Evaluation:
        """Beside it, the same network without attention, trained by the same recipe."""
        pl.seed_everything(self.recipe.seed, workers=True, verbose=False)
        plain = fit_rival(self, self._network(attends=False), self._codec)
        return evaluate_translator(model, plain, self.parts[2], self.options.mark)

    @cached_property
    def _pairs(self) -> list[Pair]:
        return self._dataset.pairs(self.data_path)

    @cached_property
    def parts(self) -> list[list[Pair]]:
        """Pairs of training, validation and held out."""
        parts: list[list[Pair]] = [[], [], []]
        for pair in self._pairs:
            share = zlib.crc32(pair.target.encode()) % 100
            parts[0 if share < 80 else 1 if share < 90 else 2].append(pair)
        if not all(parts):
            raise DataError(
                f"{len(self._pairs)} pairs are too few: {[len(part) for part in parts]} are left"
                " to train on, to validate and to judge by; expected at least some hundred"
            )
        longest = max(len(pair.source) for pair in self._pairs)
        if longest > self.options.memory_steps:
            raise RecipeError(
                f"task.memory_steps is {self.options.memory_steps}: the longest text that is read"
                f" has {longest} characters"
            )
        return parts

    @cached_property
    def _codec(self) -> CharacterCodec:
        options = self.options
        found = {c for pair in self._pairs for c in pair.source + pair.target}
        taken = sorted(found & {options.mark, options.end})
        if taken or options.mark == options.end:
            raise RecipeError(
                f"task.mark {options.mark!r} and task.end {options.end!r}: expected two characters"
                f" that are in none of the texts, which hold {taken}"
            )
        return CharacterCodec(
            GenerateSpec(
                characters="".join([options.end, options.mark, *sorted(found)]),
                start=options.end,
                end=options.end,
                language=self._dataset.language,
            )
        )

    def _tensors(self, pairs: list[Pair]) -> TensorDataset:
        """`source[N,S]`, `length[N]`, `read[N,T]` and `said[N,T]`, padded."""
        options, encode = self.options, self._codec.encode
        sources = [encode(pair.source) for pair in pairs]
        read = [encode(options.mark + pair.target) for pair in pairs]
        said = [encode(pair.target + options.end) for pair in pairs]
        length = torch.tensor([len(tokens) for tokens in sources])
        return TensorDataset(_padded(sources, 0), length, _padded(read, 0), _padded(said, UNSAID))


def _padded(rows: list[list[int]], value: int) -> Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


TASK = TranslateTask
