"""Trains what a model is compared with, by the model's own recipe. Nothing is kept on disk."""

import tempfile

import pytorch_lightning as pl
import torch

from service.contract.calls import Arrays
from service.contract.characters import Codec
from service.contract.state import StateLayout
from training.evaluate.served_model import ServedModel
from training.export.onnx_graph import graph_spec
from training.fit.lightning_fit import LightningFit
from training.fit.trainer import quieten_lightning
from training.tasks.base import StreamNetwork, Task


def fit_rival(task: Task, network: StreamNetwork, codec: Codec) -> ServedModel:
    """`network`, trained on the batches of `task`; the last of all epochs is kept.

    It is run in torch, which spares an export.
    """
    quieten_lightning()
    config = task.recipe.fit
    batches = task.train_batches(with_validation=False)
    module = LightningFit(task, network, config, len(batches) * config.max_epochs)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=config.max_epochs,
            deterministic="warn",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(module, batches)
    network = network.eval()
    graph = graph_spec(network, task.graph_parts(), "zeros")
    fed = [spec.name for spec in graph.inputs] + [state.input for state in graph.states]
    answered = [spec.name for spec in graph.outputs] + [state.output for state in graph.states]

    def run(feeds: Arrays) -> Arrays:
        with torch.no_grad():
            answers = network(*(torch.tensor(feeds[name]) for name in fed))
        return {name: each.numpy() for name, each in zip(answered, answers, strict=True)}

    return ServedModel(graph, StateLayout(graph.states, schema=graph.state_schema), run, codec)
