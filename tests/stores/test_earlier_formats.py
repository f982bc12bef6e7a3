"""Sessions of an earlier service are read without a difference, and continue."""

import shutil

import pytest

from service.stores.record.history import pack_history
from service.stores.record.record import RECORD_FORMAT, Key, Record, pack_data
from service.stores.sqlite.store import SqliteStore
from tests.stores.fixture_records import described, described_in, file_of
from tests.stores.support import NOW, commit

FORMATS = range(1, RECORD_FORMAT + 1)


@pytest.fixture(params=FORMATS, ids="format-{}".format)
def written(request):
    """Number of a format."""
    return request.param


@pytest.fixture(params=["power", "process"])
async def old_file(request, written, tmp_path, clock):
    path = tmp_path / "old.db"
    shutil.copy(file_of(written), path)
    opened = SqliteStore.open(path, request.param, clock)
    yield opened
    await opened.close()


def key_of(fields):
    return Key(fields["tenant"], fields["name"])


def assert_read(record, fields):
    """The fields of this file; later services have more."""
    found = described(record)
    assert {name: found[name] for name in fields} == fields


def after(record):
    """The record after a step of this service."""
    replies = record.replies, record.num_replies
    data = pack_data(
        record.step + 1, record.state, record.cursor, *replies, record.ttl_s, NOW,
        history=pack_history(record.history),
    )  # fmt: skip
    return Record(record.header, data)


async def test_every_record_of_an_old_file_is_read_as_it_was_written(old_file, written):
    expected = described_in(written)
    assert len({fields["closed"] for fields in expected}) == 3
    for fields in expected:
        assert_read(await old_file.load(key_of(fields)), fields)


async def test_live_sessions_of_an_old_file_are_listed_and_go_on(old_file, written):
    for tenant in ("", "acme"):
        live = [f for f in described_in(written) if f["tenant"] == tenant and not f["closed"]]
        found = await old_file.list_live(tenant, None, "", 99)
        assert [record.header.name for record in found] == sorted(f["name"] for f in live)
        for record in found:
            kept = await commit(old_file, after(record), record)
            assert (await old_file.load(kept.key)).step == record.step + 1
            assert await commit(old_file, after(record), record) is None


async def test_closed_sessions_of_an_old_file_are_swept_in_time(old_file, written, clock):
    closed = {key_of(fields) for fields in described_in(written) if fields["closed"]}
    clock.now += 601
    assert {each.key for each in await old_file.sweep(99)} == closed


async def test_every_store_takes_over_records_of_an_earlier_format(store, old_file, written):
    """A replica that is not upgraded yet may write them at any time."""
    for fields in described_in(written):
        old = await old_file.load(key_of(fields))
        if old.closed:
            continue
        assert await commit(store, old)
        found = await store.load(old.key)
        assert_read(found, fields)
        assert await commit(store, after(found), found)
