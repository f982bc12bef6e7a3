"""A manifest whose parts contradict each other is refused, and the message names them."""

import hashlib
import json

import pytest
from pydantic import ValidationError

from service.contract import bundle
from service.contract.bundle import read_bundle
from service.contract.errors import BundleError
from service.contract.manifest import Manifest
from tests.fakes.bundles import (
    write_captioner,
    write_classifier,
    write_forecaster,
    write_generator,
    write_tagger,
)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    writers = (
        write_forecaster,
        write_classifier,
        write_generator,
        write_captioner,
        write_tagger,
    )
    return {manifest.name: manifest for manifest in (write(folder) for write in writers)}


def fields_of(manifests, name):
    return manifests[name].model_dump(mode="json")


def spec_with(fields, role):
    specs = fields["graph"]["inputs"] + fields["graph"]["outputs"]
    return next(spec for spec in specs if spec["role"] == role)


def drop(fields, role):
    for side in ("inputs", "outputs"):
        kept = [spec for spec in fields["graph"][side] if spec["role"] != role]
        fields["graph"][side] = kept


def set_in(*path, to):
    def change(fields):
        for part in path[:-1]:
            fields = fields[part]
        fields[path[-1]] = to

    return change


def set_shape(role, *shape):
    def change(fields):
        spec_with(fields, role)["shape"] = list(shape)

    return change


def set_role(role, to):
    def change(fields):
        spec = spec_with(fields, role)
        extra = spec | {"name": "extra", "role": to}
        side = "inputs" if spec in fields["graph"]["inputs"] else "outputs"
        fields["graph"][side].append(extra)

    return change


COLUMNS = [{"name": name, "role": "past"} for name in "ab"]

