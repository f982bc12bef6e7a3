"""The child of `graph_process`: reads, loads and runs one graph, and answers plain numbers.

It ends when its parent closes the socket, and by the limits that it sets itself.
"""

import contextlib
import json
import re
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.foreign.choices import ImportGraphError
from training.foreign.graph_file import read_graph
from training.foreign.recurrence import recurrence_of
from training.foreign.signature import DTYPES
from training.ort import ort

_MAX_TENSORS: Final = 256
_MAX_ANSWER_BYTES: Final = 2**30
_NOISE: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"^\[ONNXRuntimeError\] : \d+ : \w+ : ",
        r"Load model from .*? failed:|Load model failed:",
        r"/onnxruntime_src/\S+:\d+ ",  # where it was compiled, and the C++ function
        r"(?:[\w:<>*&~]+ )?onnxruntime::[\w:<>~]*\([^()]*(?:\([^()]*\)[^()]*)*\)"
        r"(?: const)?(?: \[with [^]]*\])? ",
        r" If you need support create a github issue with justification\.",
    )
)
_REMEDIES: Final = (
    ("layout_ == 0", "export it with layout 0, steps on the first axis"),
    ("Batchwise recurrent", "export it with layout 0, steps on the first axis"),
    ("is not a registered function/op", "export it without operators of your own"),
    ("No Op registered", "export it without operators of your own, with opset_version=18"),
    ("No opset import for domain", "export it without operators of your own"),
    ("opset", "export it with opset_version=18, or use onnx.version_converter"),
    ("IR version", "export it with an older onnx, or lower model.ir_version"),
    ("Could not find an implementation", "export it in float32, with opset_version=18"),
    ("Failed to allocate", "it needs too much memory: use a smaller --size or model"),
    ("bad allocation", "it needs too much memory: use a smaller --size or model"),
    ("bad_alloc", "it needs too much memory: use a smaller --size or model"),
    ("does not support double", "export it in float32"),
    ("acyclic", "export it again"),
)


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    path = Path(sys.argv[3])
    _limit_resources(float(sys.argv[2]), path.stat().st_size)
    child = _Child(path)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            request = json.loads(connection.recv_bytes())
            parts = [connection.recv_bytes() for _ in request.get("arrays", ())]
            try:
                header, answers = child.answer(request, parts)
            except ImportGraphError as error:
                header, answers = {"error": str(error)}, []
            except MemoryError:
                header, answers = {"error": f"{path.name} needs too much memory"}, []
            except Exception as error:
                header, answers = {"error": f"{path.name}: {reason(error)}"}, []
            connection.send_bytes(json.dumps(header | {"num_parts": len(answers)}).encode())
            for answer in answers:
                connection.send_bytes(answer)


class _Child:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._graph = b""
        self._session: Any = None

    def answer(
        self, request: dict[str, Any], parts: list[bytes]
    ) -> tuple[dict[str, Any], list[Any]]:
        if request["do"] == "read":
            self._graph, model = read_graph(self._path)
            _require_shapes(model)
            return {"recurrence": recurrence_of(model).to_dict()}, [self._graph]
        if request["do"] == "load":
            return self._load(), []
        return self._run(request["arrays"], parts)

    def _load(self) -> dict[str, Any]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(self._graph, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many classes of its own for a bad graph
            raise ImportGraphError(
                f"ONNX Runtime cannot load {self._path.name}: {reason(error)}"
            ) from None
        described = {}
        for side, args in (
            ("inputs", self._session.get_inputs()), ("outputs", self._session.get_outputs()),
        ):  # fmt: skip
            if len(args) > _MAX_TENSORS:
                raise ImportGraphError(
                    f"the graph has {len(args)} {side}: expected at most {_MAX_TENSORS}"
                )
            for arg in args:
                if arg.type not in DTYPES:
                    raise ImportGraphError(
                        f"{arg.name[:128]!r} is {arg.type}: expected a tensor of"
                        f" {', '.join(DTYPES.values())}; export it with one of these types"
                    )
            described[side] = [[arg.name, arg.type, arg.shape] for arg in args]
        return described

    def _run(
        self, arrays: list[tuple[str, list[int]]], parts: list[bytes]
    ) -> tuple[dict[str, Any], list[Any]]:
        names = [arg.name for arg in self._session.get_inputs()]
        feeds = {
            name: np.frombuffer(data, dtype).reshape(shape)
            for name, data, (dtype, shape) in zip(names, parts, arrays, strict=True)
        }
        try:
            answers = self._session.run(None, feeds)
        except Exception as error:  # ONNX Runtime raises many classes of its own
            fed = {name: list(value.shape) for name, value in feeds.items()}
            raise ImportGraphError(f"a call with {fed} failed: {reason(error, '')}") from None
        if sum(answer.nbytes for answer in answers) > _MAX_ANSWER_BYTES:
            raise ImportGraphError(
                f"one call answers more than {_MAX_ANSWER_BYTES:,} bytes: use a smaller model"
            )
        answers = [np.ascontiguousarray(answer) for answer in answers]
        header = {"arrays": [[answer.dtype.name, list(answer.shape)] for answer in answers]}
        return header, [memoryview(answer).cast("B") if answer.size else b"" for answer in answers]


def _require_shapes(model: Any) -> None:  # noqa: ANN401 -- an onnx.ModelProto
    """ONNX Runtime describes an input of unknown rank as it does a single number."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        has_shape = tensor.HasField("shape") or not value.type.HasField("tensor_type")
        if not has_shape and value.name not in weights:
            raise ImportGraphError(
                f"input {value.name[:128]!r} has no shape: expected its number of axes; export the"
                " graph with the shapes of its inputs"
            )


def reason(error: Exception, remedy: str = "export it again") -> str:
    """What ONNX Runtime says, in one line, with what to do; `remedy` where that is not known."""
    text = re.sub(r"\s+", " ", str(error)[:4000]).strip() or type(error).__name__
    for noise in _NOISE:
        text = noise.sub("", text)
    remedy = next((what for mark, what in _REMEDIES if mark in text), remedy)
    shown = text.rstrip(" .") if len(text) <= 300 else f"{text[:300]}…"
    return f"{shown}: {remedy}" if remedy else shown


def _limit_resources(limit_s: float, num_bytes: int) -> None:
    """A crash leaves no core file, and neither a loop nor an allocation can go on for ever."""
    memory = 6 * 2**30 + 8 * num_bytes
    seconds = int(limit_s) + 60  # of processor time; the parent counts the wall's
    for kind, limit, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, seconds, seconds + 5),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force
            resource.setrlimit(kind, (limit, hard))
    with contextlib.suppress(OSError):  # where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
