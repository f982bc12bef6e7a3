"""What a task is: how data become batches, what is minimised, what is exported, how it is judged.

A task is one module that `tasks/registry.py` names. The rest of the frame (`fit/`, `export/`, the
card) knows nothing of forecasts or texts; it talks to this protocol only.

Order of calls: `network` → (`train_batches`, `loss`)* with (`validation_batches`,
`validation_loss`)* between → `finish` → `graph_parts`, `example_inputs` → `evaluate` →
`manifest_parts`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from service.contract.characters import GenerateSpec
from service.contract.manifest import DataSource, ForecastSpec, TagSpec
from service.contract.tensors import InputSpec, OutputSpec
from service.contract.text import TextSpec
from training.cells.base import Translations
from training.config import Recipe, Section
from training.errors import RecipeError
from training.evaluate.report import Evaluation
from training.evaluate.served_model import ServedModel

Arrays = dict[str, np.ndarray]
Batch = Any
"""Whatever a task's loader yields: tensors, or tuples, lists and dicts of them."""


class StreamNetwork(nn.Module, ABC):
    """A network that is a function of explicit state, so that it can be exported as it is.

    `forward(*inputs, length[B], state[B,S]) → (*outputs, state_out[B,S])`, with inputs and outputs
    in the order of `GraphParts`. It must give a row of length 0 its state back untouched, and may
    use nothing past a row's length.
    """

    @property
    @abstractmethod
    def state_size(self) -> int:
        """S: how many float32 a session carries."""

    @property
    @abstractmethod
    def translations(self) -> Translations:
        """torch operators that the exporter must write as given (usually the stack's)."""

    @abstractmethod
    def prepare_export(self) -> None:
        """Called once on a copy that will only be exported (usually the stack's)."""

    def initial_state(self) -> Tensor:
        """`[S]`, finite: where a session starts."""
        return torch.zeros(self.state_size)


class SequenceLoss(ABC):
    """A loss that can be taken over stretches of a sequence: what truncated BPTT needs."""

    @abstractmethod
    def num_steps(self, batch: Batch) -> int:
        """T."""

    @abstractmethod
    def cut(self, batch: Batch, steps: slice) -> Batch:
        """The same rows, these steps only."""

    @abstractmethod
    def part(
        self, network: StreamNetwork, batch: Batch, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean loss over the steps of `batch`, and the state after them; None: the start."""


@dataclass(frozen=True, slots=True)
class GraphParts:
    """Inputs and outputs of the exported graph, without `length` and the state.

    `state_schema` names what the state means. Two versions may share it only if the state of one
    may be carried to the other.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    state_schema: str


@dataclass(frozen=True, slots=True)
class ManifestParts:
    """What only this kind of task puts in a manifest, and further files of the bundle."""

    weights_licence: str
    weights_note: str
    forecast: ForecastSpec | None = None
    text: TextSpec | None = None
    generate: GenerateSpec | None = None
    tag: TagSpec | None = None
    labels: tuple[str, ...] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


class Task(ABC):
    """One kind of model, bound to a recipe and its data."""

    Options: ClassVar[type[Section]]
    """The `[task]` table of a recipe, `kind` included."""
    served_as: ClassVar[str | None] = None
    """The manifest's task, where it is not the recipe's `kind`."""

    def __init__(self, recipe: Recipe, options: Section, data_path: str | None) -> None:
        """`options` is an instance of `Options`; `data_path` is what `--data` said."""
        self.recipe = recipe
        self.data_path = data_path

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Weight averaging copies the module that holds a task; the data are not copied with it."""
        return self

    @abstractmethod
    def network(self) -> StreamNetwork:
        """A new network; the seed is set by the caller."""

    @abstractmethod
    def train_batches(self, *, with_validation: bool) -> DataLoader[Any]:
        """Training batches; `with_validation` also draws from the validation rows (the refit)."""

    @abstractmethod
    def validation_batches(self) -> DataLoader[Any]:
        """Batches that decide when to stop. Never rows that the card reports on."""

    @abstractmethod
    def loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        """What training minimises."""

    def prepare(self, batch: Batch) -> Batch:
        """What training does to a batch before its loss is taken, such as hiding cells."""
        return batch

    def sequence_loss(self) -> SequenceLoss:
        """The loss in stretches, if this task has one.

        Raises:
            RecipeError: the task learns from whole sequences only.
        """
        raise RecipeError(
            f"fit.window_size: task {self.recipe.kind!r} learns from whole sequences; leave it out"
        )

    def refuse_refit(self) -> None:
        """For tasks that have none.

        Raises:
            RecipeError: the recipe asks for one.
        """
        if self.recipe.fit.refit_on_validation:
            raise RecipeError(
                f"fit.refit_on_validation: task {self.recipe.kind!r} has none; leave it out"
            )

    def validation_loss(self, network: StreamNetwork, batch: Batch) -> Tensor:
        """What early stopping looks at."""
        return self.loss(network, batch)

    def finish(self, network: StreamNetwork, searched: StreamNetwork) -> None:  # noqa: B027 - may do nothing
        """Called once with the trained network, in evaluation mode, before it is saved.

        `searched` is the network of the search phase, which has never trained on validation rows:
        what must be measured on unseen rows, such as calibration, is measured on it. Without a
        refit the two are equal.
        """

    @abstractmethod
    def graph_parts(self) -> GraphParts:
        """Inputs and outputs of the exported graph."""

    def output_scales(self) -> dict[str, float]:
        """Outputs whose values are not of the size of 1, and what size they are of.

        What is verified of them, in export and in service, is verified in parts of that.
        """
        return {}

    @abstractmethod
    def example_inputs(self, num_rows: int, num_steps: int) -> Arrays:
        """Real-looking inputs `[B, T, …]` by name, the same on every call, for verification."""

    @abstractmethod
    def manifest_parts(self) -> ManifestParts:
        """Task-specific fields and files of the bundle."""

    @abstractmethod
    def sources(self) -> tuple[DataSource, ...]:
        """The data that the weights were made from."""

    @abstractmethod
    def evaluate(self, model: ServedModel) -> Evaluation:
        """Judge the exported graph on rows that training never saw."""
