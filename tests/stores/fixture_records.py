"""Files of earlier formats, written by the services of their time, for later ones to read.

    python -m tests.stores.fixture_records      writes fixtures/format_<N>.db and .json, where N is
                                                the latest format; never twice

The JSON beside a file says what its records hold, so that a reader is not checked by itself.
"""

import asyncio
import json
from pathlib import Path

from service.contract.text import UNREAD, TextCursor
from service.stores.record.history import Checkpoint, History, HistoryPolicy, pack_history
from service.stores.record.record import (
    RECORD_FORMAT,
    Key,
    ModelFingerprint,
    Record,
    SessionHeader,
    pack_data,
)
from service.stores.record.replies import pack_reply
from service.stores.sqlite.store import SqliteStore
from tests.stores.support import NOW, Clock

FOLDER = Path(__file__).parent / "fixtures"
TENANTS = ("", "acme")

KEPT = History(
    (b"k" * 16, b""),
    (Checkpoint(2, b"\x01earlier", TextCursor("é", 4)), Checkpoint(3, b"\x02", UNREAD)),
    (b"r1234", b"", b"r5678"),
)
RING = pack_reply(4, 2, bytes(range(16)), b"\x01\x02\x03\x04") + pack_reply(6, 1, b"d" * 16, b"")


def described(record: Record) -> dict:
    """The contents of a record as JSON, independent of its byte format."""
    header = record.header
    return {
        "tenant": header.tenant,
        "name": header.name,
        "origin": list(header.fingerprint),
        "start_s": header.start_s,
        "ring_size": header.ring_size,
        "created_at": header.created_at,
        "metadata": header.metadata,
        "history": header.history,
        "digest": header.digest.hex(),
        "outputs": header.outputs.hex(),
        "revision": record.revision.hex(),
        "step": record.step,
        "closed": record.closed,
        "updated_at": record.updated_at,
        "ttl_s": record.ttl_s,
        "expires_at": record.expires_at,
        "state": record.state.hex(),
        "pending": record.cursor.pending,
        "num_tokens": record.cursor.num_tokens,
        "ring": [
            [each.from_step, each.num_observed, each.digest.hex(), each.outputs.hex()]
            for each in record.kept_replies
        ],
        "keeps": header.keeps and list(header.keeps),
        "keys": [each.key.hex() for each in record.kept_replies],
        "checkpoints": [
            [each.step, each.state.hex(), each.cursor.pending, each.cursor.num_tokens]
            for each in record.history.checkpoints
        ],
        "observations": [each.hex() for each in record.history.observations],
    }


def file_of(version: int) -> Path:
    return FOLDER / f"format_{version}.db"


def described_in(version: int) -> list[dict]:
    return json.loads((FOLDER / f"format_{version}.json").read_text(encoding="utf-8"))


def _header(tenant: str, name: str, model: str, **fields) -> SessionHeader:
    fingerprint = ModelFingerprint(model, "3", f"{model}-state/1", "ab" * 32)
    return SessionHeader(
        tenant=tenant,
        name=name,
        fingerprint=fingerprint,
        created_at=NOW - 50.25,
        digest=b"c" * 16,
        **fields,
    )


async def _write(path: Path) -> list[dict]:
    """One of each kind of session, in each tenant: rows, text, closed, final, just opened."""
    store = SqliteStore.open(path, "power", Clock())
    keys = []
    kept_past = pack_history(KEPT)
    for tenant in TENANTS:
        past = _header(tenant, "past", "load", ring_size=2, keeps=HistoryPolicy(2, 5, 3))
        rows = _header(
            tenant, "rows", "load", start_s=86_400, ring_size=2, history=4, outputs=b"\x00out",
            metadata={"place": "Clark/Lake", "n": [1, None, 2.5], "이름": "역"},
        )  # fmt: skip
        text = _header(tenant, "text.~-", "mood", ring_size=4)
        cursor = TextCursor(" 최고👍", 3)
        for header, data, ending in [
            (past, pack_data(7, b"s", UNREAD, RING, 2, 60.0, NOW, history=kept_past), None),
            (rows, pack_data(7, bytes(range(256)), UNREAD, RING, 2, 3600.5, NOW), None),
            (text, pack_data(2**40, b"\xff\x00", cursor, RING, 2, 1e6, NOW - 1), None),
            (_header(tenant, "new", "load"), pack_data(0, b"s", UNREAD, b"", 0, 60.0, NOW), None),
            (_header(tenant, "gone", "load"), pack_data(3, b"s", UNREAD, RING, 2, 9.0, NOW),
             pack_data(3, b"", UNREAD, RING, 2, 0.0, NOW, "deleted")),
            (_header(tenant, "done", "mood"), pack_data(1, b"s", cursor, b"", 0, 9.0, NOW),
             pack_data(2, b"", UNREAD, RING, 2, 0.0, NOW, "final")),
        ]:  # fmt: skip
            [kept] = await store.commit([(header, data, None)])
            if ending is not None:
                await store.commit([(header, ending, kept)])
            keys.append(Key(tenant, header.name))
    records = [await store.load(key) for key in keys]
    await store.close()
    return [described(record) for record in records if record]


def main() -> None:
    path = file_of(RECORD_FORMAT)
    assert not path.exists(), f"{path} is what a service of its time wrote: never write it again"
    records = asyncio.run(_write(path))
    text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
