"""Files written by a command say today what they said when they were written."""

import json

from jsonschema import Draft202012Validator

from service.contract.manifest import json_schema
from service.settings import PREFIX, Settings
from tests.architecture.project_files import ROOT, project_files
from tests.architecture.settings_page import settings_page


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


def test_the_page_of_settings_is_the_one_of_the_service() -> None:
    committed = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert committed == settings_page(), "the settings changed: run `make settings`"


def test_every_setting_is_listed_with_its_default() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = f"`{default:.15g}`" if isinstance(default, float) else f"`{default}`"
        shown = "unset" if default is None else "empty" if default == "" else shown
        assert f"| `{(PREFIX + name).upper()}` | {shown} | {field.description}" in page
