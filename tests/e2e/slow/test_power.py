"""What `power` and `process` promise, shown by the system calls of the real service.

A power cut is made at many moments of a trace: the file as it would lie on the disk is opened, and
must hold every step that was answered until then.
"""

import json
import random
import re
import time
from collections import Counter
from pathlib import Path

import apsw
import pytest

from service.stores.record.checksummed import decode_record
from tests.e2e.fault_run import new_seed, run_clients
from tests.e2e.server import running_server
from tests.e2e.system_calls import SENDS, SYNCS, WRITES, Disk, events_of, traced
from tests.fakes.bundles import write_forecaster
from tests.system import require_program

NUM_CLIENTS, NUM_STEPS = 8, 25
NUM_CUTS = 150
PARTS = (0.0, 0.5, 1.0)
"""Of what was not synced: nothing, or each write by chance, or all of it is on the disk."""

RECORDS = """
SELECT opening, sessions.checksum, data, states.checksum FROM sessions JOIN states USING (id)
"""


async def nothing_goes_wrong(progress, rng):
    await progress.reaches(progress.total)


async def trace(tmp_path, durability, seed):
    """The events of a service under load, from its start to its end."""
    strace = require_program("strace", package="strace")
    write_forecaster(tmp_path / "models")
    log = tmp_path / "trace"
    with running_server(
        tmp_path,
        prefix=traced(strace, log),
        models=tmp_path / "models",
        store=f"sqlite:///{tmp_path}/carry.db",
        durability=durability,
    ) as server:
        await run_clients(
            [server.url], tmp_path / "models", NUM_CLIENTS, NUM_STEPS, nothing_goes_wrong, seed=seed
        )
        assert server.stop() == 0
    wait_for_end(log, server.process.pid)
    return [each for each in events_of(log) if is_of_store(each) or each.call.name in SENDS]


def wait_for_end(log, pid):
    """strace is a moment behind the process that it traces."""
    deadline = time.monotonic() + 30
    while not re.search(rf"^{pid} +\+\+\+ exited with 0", log.read_text(), re.MULTILINE):
        assert time.monotonic() < deadline, "the trace has no end"
        time.sleep(0.05)


def is_of_store(event):
    return Path(event.call.path).name in ("carry.db", "carry.db-wal")


def answered_step(event):
    """(session, step) of a reply that is handed to the system; else None."""
    if event.is_end or event.call.name not in SENDS:
        return None
    head, _, body = event.call.data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200") or b'"prediction"' not in body:
        return None
    answer = json.loads(body)
    return answer["session"], answer["step"]


def steps_after_a_cut(folder: Path) -> Counter:
    db = apsw.Connection(str(folder / "carry.db"))
    records = [decode_record(*row) for row in db.execute(RECORDS)]
    db.close()
    return Counter({record.header.name: record.step for record in records})


def lost_at(events, cuts, parts, seed, folder):
    """Cut at these events: what was answered and is not there, as (event, session, step, found)."""
    disk, rng, answered, lost = Disk(), random.Random(seed), {}, []
    for number, event in enumerate(events):
        if reply := answered_step(event):
            answered[reply[0]] = max(reply[1], answered.get(reply[0], 0))
        if is_of_store(event):
            disk.apply(event)
        if number not in cuts or not answered:
            continue
        place = folder / f"cut-{number}"
        place.mkdir()
        disk.lay_down(place, parts[number % len(parts)], rng)
        found = steps_after_a_cut(place)
        lost += [
            (number, *each, found[each[0]]) for each in answered.items() if found[each[0]] < each[1]
        ]
    assert answered == {f"client-{place}": NUM_STEPS for place in range(NUM_CLIENTS)}
    return lost


def cuts_of(events, seed):
    first = next(number for number, event in enumerate(events) if answered_step(event))
    places = range(first, len(events))
    return {*random.Random(seed).sample(places, min(NUM_CUTS, len(places))), len(events) - 1}


async def test_with_power_a_power_cut_at_any_moment_takes_nothing_that_was_answered(tmp_path):
    seed = new_seed()
    events = await trace(tmp_path, "power", seed)
    assert lost_at(events, cuts_of(events, seed), PARTS, seed, tmp_path) == [], f"TEST_SEED={seed}"
    # The test can fail: where the replies do not wait for syncs, the same trace loses steps.
    replies = [number for number, event in enumerate(events) if answered_step(event)]
    served = [e for e in events[replies[0] : replies[-1] + 1] if e.call.name not in SYNCS]
    unsynced = events[: replies[0]] + served
    (tmp_path / "unsynced").mkdir()
    assert lost_at(unsynced, {len(unsynced) - 1}, (0.0,), seed, tmp_path / "unsynced")


async def test_with_process_no_group_waits_for_a_sync_and_a_killed_process_loses_nothing(tmp_path):
    seed = new_seed()
    events = await trace(tmp_path, "process", seed)
    replies = [number for number, event in enumerate(events) if answered_step(event)]
    served = events[replies[0] : replies[-1]]
    assert not [event for event in served if event.call.name in SYNCS]
    assert [event for event in served if event.call.name in WRITES]
    # What was handed to the system is there after a kill.
    cuts = {number for number in cuts_of(events, seed) if number <= replies[-1]}
    assert lost_at(events, cuts, (1.0,), seed, tmp_path) == [], f"TEST_SEED={seed}"


@pytest.mark.parametrize("name", ["fdatasync", "fsync"])
def test_a_sync_holds_for_what_was_written_before_it_was_asked_for(tmp_path, name):
    log = tmp_path / "log"
    hexed = "".join(f"\\x{byte:02x}" for byte in b"/d/carry.db")
    log.write_text(
        f'1 pwrite64(3<{hexed}>, "\\x61\\x62", 2, 0) = 2\n'
        f"2 {name}(4<{hexed}> <unfinished ...>\n"
        f'1 pwrite64(3<{hexed}>, "\\x63", 1, 2 <unfinished ...>\n'
        "1 <... pwrite64 resumed>) = 1\n"
        f"2 <... {name} resumed>) = 0\n"
        f"1 {name}(3<{hexed}>) = -1 EIO (Input/output error)\n"
    )
    disk = Disk()
    for event in events_of(log):
        disk.apply(event)
    for part, content in [(0.0, b"ab"), (1.0, b"abc")]:
        disk.lay_down(tmp_path, part, random.Random(0))
        assert (tmp_path / "carry.db").read_bytes() == content
