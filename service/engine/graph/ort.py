"""ONNX Runtime, which is imported here and nowhere else in the service.

Since version 1.29 it makes an identifier of the machine and reports on its use to its makers, from
the moment of its import. A server of somebody's data does no such thing unless it is told to
(`ORT_DISABLE_TELEMETRY=0`); the runtime reads this only once, so it must be said before.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort  # type: ignore[import-untyped]

__all__ = ["ort"]
