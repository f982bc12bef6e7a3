"""The models by which the rows of a bulk are read.

Rule 1: what this process believes of a session is a guess. Where it would refuse a row by it, the
        store is asked: the name may have been given to a session of another model elsewhere.
Rule 2: of each session the store is asked once more at most.
"""

import re

from service.engine.engine import Engine
from service.engine.models.loaded_model import LoadedModel
from service.errors import CarryError, InvalidInputError
from service.stores.record.record import Key

_NAME = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class Models:
    """Those of the sessions of one request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[Key, LoadedModel | CarryError] = {}
        self._fresh: set[Key] = set()

    async def of(self, key: Key) -> LoadedModel:
        """Raises CarryError where there is no such session."""
        if not _NAME.fullmatch(key.name):
            raise InvalidInputError(
                f"session {key.name[:128]!r}: expected 1 to 128 of the characters A-Za-z0-9._~-"
            )
        found = self._known.get(key) or self._engine.cached_model(key)
        if found is None:
            found = await self._ask(key, is_fresh=False)
        if isinstance(found, CarryError):
            raise found
        return found

    async def afresh(self, key: Key) -> LoadedModel:
        """As `of`, of the session that has this name now."""
        if key not in self._fresh:
            self._fresh.add(key)
            await self._ask(key, is_fresh=True)
        return await self.of(key)

    async def misled(self, key: Key, model: LoadedModel) -> bool:
        """Whether the session of this name is not of `model`, as was believed."""
        try:
            return await self.afresh(key) is not model
        except CarryError:
            return True

    async def shared(
        self, keys: list[Key], *, is_fresh: bool = False
    ) -> tuple[LoadedModel | None, dict[int, CarryError]]:
        """The model of the first session that is found, and the rows that are not of it."""
        model_of = self.afresh if is_fresh else self.of
        guess_of = self._known.get if is_fresh else self._engine.cached_model
        errors = dict[int, CarryError]()
        first: tuple[Key, LoadedModel] | None = None
        for place, key in enumerate(keys):
            # Sequences of `/v2` are cached as well, under names with a colon.
            if first is not None and guess_of(key) is first[1] and ":" not in key.name:
                continue
            try:
                model = await model_of(key)
                first = first or (key, model)
                if model is first[1]:
                    continue
                if not is_fresh and await self.misled(*first):
                    return await self.shared(keys, is_fresh=True)
                if (model := await self.afresh(key)) is not first[1]:
                    raise _of_another(key, model, first[1])
            except CarryError as error:
                errors[place] = error
        return first and first[1], errors

    async def _ask(self, key: Key, *, is_fresh: bool) -> LoadedModel | CarryError:
        found: LoadedModel | CarryError
        try:
            found = await self._engine.model_of(key, is_fresh=is_fresh)
        except CarryError as error:
            found = error
        self._known[key] = found
        return found


def _of_another(key: Key, model: LoadedModel, first: LoadedModel) -> InvalidInputError:
    return InvalidInputError(
        f"session {key.name!r} is of model {model.name!r} version {model.version}, the first one of"
        f" {first.name!r} version {first.version}: send the sessions of each model in a request of"
        " their own"
    )
