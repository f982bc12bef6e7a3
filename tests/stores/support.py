"""Records to write, and a clock that tests set."""

from service.contract.text import TextCursor
from service.stores.record.record import ModelFingerprint, Record, SessionHeader, pack_data
from service.stores.record.replies import pack_reply

NOW = 1_000_000.0
STATE = b"\x00\x01state"
CURSOR = TextCursor(" 최고👍", 3)
REPLIES = pack_reply(0, 2, b"d" * 16, b"\x01\x02") + pack_reply(2, 1, b"e" * 16, b"")


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


def record_named(name="a", tenant="t", model="load", step=0, ttl_s=100.0, **changes):
    """A new session, not stored yet."""
    header = {
        "fingerprint": ModelFingerprint(model, "1", "s", "g"),
        "start_s": 86400,
        "ring_size": 2,
        "created_at": NOW,
        "metadata": {"place": "Clark/Lake", "n": [1, None]},
        "history": 3,
        "digest": b"c" * 16,
        "outputs": b"out",
    } | changes
    data = pack_data(step, STATE, CURSOR, REPLIES, 2, ttl_s, NOW)
    return Record(SessionHeader(tenant=tenant, name=name, **header), data)


def after(record, closed="", ttl_s=None, state=None):
    """The record after a step, not stored yet."""
    state = record.state if state is None else state
    ttl_s = record.ttl_s if ttl_s is None else ttl_s
    if closed:
        state, ttl_s = b"", 0.0
    data = pack_data(record.step + 1, state, record.cursor, record.replies, 2, ttl_s, NOW, closed)
    return Record(record.header, data)


async def commit(store, record, base=None):
    """The record as it is stored now; None if another writer was first."""
    [kept] = await store.commit([(record.header, record.data, base)])
    return kept


def statements_of(connection):
    """The statements that the connection executes from now on."""
    statements = []
    connection.exec_trace = lambda _, statement, values: statements.append(statement) or True
    return statements


async def opened(store, *names, **fields):
    """New sessions of these names, stored."""
    records = [record_named(name, **fields) for name in names]
    kept = await store.commit([(record.header, record.data, None) for record in records])
    assert None not in kept
    return kept


def unkept(record):
    """The record without the fields that its store sets."""
    return record._replace(expires_at=0.0, rowid=0)
