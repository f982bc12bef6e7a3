"""What a person says about a graph that was made elsewhere, and what is still to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from training.errors import TrainingError


class ImportGraphError(TrainingError):
    """A graph that cannot be brought along, or of which too little is known."""

    code = "import-refused"


@dataclass(frozen=True, slots=True)
class Question:
    """Something that the graph does not tell; `option` with a value answers it."""

    option: str
    key: str
    what: str


@dataclass(slots=True)
class Choices:
    """`sizes` are by the name of an axis, or as `input.1`; `overlaps` by the name of an input."""

    states: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    overlaps: dict[str, int] = field(default_factory=dict)
    batch_axis: int | None = None
    time: str | None = None
    length: str | None = None
    one_row: bool = False

    @classmethod
    def of(
        cls, states: Sequence[str], constants: Sequence[str], sizes: Sequence[str],
        overlaps: Sequence[str],
    ) -> "Choices":  # fmt: skip
        """From options as they are typed: `h:hn`, `sr=16000`, `sequence=576`, `input=64`."""
        chosen = cls()
        for text in states:
            chosen.answer("--state", text)
        for option, texts in (
            ("--constant", constants), ("--size", sizes), ("--overlap", overlaps),
        ):  # fmt: skip
            for text in texts:
                chosen.answer(option, text)
        return chosen

    def answer(self, option: str, text: str) -> None:
        """Take up one option.

        Raises:
            ImportGraphError: it does not read as it should.
        """
        mark = ":" if option == "--state" else "="
        key, _, value = text.partition(mark)
        if option == "--overlap" and not value:
            key, value = "", key  # of the only input
        if not value:
            raise ImportGraphError(f"{option} {text!r}: expected NAME{mark}VALUE")
        if option == "--state":
            self.states[key] = value
        elif option == "--constant":
            self.constants[key] = _numbers(option, value)
        else:
            number = _numbers(option, value)
            if type(number) is not int or number < 1:
                raise ImportGraphError(f"{option} {text!r}: expected a whole number from 1 on")
            (self.sizes if option == "--size" else self.overlaps)[key] = number


def _numbers(option: str, text: str) -> Any:  # noqa: ANN401 -- a number or a list of them
    values = [_number(option, part) for part in text.split(",")]
    return values[0] if len(values) == 1 else values


def _number(option: str, text: str) -> float | int | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ImportGraphError(f"{option} {text!r}: expected a number, or true or false") from None
