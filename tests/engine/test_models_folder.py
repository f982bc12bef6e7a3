"""What lies in the folder of models is found, whatever is wrong with some of it."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from service.contract.errors import BundleError
from service.engine.models.folder import ModelsFolder
from tests.fakes.bundles import write_classifier, write_forecaster


@pytest.fixture
def folder(tmp_path):
    write_forecaster(tmp_path)
    write_classifier(tmp_path)
    return tmp_path


async def test_a_bundle_with_a_link_that_leads_nowhere_is_found_and_refused_alone(folder):
    with closing(ModelsFolder(folder, "cpu", 1)) as files:
        whole = (await files.look()).found
        (folder / "load" / "1" / "notes.txt").symlink_to("nowhere")
        found = (await files.look()).found
        assert found["load"]["1"] != whole["load"]["1"]
        assert found["mood"] == whole["mood"]
        with pytest.raises(BundleError, match="no links"):
            await files.read("load", "1")
        await files.read("mood", "1")


async def test_a_bundle_that_is_taken_away_while_it_is_looked_at_hides_no_other(
    folder, monkeypatch
):
    stat = Path.stat

    def stat_late(path, **how):
        if path.parent == folder / "load" / "1" and path.parent.exists():
            shutil.rmtree(path.parent)
        return stat(path, **how)

    with closing(ModelsFolder(folder, "cpu", 1)) as files:
        whole = (await files.look()).found
        monkeypatch.setattr(Path, "stat", stat_late)
        assert (await files.look()).found["mood"] == whole["mood"]
        assert (await files.look()).found == {"mood": whole["mood"]}
