"""What a person says about a graph that was made elsewhere, and what is still to be asked."""

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.errors import TrainingError


class ImportGraphError(TrainingError):
    """A graph that cannot be brought along, or of which too little is known."""

    code = "import-refused"


class GraphCallError(ImportGraphError):
    """The graph was loaded, and a call of it failed; another call may do."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something that the graph does not tell; `option` with a value answers it.

    `key` is what comes before the value, with its `=`; `value` is what the value is called.
    """

    option: str
    key: str
    value: str
    what: str

    def __str__(self) -> str:
        return f"{self.option} {self.key}{self.value}   {self.what}"


@dataclass(slots=True)
class Choices:
    """`sizes` are by the name of an axis, or as `input.1`; `overlaps` by the name of an input.

    `states` are by input; an empty output says that the input is not a state. `pairs` are states as
    typed, whose names only the graph can tell apart. `batch_axes` are by `input.1`, or one number
    for every state.
    """

    states: dict[str, str] = field(default_factory=dict)
    pairs: list[str] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    overlaps: dict[str, int] = field(default_factory=dict)
    batch_axes: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    length: str | None = None
    one_row: bool = False

    @classmethod
    def of(
        cls, states: Sequence[str], constants: Sequence[str], sizes: Sequence[str],
        overlaps: Sequence[str],
    ) -> "Choices":  # fmt: skip
        """From options as they are typed: `h=hn`, `sr=16000`, `sequence=576`, `input=64`."""
        chosen = cls()
        for option, texts in (
            ("--state", states), ("--constant", constants), ("--size", sizes),
            ("--overlap", overlaps),
        ):  # fmt: skip
            for text in texts:
                chosen.answer(option, text)
        return chosen

    def copy(self) -> "Choices":
        return copy.deepcopy(self)

    def answer(self, option: str, text: str) -> None:
        """Take up one option.

        Raises:
            ImportGraphError: it does not read as it should, or contradicts another one.
        """
        if option == "--state":
            self._answer_state(text)
        elif option == "--batch-axis":
            self.batch_axes.append(text)
        elif option == "--time":
            self.times.append(text)
        elif option == "--length":
            self.length = text
        elif option == "--constant":
            key, value = _split(option, text)
            _put(self.constants, key, _numbers(option, value), option)
        else:
            self._answer_number(option, text)

    def resolve_states(self, inputs: Collection[str], outputs: Collection[str]) -> None:
        """Read the `pairs` that only the graph's names can split (`a::b:c`, the older form).

        Raises:
            ImportGraphError: no way, or more than one, of splitting one gives two known names.
        """
        for text in self.pairs:
            splits = [
                (text[:place], text[place + 1 :])
                for place, mark in enumerate(text)
                if mark == ":" and text[:place] in inputs and text[place + 1 :] in outputs
            ]
            if len(splits) > 1:
                raise ImportGraphError(
                    f"--state {text}: it reads as {' and as '.join('='.join(s) for s in splits)};"
                    " say INPUT=OUTPUT"
                )
            before, after = splits[0] if splits else text.split(":", 1)
            _put(self.states, before, after, "--state")
        self.pairs = []

    def _answer_state(self, text: str) -> None:
        """`=` is in no name that the service can serve, so there is nothing to escape."""
        before, mark, after = text.partition("=")
        if mark and before:
            _put(self.states, before, "" if after == "-" else after, "--state")
        elif ":" in text.strip(":"):
            self.pairs.append(text)
        else:
            raise ImportGraphError(
                f"--state {text!r}: expected INPUT=OUTPUT, or INPUT= for an input that is not a"
                " state"
            )

    def _answer_number(self, option: str, text: str) -> None:
        if option == "--overlap" and "=" not in text:
            text = f"={text}"  # of the only input
            key, value = "", text[1:]
        else:
            key, value = _split(option, text)
        if option == "--size" and value.strip().lower() == "time":
            self.times.append(key)
            return
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**31):
            raise ImportGraphError(
                f"{option} {text.removeprefix('=')!r}: expected a whole number from 1 on"
            )
        _put(self.sizes if option == "--size" else self.overlaps, key, int(value), option)


def _split(option: str, text: str) -> tuple[str, str]:
    key, mark, value = text.rpartition("=")
    if not (mark and key and value):
        raise ImportGraphError(f"{option} {text!r}: expected NAME=VALUE")
    return key, value


def _put(values: dict[str, Any], key: str, value: object, option: str) -> None:
    if key in values and values[key] != value:
        raise ImportGraphError(
            f"{option} {key}={value}: {key}={values[key]} was said as well: say one of them"
        )
    values[key] = value


def _numbers(option: str, text: str) -> Any:  # noqa: ANN401 -- a number or a list of them
    values = [_number(option, part) for part in text.split(",")]
    return values[0] if len(values) == 1 else values


def _number(option: str, text: str) -> float | int | bool:
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text) if len(text) <= 20 else float(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ImportGraphError(f"{option} {text[:40]!r}: expected a number, or true or false")
    return value
