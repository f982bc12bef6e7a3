"""From the bytes of a bundle to a model that is ready to run: opened, verified and warmed up.

The process that tries bundles out imports this, so it stands on little.
"""

import numpy as np

from service.contract.bundle import Bundle
from service.contract.calls import ObservationLayout
from service.contract.errors import ContractError
from service.contract.golden import check_golden
from service.contract.text import TextCodec
from service.engine.graph.runner import Runner, check_signature, open_ort_session
from service.engine.graph.tensor_runner import TensorRunner
from service.engine.graph.vector_runner import VectorRunner
from service.engine.models.loaded_model import LoadedModel

_WARM_UP_ROWS = (1, 8, 32, 128)


def load_model(
    bundle: Bundle, provider: str = "cpu", num_threads: int = 1, *, is_checked: bool = False
) -> LoadedModel:
    """Open the graph, compare it with the manifest, reproduce the golden run, warm it up.

    The golden run, and the trial of the tokenizer, are left out where it `is_checked`: a process
    of the `Verifier` has made them with the same bytes.

    Raises:
        ContractError: with what was expected and what was found.
    """
    manifest = bundle.manifest
    layout = bundle.state_layout()
    ort_session = open_ort_session(bundle.graph, provider, num_threads)
    check_signature(ort_session, manifest.graph)
    graph = manifest.graph
    runner: Runner
    if graph.tensors:
        runner = TensorRunner(ort_session, graph, layout, ObservationLayout(graph))
    elif graph.input_with("x") and graph.input_with("tokens"):
        runner = VectorRunner(ort_session, graph, layout)
    else:
        frequency_s = manifest.forecast.frequency_s if manifest.forecast else 0
        runner = Runner(ort_session, graph, layout, frequency_s)
    codec = bundle.text_codec()
    if not is_checked:
        check_golden(bundle, runner.call)
        if isinstance(codec, TextCodec):
            codec.probe()
    model = LoadedModel(manifest, layout, runner, codec)
    _warm_up(model)
    return model


def reason_of(error: Exception) -> str:
    """Why a bundle was refused, without a path of the server."""
    if isinstance(error, ContractError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return f"cannot be loaded ({type(error).__name__}); the log says more: export it again"


def _warm_up(model: LoadedModel) -> None:
    """Run batches of several sizes, each of rows of one step."""
    values = _nothing_much(model)
    for num_rows in _WARM_UP_ROWS if model.manifest.graph.takes_rows else (1,):
        states = [model.layout.initial_row] * num_rows
        ones, zeros = [1] * num_rows, [0] * num_rows
        batch = model.runner.stage([values] * num_rows, states, ones, zeros, zeros)
        batch.run()
        model.runner.take(batch)


def _nothing_much(model: LoadedModel) -> np.ndarray:
    """One observation of nothing but zeros."""
    if model.tokens is not None:
        return model.steps_of([0])
    if model.x is not None:
        return np.zeros(model.x.concrete(1)[1:], model.x.numpy_dtype)
    assert model.observations is not None, "the manifest asks for x, tokens or tensors"
    return np.zeros((1, model.observations.observation.itemsize), np.uint8)
