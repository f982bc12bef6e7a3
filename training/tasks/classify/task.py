"""Classify texts, with an answer after every token."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from service.contract.manifest import DataSource
from service.contract.tensors import InputSpec, OutputSpec
from service.contract.text import PIECE_RULE, TextCodec, TextSpec
from training.config import Recipe, Section
from training.data.dataset import find_dataset
from training.data.labelled_texts import LabelledTexts, Part, TextDataset, divide
from training.data.text_batches import (
    LikeLengthBatches,
    ShuffledRows,
    TextBatch,
    TokenRows,
)
from training.data.tokenizer import NONE_TOKEN, START_TOKEN, train_tokenizer
from training.errors import DataError, RecipeError
from training.evaluate.classification import evaluate_classifier
from training.evaluate.report import Evaluation
from training.evaluate.served_model import ServedModel
from training.tasks.base import Arrays, GraphParts, ManifestParts, StreamNetwork, Task
from training.tasks.classify.calibration import fit_calibration
from training.tasks.classify.network import ClassifyNetwork
from training.tasks.classify.options import ClassifyOptions

_TOKENIZER_FILE = "tokenizer.json"
_VALIDATION_ROWS = 64


class ClassifyTask(Task):
    """One text classifier, bound to a recipe and a data set of labelled texts."""

    Options = ClassifyOptions

    def __init__(self, recipe: Recipe, options: Section, data_path: str | None) -> None:
        super().__init__(recipe, options, data_path)
        assert isinstance(options, ClassifyOptions)
        dataset = find_dataset(recipe.data.source)
        if not isinstance(dataset, TextDataset):
            raise RecipeError(
                f"data.source {recipe.data.source!r} has no texts; task 'classify' needs a data set"
                " of labelled texts, such as 'fine_foods'"
            )
        if recipe.fit.refit_on_validation:
            raise RecipeError(
                "fit.refit_on_validation: a classifier is calibrated on its validation texts, so"
                " it may not be trained on them; leave it out"
            )
        self._options = options
        self._dataset = dataset

    def network(self) -> ClassifyNetwork:
        return ClassifyNetwork(self._options, self.recipe.cell, len(self._dataset.labels))

    def train_batches(self, *, with_validation: bool) -> DataLoader[Any]:
        assert not with_validation  # refused above
        rows = TokenRows(self._parts["training"], self._codec, self._options.max_train_tokens)
        batches = LikeLengthBatches(ShuffledRows(rows), self.recipe.fit.batch_size, drop_last=False)
        return DataLoader(rows, batch_sampler=batches, collate_fn=rows.batch)

    def validation_batches(self) -> DataLoader[Any]:
        part = self._parts["validation"]
        by_length = part.take(np.argsort([len(text) for text in part.texts], kind="stable"))
        rows = TokenRows(by_length, self._codec, max_tokens=None)
        return DataLoader(rows, batch_size=_VALIDATION_ROWS, collate_fn=rows.batch)

    def loss(self, network: StreamNetwork, batch: TextBatch) -> Tensor:
        """Log loss after the whole text, averaged with that after a random prefix of it."""
        assert isinstance(network, ClassifyNetwork)
        tokens, length, label = batch
        prefix = (torch.rand(len(length), device=length.device) * length).long()
        logits, _ = network.logits(tokens, length, torch.stack([length - 1, prefix], dim=1))
        smoothing = self._options.label_smoothing
        whole, early = (
            nn.functional.cross_entropy(logits[:, n], label, label_smoothing=smoothing)
            for n in (0, 1)
        )
        weight = self._options.prefix_weight
        return (whole + weight * early) / (1 + weight)

    def validation_loss(self, network: StreamNetwork, batch: TextBatch) -> Tensor:
        """Log loss after the whole text."""
        assert isinstance(network, ClassifyNetwork)
        tokens, length, label = batch
        logits, _ = network.logits(tokens, length, (length - 1).unsqueeze(1))
        return nn.functional.cross_entropy(logits[:, 0], label)

    def finish(self, network: StreamNetwork, searched: StreamNetwork) -> None:
        assert isinstance(network, ClassifyNetwork)
        fit_calibration(network, self.validation_batches())

    def graph_parts(self) -> GraphParts:
        recipe = self.recipe
        tokens = InputSpec(name="tokens", dtype="int64", shape=("batch", "time"), role="tokens")
        answer = OutputSpec(
            name="probabilities",
            dtype="float32",
            shape=("batch", "time", len(self._dataset.labels)),
            role="probabilities",
        )
        # Hidden features mean something to the very weights that made them, and to no others.
        schema = f"{recipe.name}/{recipe.version}/{recipe.cell.kind}/classify-network/1"
        return GraphParts((tokens,), (answer,), schema)

    def example_inputs(self, num_rows: int, num_steps: int) -> Arrays:
        """Training texts, one after the other until every row is full."""
        texts = self._parts["training"].texts
        rows = np.full((num_rows, num_steps), NONE_TOKEN, dtype=np.int64)
        place = 0
        for row in rows:
            tokens = [START_TOKEN]
            while len(tokens) < num_steps:
                tokens += self._codec.encode(texts[place % len(texts)])[1:]
                place += 1
            row[:] = tokens[:num_steps]
        return {"tokens": rows}

    def manifest_parts(self) -> ManifestParts:
        text = TextSpec(
            tokenizer=_TOKENIZER_FILE,
            piece_rule=PIECE_RULE,
            start_token=START_TOKEN,
            vocabulary_size=self._options.vocabulary_size,
            language=self._dataset.language,
        )
        return ManifestParts(
            weights_licence=self._dataset.weights_licence,
            weights_note=self._dataset.weights_note,
            text=text,
            labels=self._dataset.labels,
            files={_TOKENIZER_FILE: self._tokenizer.encode()},
        )

    def sources(self) -> tuple[DataSource, ...]:
        path = self._dataset.locate(self.data_path)
        return (self._dataset.source(path, len(self._texts)),)

    def evaluate(self, model: ServedModel) -> Evaluation:
        return evaluate_classifier(model, self._parts, self._dataset.labels, self._options.baseline)

    @cached_property
    def _texts(self) -> LabelledTexts:
        return self._dataset.read(self._dataset.locate(self.data_path))

    @cached_property
    def _parts(self) -> dict[Part, LabelledTexts]:
        parts = divide(self._texts, self._options.held_out_share, self._options.validation_share)
        empty = [name for name, part in parts.items() if not len(part)]
        if empty:
            raise DataError(
                f"{len(self._texts)} texts are too few: none is left for the part"
                f" {' and the part '.join(empty)}; expected at least some hundred"
            )
        return parts

    @cached_property
    def _tokenizer(self) -> str:
        return train_tokenizer(self._parts["training"].texts, self._options.vocabulary_size)

    @cached_property
    def _codec(self) -> TextCodec:
        return TextCodec(self._tokenizer, START_TOKEN)


TASK = ClassifyTask
