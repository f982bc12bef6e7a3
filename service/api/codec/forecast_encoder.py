"""A forecast as JSON, from packed outputs at once: one gather of its numbers, one call of orjson.

`encode.py` says the same by a dictionary of arrays, each of which costs as much as ten of its
numbers; a test holds the two to the same bytes. This is for the answer that every step gets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from service.contract.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ForecastJson:
    """Made once for each model and choice of levels.

    `order` says which of a step's numbers stand where: a row for the mean, then one for each level.
    `parts` are what stands between, with room for the rows.
    """

    order: np.ndarray
    parts: list[bytes]

    @classmethod
    def of(
        cls, manifest: Manifest, places: Sequence[tuple[str, int]], horizon: int
    ) -> "ForecastJson | None":
        """None for a model whose outputs are not all float32, or that does not forecast."""
        outputs = manifest.graph.outputs
        if manifest.forecast is None or any(spec.dtype != "float32" for spec in outputs):
            return None
        numbers, start = {}, 0
        for spec in outputs:
            count = int(np.prod(spec.row_shape))
            numbers[spec.role] = np.arange(start, start + count).reshape(spec.row_shape)
            start += count
        rows = [numbers["mean"], *(numbers["quantiles"][:, place] for _, place in places)]
        named = [f"{orjson.dumps(level).decode()}:[" for level, _ in places]
        frequency = orjson.dumps(manifest.forecast.frequency).decode()
        between = [f',"frequency":{frequency},"mean":[', *named]
        return cls(np.array([row[:horizon] for row in rows]), _with_room(between))

    def write(self, packed: bytes, start: str | None) -> orjson.Fragment:
        """Of one packed step, a forecast that begins at `start`."""
        numbers = np.frombuffer(packed, np.float32)[self.order]
        parts = self.parts.copy()
        parts[1] = b"null" if start is None else b'"%s"' % start.encode()
        rows = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
        parts[3:-1:2] = rows[2:-2].split(b"],[")
        return orjson.Fragment(b"".join(parts))


def _with_room(between: list[str]) -> list[bytes]:
    """What stands before the start and before each row, room behind each, and the end."""
    if len(between) == 1:  # no levels
        return [b'{"start":', b"", between[0].encode(), b"", b'],"quantiles":{}}']
    between[1] = '],"quantiles":{' + between[1]
    between[2:] = ["]," + each for each in between[2:]]
    with_room = [part for each in ('{"start":', *between) for part in (each.encode(), b"")]
    return [*with_room, b"]}}"]
