"""Examples of bodies for the documentation. A test sends them all, in the order of the paths."""

from fastapi.openapi.models import Example

_SEVEN = [
    0, 0, 4, 6, 11, 14, 6, 0,
    0, 4, 16, 16, 12, 16, 7, 0,
    0, 6, 16, 2, 1, 16, 3, 0,
    0, 5, 16, 0, 5, 14, 0, 0,
    0, 0, 2, 0, 11, 10, 0, 0,
    0, 0, 0, 2, 15, 4, 0, 0,
    0, 0, 0, 8, 16, 0, 0, 0,
    0, 0, 0, 7, 12, 0, 0, 0,
]  # fmt: skip
"""Grey levels of 0 to 16, a line for each row of an image."""
VECTOR_EXAMPLE: Example = {
    "summary": "Write about a vector: the name of a digit in an image",
    "value": {"instances": [{"observations": [[v / 16 for v in _SEVEN]], "temperature": 0}]},
}
CREATE_EXAMPLES: dict[str, Example] = {
    "forecast": {
        "summary": "A forecaster, warmed up on history",
        "value": {
            "model": "transit-ridership",
            "session": "my-station",
            "history": {
                "start": "2016-08-22",
                "observations": [{"ridership": 19.9}, {"ridership": 20.4}],
            },
            "checkpoints": 7,
        },
    },
    "text": {
        "summary": "A stream of text",
        "value": {"model": "sentiment-en", "session": "my-review"},
    },
    "generate": {
        "summary": "A text to be written on",
        "value": {"model": "hello", "session": "my-word"},
    },
}
STEP_EXAMPLES: dict[str, Example] = {
    "rows": {
        "summary": "The next row, exactly once (session my-station)",
        "value": {"step": 2, "observations": [{"ridership": 20.1, "temp_max": 71.2}]},
    },
    "text": {
        "summary": "The next chunk, cut anywhere (session my-review)",
        "value": {"step": 0, "text": "What a wond"},
    },
}
PREVIEW_EXAMPLES: dict[str, Example] = {
    "rows": {
        "summary": "What if it rained? (session my-station)",
        "value": {"observations": [{"ridership": 15.2, "percip_max": 3.5}]},
    },
    "text": {
        "summary": "What if the text went on so? (session my-review)",
        "value": {"text": "erful film"},
    },
}
FORK_EXAMPLES: dict[str, Example] = {
    "rows": {
        "summary": "A second course from here (session my-station)",
        "value": {"session": "my-station-in-the-rain", "metadata": {"why": "a rainy week"}},
    },
    "text": {
        "summary": "Another end of the text (session my-review)",
        "value": {"session": "my-other-review"},
    },
}
REWIND_EXAMPLES: dict[str, Example] = {
    "rows": {
        "summary": "As if the last row had not come (session my-station)",
        "value": {"step": 2},
    },
}
UPGRADE_EXAMPLES: dict[str, Example] = {
    "rows": {
        "summary": "To a version whose states mean the same (session my-station)",
        "value": {"version": "1", "policy": "carry"},
    },
}
