"""Which models are wanted, as all processes on a store agree: what was said by load and unload.

Rule 1: what nobody has spoken of is wanted: whatever lies in the folder is served.
Rule 2: each word has a revision, so that a process sees that something was said again, although it
        is the same: load means to look at the folder anew.
Rule 3: a word about a model is forgotten by a later one about all of its versions.
"""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import RecordUnreadableError

VALUE_NAME: Final = "models"
"""Of the value in the store that holds them."""


class ModelPolicy(BaseModel):
    """What was said of one model: of its versions by number, and of all others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: int = 0
    others: bool = True
    versions: dict[str, bool] = Field(default_factory=dict)

    def wants(self, version: str) -> bool:
        return self.versions.get(version, self.others)


_NOTHING = ModelPolicy()


class DesiredState(BaseModel):
    """The value in the store; bounded by the number of models that were ever spoken of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: int = 0
    models: dict[str, ModelPolicy] = Field(default_factory=dict)

    @classmethod
    def read(cls, data: bytes) -> "DesiredState":
        """From the store's bytes; empty ones are nothing said.

        Raises:
            RecordUnreadableError: they are of a later service, or damaged.
        """
        try:
            return cls.model_validate_json(data) if data else cls()
        except ValidationError:
            raise RecordUnreadableError(
                "what was said of the models (the value 'models' of the store) cannot be read: it"
                " was written by a later service; upgrade this one"
            ) from None

    def of(self, name: str) -> ModelPolicy:
        return self.models.get(name, _NOTHING)

    def said(self, name: str, version: str | None, *, is_wanted: bool) -> "DesiredState":
        """After a word about one version of a model, or about all of them."""
        revision = self.revision + 1
        before = self.of(name)
        if version is None:
            word = ModelPolicy(revision=revision, others=is_wanted)
        else:
            versions = before.versions | {version: is_wanted}
            word = ModelPolicy(revision=revision, others=before.others, versions=versions)
        return DesiredState(revision=revision, models=self.models | {name: word})

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode()
