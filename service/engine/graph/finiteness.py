"""Which rows of a batch came to inf or NaN, which is never answered and never kept.

Rule 1: all outputs of all steps that a row was fed count, whether they are asked for or not: so the
        same observations are refused however they are cut.
Rule 2: all states of the graph count. What an input repeats (its overlap) does not: it is what the
        client sent, where NaN is a missing value, and it goes with the observations that follow.
Rule 3: a batch is looked at as a whole, by a sum of squares: that is finite only if all values are.
        It may be infinite where they are finite but huge, so where it is they are looked at one by
        one. Rows are told apart only where that failed, too.
"""

from collections.abc import Mapping
from math import isfinite

import numpy as np
from numpy import vdot  # the one product that does not warn where it overflows

from service.contract.graph import GraphSpec
from service.contract.state import StateSpec, rows_from_axis
from service.contract.tensors import DType, TensorSpec

_FLOAT32 = np.dtype(np.float32)


class FiniteCheck:
    """Made once for each graph."""

    def __init__(self, graph: GraphSpec) -> None:
        self._outputs = [spec.name for spec in graph.outputs if _is_float(spec.dtype)]
        self._states = [(s.output, s.batch_axis) for s in graph.states if _is_float(s.dtype)]
        # Outputs of one step are one array instead of several where they are packed float32.
        specs: list[TensorSpec | StateSpec] = [*graph.outputs, *graph.states]
        self._is_plain = all(spec.dtype == "float32" for spec in specs)

    def refused(
        self,
        outputs: Mapping[str, np.ndarray],
        answers: Mapping[str, np.ndarray],
        lengths: np.ndarray,
        last: np.ndarray,
    ) -> np.ndarray | None:
        """Whether each row is to be refused, `[B]`; None where none is.

        `outputs` are `[B, T, …]`, `answers` the graph's own, with the new states among them; `last`
        are the outputs of the last step, joined, `[B, …]`.
        """
        is_one_step = self._is_plain and outputs[self._outputs[0]].shape[1] == 1
        if is_one_step and isfinite(vdot(last, last)) and self._has_finite_states(answers):
            return None
        arrays = [outputs[name] for name in self._outputs]
        arrays += [answers[name] for name, _ in self._states]
        if all(map(_is_finite, arrays)):
            return None
        return self._rows(outputs, answers, lengths)

    def _has_finite_states(self, answers: Mapping[str, np.ndarray]) -> bool:
        """Of float32; False if they are huge as well."""
        for name, _ in self._states:
            state = answers[name]
            if not isfinite(vdot(state, state)):
                return False
        return True

    def _rows(
        self,
        outputs: Mapping[str, np.ndarray],
        answers: Mapping[str, np.ndarray],
        lengths: np.ndarray,
    ) -> np.ndarray | None:
        """Past a row's length its outputs mean nothing, so a batch may be fine after all."""
        num_rows = len(lengths)
        refused = np.zeros(num_rows, bool)
        for name in self._outputs:
            values = outputs[name]
            is_fed = np.arange(values.shape[1]) < lengths[:, None]
            refused |= (_has_others(values, values.shape[:2]) & is_fed).any(axis=1)
        for name, axis in self._states:
            refused |= _has_others(rows_from_axis(answers[name], axis), (num_rows,))
        return refused if refused.any() else None


def _is_float(dtype: DType) -> bool:
    return np.dtype(dtype).kind == "f"


def _is_finite(values: np.ndarray) -> bool:
    if values.dtype == _FLOAT32 and isfinite(vdot(values, values)):
        return True
    return bool(np.isfinite(values).all())


def _has_others(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whether something is not finite, for each place of the first axes."""
    found: np.ndarray = ~np.isfinite(values).reshape(*shape, -1).all(axis=-1)
    return found
