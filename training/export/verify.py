"""Checks that an exported graph is the trained network, and behaves as a stream. Nothing is
written unless all of them hold.

  parity   torch and ONNX Runtime give the same answers and states for the same padded batch
  golden   the recorded run is reproduced whole, stepwise, chunked and alone (service.contract)
  long     thousands of steps in slices of one, of many and of all give the same (float32 drift)

A difference is measured in the scale of each output, as the service measures it when it loads the
bundle (`golden.scales` of the manifest).

Each raises. None has a switch to make it a warning.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch

from service.contract.bundle import Bundle
from service.contract.calls import Arrays
from service.contract.errors import GoldenMismatchError
from service.contract.golden import check_golden, worst_difference
from training.errors import VerificationError
from training.evaluate.served_model import ServedModel
from training.tasks.base import StreamNetwork

Scales = Mapping[str, float]
"""Output → its scale, where that is not 1."""
TOLERANCE = 1e-4
_NO_SCALES: Scales = MappingProxyType({})
LONG_STEPS = 5000


def verify(bundle: Bundle, network: StreamNetwork, long_inputs: Mapping[str, np.ndarray]) -> None:
    """Run every check on a bundle that is still in memory.

    `long_inputs` `[1, T, …]` is one sequence of many steps.

    Raises:
        VerificationError: says which check failed, for which tensor, and by how much.
    """
    model = ServedModel.from_bundle(bundle)
    arrays = bundle.golden_arrays()
    inputs = {k.removeprefix("in."): v for k, v in arrays.items() if k.startswith("in.")}
    scales = bundle.manifest.golden.scales
    check_parity(model, network, inputs, arrays["length"], scales)
    try:
        check_golden(bundle, model.run)
    except GoldenMismatchError as error:
        raise VerificationError(f"golden: {error}") from error
    check_long(model, long_inputs, scales)


def check_parity(
    model: ServedModel,
    network: StreamNetwork,
    inputs: Mapping[str, np.ndarray],
    length: np.ndarray,
    scales: Scales = _NO_SCALES,
) -> None:
    """torch (eager, fused kernels) against ONNX Runtime, on answers and on states."""
    rows = [model.layout.initial_row] * len(length)
    got, rows = model.step(inputs, length, rows)
    states = next(iter(model.layout.gather(rows).values()))
    specs = [spec for spec in model.graph.inputs if spec.role != "length"]
    network = network.cpu().eval()
    initial = network.initial_state().expand(len(length), -1)
    with torch.no_grad():
        feeds = [torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in specs]
        *outputs, state = network(*feeds, torch.from_numpy(length), initial)
    valid = np.arange(next(iter(inputs.values())).shape[1]) < length[:, None]
    for spec, output in zip(model.graph.outputs, outputs, strict=True):
        _compare("parity", spec.name, got[spec.name][valid], output.numpy()[valid], scales)
    _compare("parity", "state", states, state.numpy(), scales)


def check_long(
    model: ServedModel, inputs: Mapping[str, np.ndarray], scales: Scales = _NO_SCALES
) -> None:
    """One long sequence as a whole, in slices of 37, and step by step."""
    length = np.array([next(iter(inputs.values())).shape[1]])
    whole, whole_rows = model.answer(inputs, length, slice_steps=int(length[0]))
    for slice_steps in (37, 1):
        outputs, rows = model.answer(inputs, length, slice_steps)
        for name, expected in whole.items():
            _compare(f"long, in slices of {slice_steps}", name, outputs[name], expected, scales)
        states, expected_states = model.layout.gather(rows), model.layout.gather(whole_rows)
        for name, expected in expected_states.items():
            _compare(f"long, in slices of {slice_steps}", name, states[name], expected, scales)


def _compare(
    check: str, name: str, got: Arrays | np.ndarray, expected: np.ndarray, scales: Scales
) -> None:
    assert isinstance(got, np.ndarray)
    scale = scales.get(name, 1.0)
    worst = worst_difference(got, expected, scale)
    if not worst <= TOLERANCE:  # a NaN fails too
        raise VerificationError(
            f"{check}: {name!r} differs by {worst:.3g} of max({scale:g}, |expected|), allowed"
            f" {TOLERANCE:g}: the graph must not be shipped"
        )
