"""What graphs that write share of their inputs and outputs."""

from typing import Final

from service.contract.tensors import InputSpec, OutputSpec

TOKENS: Final = InputSpec(name="tokens", dtype="int64", shape=("batch", "time"), role="tokens")


def logits_of(num_characters: int) -> OutputSpec:
    """How likely each character is next, at every step."""
    return OutputSpec(
        name="logits", dtype="float32", shape=("batch", "time", num_characters), role="logits"
    )
