"""The task of writing about a vector, such as the name of the digit in an image.

    steps:  vector  ⏎  s  e  v  e  n          says, from the second step on:  s  e  v  e  n  ⏎

The held-out vectors are those of the data set, and read by `evaluate` only.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from service.contract.characters import CharacterCodec, GenerateSpec
from service.contract.manifest import DataSource
from service.contract.tensors import InputSpec
from training.config import Recipe
from training.data.dataset import find_dataset
from training.data.sets.digits import NamedVectors, NamedVectorSet
from training.errors import DataError, RecipeError
from training.evaluate.captioning import evaluate_captioner
from training.evaluate.report import Evaluation
from training.evaluate.served_model import ServedModel
from training.tasks.base import Arrays, Batch, GraphParts, ManifestParts, StreamNetwork, Task
from training.tasks.caption.network import CaptionNetwork
from training.tasks.caption.options import CaptionOptions
from training.tasks.character_parts import TOKENS, logits_of
from training.tasks.stack_network import UNSAID, log_loss


class CaptionTask(Task):
    """A model that writes the names of vectors, bound to a recipe and its data."""

    Options = CaptionOptions
    served_as = "generate"

    def __init__(self, recipe: Recipe, options: CaptionOptions, data_path: str | None) -> None:
        super().__init__(recipe, options, data_path)
        dataset = find_dataset(recipe.data.source)
        if not isinstance(dataset, NamedVectorSet):
            raise RecipeError(
                f"data.source {recipe.data.source!r} does not hold named vectors; task 'caption'"
                " needs some, such as 'digits'"
            )
        self.refuse_refit()
        self.options = options
        self._dataset = dataset

    def network(self) -> CaptionNetwork:
        spec, columns = self._codec.spec, self.data.columns
        return CaptionNetwork(self.recipe.cell, len(columns), len(spec.characters), self.options)

    def train_batches(self, *, with_validation: bool) -> DataLoader[Any]:
        assert not with_validation  # refused above
        rows = self._tensors(slice(0, self._num_trained))
        return DataLoader(rows, batch_size=self.recipe.fit.batch_size, shuffle=True)

    def validation_batches(self) -> DataLoader[Any]:
        return DataLoader(self._tensors(slice(self._num_trained, None)), batch_size=256)

    def prepare(self, batch: Batch) -> Batch:
        """Adds noise to the values."""
        vectors, tokens, said = batch
        return vectors + self.options.noise * torch.randn_like(vectors), tokens, said

    def loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        return self.validation_loss(network, self.prepare(batch))

    def validation_loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        assert isinstance(network, CaptionNetwork)
        vectors, tokens, said = batch
        logits, _ = network.logits((tokens, self._placed(vectors, tokens.shape[1])), None, None)
        return log_loss(logits, said)

    def graph_parts(self) -> GraphParts:
        recipe, size = self.recipe, len(self._codec.spec.characters)
        num_values = len(self.data.columns)
        x = InputSpec(name="x", dtype="float32", shape=("batch", "time", num_values), role="x")
        schema = f"{recipe.name}/{recipe.version}/{recipe.cell.kind}/caption-network/1"
        return GraphParts((TOKENS, x), (logits_of(size),), schema)

    def example_inputs(self, num_rows: int, num_steps: int) -> Arrays:
        """Vectors and the texts about them, one behind the other, each row from another one on."""
        vectors, tokens, _ = self._tensors(slice(0, 50)).tensors
        streams = np.full((50, tokens.shape[1], 1 + vectors.shape[1]), np.nan, np.float32)
        streams[:, :, 0] = tokens.numpy()
        streams[:, 0, 1:] = vectors.numpy()
        flat = streams.reshape(-1, streams.shape[2])
        places = (np.arange(num_rows)[:, None] * tokens.shape[1] + np.arange(num_steps)) % len(flat)
        found = flat[places]
        return {"tokens": found[..., 0].astype(np.int64), "x": found[..., 1:].copy()}

    def manifest_parts(self) -> ManifestParts:
        is_ours = self.data_path is None
        return ManifestParts(
            weights_licence="Apache-2.0, as the project" if is_ours else "not decided",
            weights_note=(
                "The data's BSD licence allows training, use and sale with its notice kept."
                if is_ours
                else "Whoever shares these weights must look up the licence of the data."
            ),
            generate=self._codec.spec,
        )

    def sources(self) -> tuple[DataSource, ...]:
        return (self._dataset.source_of(self.data, self.data_path),)

    def evaluate(self, model: ServedModel) -> Evaluation:
        return evaluate_captioner(model, self.data)

    @cached_property
    def data(self) -> NamedVectors:
        data = self._dataset.load(self.data_path)
        if not 0 < round(len(data.names) * (1 - self.options.validation_share)) < len(data.names):
            raise DataError(
                f"{len(data.names)} vectors are too few to train on and to validate by; expected at"
                " least some hundred"
            )
        return data

    @property
    def _num_trained(self) -> int:
        return round(len(self.data.names) * (1 - self.options.validation_share))

    @cached_property
    def _codec(self) -> CharacterCodec:
        end = self.options.end
        characters = sorted(set("".join(self.data.names)))
        if end in characters:
            raise RecipeError(f"task.end {end!r}: expected a character that is in no name")
        return CharacterCodec(
            GenerateSpec(
                characters="".join([end, *characters]),
                start=end,
                end=end,
                language=self._dataset.language,
                columns=self.data.columns,
            )
        )

    def _tensors(self, part: slice) -> TensorDataset:
        """`vectors[N,F]`, `tokens[N,T]` and `said[N,T]`, padded; the first step is the vector's."""
        end, encode = self.options.end, self._codec.encode
        names = self.data.names[part]
        longest = max(len(name) for name in self.data.names) + 2
        tokens = torch.zeros(len(names), longest, dtype=torch.int64)
        said = torch.full((len(names), longest), UNSAID)
        for row, name in enumerate(names):
            tokens[row, 1 : len(name) + 2] = torch.tensor(encode(end + name))
            said[row, 1 : len(name) + 2] = torch.tensor(encode(name + end))
        return TensorDataset(torch.from_numpy(self.data.vectors[part]), tokens, said)

    @staticmethod
    def _placed(vectors: Tensor, num_steps: int) -> Tensor:
        """`vectors[B,F]` → `x[B,T,F]`: at the first step, and NaN behind it."""
        x = vectors.new_full((len(vectors), num_steps, vectors.shape[1]), float("nan"))
        x[:, 0] = vectors
        return x


TASK = CaptionTask
