"""What there is of models, as clients are shown it: every bundle, its state, and why."""

from collections.abc import Iterable
from typing import NamedTuple

from service.engine.inference.worker_pool import Workers
from service.engine.models.desired_state import DesiredState
from service.engine.models.folder import Content, Found
from service.engine.models.loaded_model import LoadedModel
from service.engine.models.registry import Registry


class IndexEntry(NamedTuple):
    """A bundle: READY, LOADING, UNLOADING or UNAVAILABLE, and why it is not READY."""

    name: str
    version: str
    state: str
    reason: str


def index_of(
    workers: Workers,
    registry: Registry,
    wanted: DesiredState,
    found: Found,
    loading: Iterable[tuple[str, str]],
) -> list[IndexEntry]:
    """Every bundle that is loaded or was last seen in the folder."""
    refused, shown = registry.refused, dict[tuple[str, str], IndexEntry]()
    for name, version in contents_of(found):
        is_wanted = wanted.of(name).wants(version)
        reason = "not loaded yet" if is_wanted else "unloaded"
        shown[name, version] = IndexEntry(name, version, "UNAVAILABLE", reason)
    for where, reason in refused.items():
        name, _, version = where.partition("/")
        shown[name, version] = IndexEntry(name, version, "UNAVAILABLE", reason)
    for model in registry.leaving:
        told = "what it has begun is being answered"
        shown[model.name, model.version] = IndexEntry(*_place(model), "UNLOADING", told)
    for model in registry.retiring:
        left_s = workers.seconds_left(model)
        reason = f"its sessions may be stepped for {left_s:.0f} s more"
        shown[model.name, model.version] = IndexEntry(*_place(model), "UNLOADING", reason)
    for place in loading:
        shown[place] = IndexEntry(*place, "LOADING", "")
    for model in registry.all():
        reason = refused.get(f"{model.name}/{model.version}", "")
        told = f"what lies in the folder now is another one: {reason}" if reason else ""
        shown[model.name, model.version] = IndexEntry(*_place(model), "READY", told)
    return [shown[place] for place in sorted(shown, key=_by_number)]


def contents_of(found: Found) -> dict[tuple[str, str], Content]:
    return {
        (name, version): content
        for name, versions in found.items()
        for version, content in versions.items()
    }


def _place(model: LoadedModel) -> tuple[str, str]:
    return model.name, model.version


def _by_number(place: tuple[str, str]) -> tuple[str, int, str]:
    name, version = place
    return name, int(version) if version.isdecimal() else 0, version
