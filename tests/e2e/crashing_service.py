"""The service with defects: `python -m tests.e2e.crashing_service PORT`.

What begins with one of these numbers makes something fail that quotes all that it was given, as
`float('…')`, pydantic and Redis do.
"""

import sys

from service.__main__ import main
from service.engine.engine import Engine
from service.engine.graph.runner import Batch
from service.stores.redis.store import RedisStore

AT_SUBMIT, IN_GRAPH, AT_COMMIT = 11_111.0, 22_222.0, 33_333.0

_submit, _run, _commit = Engine.submit, Batch.run, RedisStore.commit
_is_doomed = False


def submit(self, key, request, *more):
    global _is_doomed
    rows = None if request.observations is None else request.observations.rows
    _is_doomed = rows is not None and rows[0, 0] == AT_COMMIT
    if rows is not None and rows[0, 0] == AT_SUBMIT:
        raise ValueError(f"could not convert {rows.tolist()} of {key}")
    return _submit(self, key, request, *more)


def run(self):
    _run(self)
    if any((values == IN_GRAPH).any() for values in self.feeds.values()):
        self.error = RuntimeError(f"failed on { {n: v.tolist() for n, v in self.feeds.items()} }")


async def commit(self, writes):
    if _is_doomed:
        raise ValueError(f"no such command: {writes!r}")
    return await _commit(self, writes)


if __name__ == "__main__":
    Engine.submit, Batch.run, RedisStore.commit = submit, run, commit
    sys.argv = sys.argv[:1]
    main()
