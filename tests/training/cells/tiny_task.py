"""The smallest task around a stack of cells: two columns in, tomorrow's first column out."""

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from service.contract.manifest import DataSource, ForecastSpec
from service.contract.tensors import InputSpec, OutputSpec
from training.cells.base import RecurrentStack
from training.config import parse_recipe
from training.tasks.base import GraphParts, ManifestParts, StreamNetwork, Task

NUM_COLUMNS = 2


class TinyNetwork(StreamNetwork):
    def __init__(self, cell):
        super().__init__()
        self.stack = RecurrentStack(cell, NUM_COLUMNS)
        self.head = torch.nn.Linear(cell.hidden_size, 1)

    @property
    def state_size(self):
        return self.stack.state_size

    @property
    def translations(self):
        return self.stack.translations

    def initial_state(self):
        return self.stack.initial_state()

    def prepare_export(self):
        self.stack.prepare_export()

    def forward(self, x, length, state):
        hidden, state = self.stack(x, length, state)
        mean = self.head(hidden)
        return mean, mean.unsqueeze(3), state


class TinyTask(Task):
    """Twelve waves of twenty steps."""

    def network(self):
        return TinyNetwork(self.recipe.cell)

    def train_batches(self, *, with_validation):
        x = torch.from_numpy(self.example_inputs(12, 20)["x"])
        return DataLoader(TensorDataset(x[:, :-1], x[:, 1:, :1]), batch_size=3)

    def validation_batches(self):
        return self.train_batches(with_validation=False)

    def loss(self, network, batch):
        x, truth = batch
        start = network.initial_state().expand(len(x), -1)
        full = torch.full((len(x),), x.shape[1])
        return torch.nn.functional.mse_loss(network(x, full, start)[0], truth)

    def graph_parts(self):
        wide = ("batch", "time", NUM_COLUMNS)
        answer, levels = ("batch", "time", 1), ("batch", "time", 1, 1)
        return GraphParts(
            inputs=(InputSpec(name="x", dtype="float32", shape=wide, role="x"),),
            outputs=(
                OutputSpec(name="mean", dtype="float32", shape=answer, role="mean"),
                OutputSpec(name="quantiles", dtype="float32", shape=levels, role="quantiles"),
            ),
            state_schema=f"tiny/1 {self.recipe.name}",
        )

    def example_inputs(self, num_rows, num_steps):
        rng = np.random.default_rng(8)
        phase = rng.uniform(0, 6, (num_rows, 1, 1)) + 0.7 * np.arange(num_steps)[:, None]
        x = np.sin(phase * (1, 1.7)) + 0.1 * rng.normal(size=(num_rows, num_steps, NUM_COLUMNS))
        return {"x": x.astype(np.float32)}

    def manifest_parts(self):
        return ManifestParts(
            weights_licence="Apache-2.0",
            weights_note="",
            forecast=ForecastSpec(
                columns=(
                    {"name": "wave", "role": "target"},
                    {"name": "other", "role": "past"},
                ),
                frequency="P1D",
                frequency_s=86_400,
                horizon=1,
                quantiles=(0.5,),
                context_steps=3,
            ),
        )

    def sources(self):
        return (DataSource(name="waves", sha256="0" * 64, rows=240, licence="MIT"),)

    def evaluate(self, model):
        raise NotImplementedError


def tiny_task(kind, options, name, hidden_size=4, num_layers=1, residual=False, **fit):
    fields = {
        "name": name,
        "version": "1",
        "title": "Tiny",
        "description": "For tests.",
        "seed": 3,
        "data": {"source": "waves"},
        "task": {"kind": "forecast"},
        "cell": {
            "kind": kind,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "residual": residual,
            "options": options,
        },
        "fit": {"max_epochs": 1, "batch_size": 3, "learning_rate": 0.01} | fit,
    }
    recipe = parse_recipe(fields, "tiny")
    return TinyTask(recipe, recipe.cell, None)
