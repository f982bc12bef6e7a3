"""Files written by a command say today what they said when they were written."""

import json

from jsonschema import Draft202012Validator

from service.contract.manifest import json_schema
from tests.architecture.project_files import ROOT, project_files


def test_manifest_schema_is_the_one_of_the_contract() -> None:
    committed = (ROOT / "models/manifest.schema.json").read_text(encoding="utf-8")
    assert committed == json_schema(), "the manifest changed: run `make schema`"


def test_committed_manifests_fit_the_schema() -> None:
    schema = json.loads(json_schema())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for path in project_files(".json"):
        if path.name == "manifest.json" and path.parts[0] == "models":
            validator.validate(json.loads((ROOT / path).read_text(encoding="utf-8")))
