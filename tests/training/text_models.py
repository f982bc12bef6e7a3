"""Small text recipes and networks for the tests."""

import torch

from training.config import CellConfig, Recipe, parse_recipe
from training.tasks.classify.network import ClassifyNetwork
from training.tasks.classify.options import ClassifyOptions

TINY_TASK = {
    "kind": "classify",
    "held_out_share": 0.2,
    "validation_share": 0.2,
    "vocabulary_size": 400,
    "embedding_size": 6,
    "ngram_order": 3,
    "ngram_buckets": 1009,
    "ngram_size": 4,
    "head_size": 8,
    "max_train_tokens": 64,
    "token_dropout": 0.1,
    "embedding_dropout": 0.1,
    "ngram_dropout": 0.1,
    "head_dropout": 0.1,
    "prefix_weight": 0.5,
    "baseline": "words 1-2",
}


def tiny_recipe(**fit: object) -> Recipe:
    fields = {
        "name": "tiny-sentiment",
        "version": "1",
        "title": "Tiny sentiment",
        "description": "For tests.",
        "seed": 3,
        "data": {"source": "fine_foods"},
        "task": TINY_TASK,
        "cell": {"kind": "gru", "hidden_size": 8},
        "fit": {"max_epochs": 1, "batch_size": 16, "learning_rate": 0.01} | fit,
    }
    return parse_recipe(fields, "tiny")


def tiny_network(cell: str = "gru", num_layers: int = 1) -> ClassifyNetwork:
    """A random network whose answers depend on everything it reads."""
    torch.manual_seed(5)
    options = ClassifyOptions.model_validate(TINY_TASK)
    config = CellConfig(kind=cell, hidden_size=8, num_layers=num_layers)
    network = ClassifyNetwork(options, config, num_classes=2).eval()
    with torch.no_grad():
        for table in network.bag.tables:
            table.weight.mul_(50)  # a new bag hardly speaks; here it must be heard
        network.calibration.copy_(torch.tensor([-0.3, 0.2, -0.1, 3.0]))
    return network