CONTRADICTIONS = {
    "labels": ("mood", set_in("labels", to=["a", "b", "c"]), r"for role 'probabilities', found"),
    "horizon": ("load", set_in("forecast", "horizon", to=4), r"for role 'mean', found"),
    "quantiles": (
        "load",
        set_in("forecast", "quantiles", to=[0.1, 0.9]),
        r"expected \[batch, time, 3, 2\] for role 'quantiles'",
    ),
    "columns": (
        "load",
        lambda fields: fields["forecast"]["columns"].append(COLUMNS[0]),
        r"expected \[batch, time, 3\] for role 'x'",
    ),
    "time": ("load", set_shape("time", "batch", "time", 1), r"for role 'time', found"),
    "tokens": ("mood", set_shape("tokens", "batch", "time", 2), r"for role 'tokens', found"),
    "length-shape": (
        "load",
        set_shape("length", "batch", 1),
        r"expected \[batch\] for role 'length'",
    ),
    "start-token": (
        "mood",
        lambda fields: fields["text"].update(start_token=fields["text"]["vocabulary_size"]),
        "expected a start_token below vocabulary_size",
    ),
    "frequency": ("load", set_in("forecast", "frequency", to="P1W"), "P1W is not 86400 seconds"),
    "frequency-s": ("load", set_in("forecast", "frequency_s", to=3600), "P1D is not 3600 seconds"),
    "minutes": ("load", set_in("forecast", "frequency", to="PT1M"), "PT1M is not 86400 seconds"),
    "input-role": ("load", set_role("x", "known"), "'extra': task 'forecast' has no role 'known'"),
    "constant-role": ("mood", set_role("tokens", "constant"), "expected a value of .* found None"),
    "output-role": (
        "mood",
        set_role("probabilities", "logits"),
        "task 'classify' has no role 'logits'",
    ),
    "no-length": (
        "load",
        lambda fields: drop(fields, "length"),
        "needs an input with role 'length'",
    ),
    "no-x": ("load", lambda fields: drop(fields, "x"), "needs an input with role 'x'"),
    "no-mean": ("load", lambda fields: drop(fields, "mean"), "an output with role 'mean'"),
    "no-quantiles": ("load", lambda fields: drop(fields, "quantiles"), "role 'quantiles'"),
    "no-tokens": (
        "mood",
        lambda fields: fields["graph"].update(
            inputs=[spec for spec in fields["graph"]["inputs"] if spec["role"] == "length"]
        ),
        "needs an input with role 'tokens'",
    ),
    "no-labels": ("mood", set_in("labels", to=None), "needs labels"),
    "no-text": ("mood", set_in("text", to=None), "needs text"),
    "no-generate": ("verse", set_in("generate", to=None), "needs generate"),
    "no-logits": (
        "verse",
        lambda fields: fields["graph"]["outputs"][0].update(role="value"),
        "role 'logits'",
    ),
    "alphabet": (
        "verse",
        set_in("generate", "characters", to="abc ."),
        r"expected \[batch, time, 5\] for role 'logits'",
    ),
    "twice": (
        "verse",
        set_in("generate", "characters", to="abca ."),
        "expected distinct characters",
    ),
    "start": ("verse", set_in("generate", "start", to="ax"), r"\['x'\], which are not in"),
    "end": ("verse", set_in("generate", "end", to="!"), r"\['!'\], which are not in"),
    "no-vector": (
        "label",
        lambda fields: fields["graph"]["inputs"].pop(1),
        "needs an input with role 'x'",
    ),
    "vector-size": (
        "label",
        lambda fields: fields["generate"]["columns"].pop(),
        r"expected \[batch, time, 2\] for role 'x'",
    ),
    "vector-unnamed": (
        "label",
        set_in("generate", "columns", to=None),
        "task 'generate' has no role 'x'",
    ),
    "vector-twice": (
        "label",
        set_in("generate", "columns", to=["red", "red", "blue"]),
        "expected distinct names of columns",
    ),
    "no-tag": ("phase", set_in("tag", to=None), "needs tag"),
    "tagged-columns": (
        "phase",
        lambda fields: fields["tag"]["columns"].pop(),
        r"expected \[batch, time, 1\] for role 'x'",
    ),
    "tagged-labels": ("phase", set_in("labels", to=["a"]), r"for role 'probabilities', found"),
    "no-forecast": ("load", set_in("forecast", to=None), "needs forecast"),
    "output-axes": ("load", set_shape("mean", "batch", 3), r"for role 'mean', found"),
    "output-order": (
        "load",
        set_shape("mean", "time", "batch", 3),
        r"for role 'mean', found",
    ),
    "two-inputs": (
        "load",
        set_in("graph", "states", 0, "input", to="x"),
        "expected distinct names of the graph's inputs",
    ),
    "two-outputs": (
        "load",
        set_in("graph", "states", 0, "output", to="mean"),
        "expected distinct names of the graph's outputs",
    ),
    "two-columns": (
        "load",
        set_in("forecast", "columns", 1, "name", to="load"),
        "expected distinct names of columns",
    ),
    "no-target": ("load", set_in("forecast", "columns", to=COLUMNS), "exactly one column"),
    "quantile-order": (
        "load",
        set_in("forecast", "quantiles", to=[0.5, 0.1, 0.9]),
        "expected quantiles in ascending order",
    ),
    "unhashed": (
        "mood",
        lambda fields: fields["files"].pop("tokenizer.json"),
        r"without a SHA-256 in `files`: \['tokenizer.json'\]",
    ),
    "unhashed-states": (
        "load",
        set_in("initial_states", to="initial.npz"),
        r"without a SHA-256 in `files`: \['initial.npz'\]",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_parts_that_contradict_each_other_are_refused(manifests, name):
    model, change, message = CONTRADICTIONS[name]
    fields = fields_of(manifests, model)
    Manifest.model_validate(fields)
    change(fields)
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate(fields)


@pytest.mark.parametrize(
    ("frequency", "frequency_s"),
    [("P2W", 1_209_600), ("P1D", 86_400), ("PT6H", 21_600), ("PT15M", 900), ("PT30S", 30)],
)
def test_every_unit_of_a_frequency_has_its_length(manifests, frequency, frequency_s):
    fields = fields_of(manifests, "load")
    fields["forecast"] |= {"frequency": frequency, "frequency_s": frequency_s}
    assert Manifest.model_validate(fields).forecast.frequency_s == frequency_s


def test_a_bundle_beyond_the_size_limit_is_not_read(tmp_path, monkeypatch):
    write_classifier(tmp_path)
    folder = tmp_path / "mood" / "1"
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", num_bytes)
    read_bundle(folder)
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", num_bytes - 1)
    with pytest.raises(
        BundleError, match=f"expected at most {num_bytes - 1} bytes, found {num_bytes}"
    ):
        read_bundle(folder)


def test_a_manifest_without_later_fields_still_has_its_own_hash(tmp_path):
    """`generate` and `tag` were added later; the hash is that of the fields in the file."""
    write_classifier(tmp_path)
    file = tmp_path / "mood" / "1" / "manifest.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    for later in ("generate", "tag", "manifest_sha256"):
        del fields[later]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    fields["manifest_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    file.write_text(json.dumps(fields), encoding="utf-8")
    assert read_bundle(file.parent).manifest.generate is None
