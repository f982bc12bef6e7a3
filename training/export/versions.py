"""Versions of what made a model, for its manifest."""

import platform
from importlib.metadata import version

_LIBRARIES = ("torch", "pytorch-lightning", "onnx", "onnxscript", "onnxruntime", "numpy")


def library_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    return found | {name: version(name) for name in _LIBRARIES}
