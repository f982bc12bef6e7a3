"""Lua scripts that run on the servers. Each is atomic, uses one slot, and declares its keys.

Every script reads the server's clock, so that all replicas agree on what has expired. Tests pass a
time as the last argument instead; otherwise it is "".

A session is one hash at one key:

    r  revision       x  expires_at, seconds since the epoch      c  why it is closed, or ""
    d  data           o  header; both begin with their checksum of 4 bytes
    m  model          v  version (of the model), for the sweeper

A named value is a string with its own key. Sessions have two indexes, in shards: `names`, for
lists, and `due`, a lower bound of the expiry. Both have the same slot. An entry is written before
its session and may outlive it; it is removed only if its time has not changed since it was read.
"""

from hashlib import sha1
from typing import Final

from redis.exceptions import NoScriptError

from service.stores.redis.topology import Command, Topology


class Script:
    """A script and its digest, by which a server that has it runs it."""

    def __init__(self, source: str) -> None:
        self.source = _NOW + source
        self.digest = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class ScriptCall:
    """One call of a script; the first key selects the server."""

    __slots__ = ("arguments", "keys", "script")

    def __init__(self, script: Script, keys: list[bytes], *arguments: bytes | str | float) -> None:
        self.script = script
        self.keys = keys
        self.arguments = arguments

    def command(self, *, is_known: bool) -> Command:
        name = ("EVALSHA", self.script.digest) if is_known else ("EVAL", self.script.source)
        return Command(self.keys[0], (*name, len(self.keys), *self.keys, *self.arguments))


async def run_scripts(
    servers: Topology, calls: list[ScriptCall], due_at: float | None = None
) -> list[object]:
    """Replies in order, in one round trip, or two if a server does not have a script yet.

    `due_at`: see `Node.send`.
    """
    if not calls:
        return []
    replies = await servers.send([call.command(is_known=True) for call in calls], due_at)
    unknown = [index for index, each in enumerate(replies) if isinstance(each, NoScriptError)]
    if unknown:
        retried = await servers.send(
            [calls[index].command(is_known=False) for index in unknown], due_at
        )
        for index, reply in zip(unknown, retried, strict=True):
            replies[index] = reply
    return replies


_NOW: Final = """
local now = tonumber(ARGV[#ARGV])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
local function text(number) return string.format('%.17g', number) end
"""

STEP: Final = Script("""
-- KEYS: session. ARGV: revision of the base, new revision, ttl_s, why closed, data; then
-- header, model, version if the header changes, else three times "".
local found = redis.call('HMGET', KEYS[1], 'r', 'x', 'c')
if found[1] == ARGV[2] then return found[2] end -- a repeat of the same write
if found[1] ~= ARGV[1] or found[3] ~= '' or tonumber(found[2]) <= now then return false end
local expires_at = text(now + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'r', ARGV[2], 'x', expires_at, 'c', ARGV[4], 'd', ARGV[5])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'o', ARGV[6], 'm', ARGV[7], 'v', ARGV[8])
end
return expires_at
""")
"""→ expires_at, or nil if the base is not stored or not live."""

CREATE: Final = Script("""
-- KEYS: session. ARGV: revision, ttl_s, data, header, model, version.
local found = redis.call('HMGET', KEYS[1], 'r', 'x', 'c')
if found[1] == ARGV[1] then return found[2] end
if found[1] and found[3] == '' and tonumber(found[2]) > now then return false end
local expires_at = text(now + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'r', ARGV[1], 'x', expires_at, 'c', '', 'd', ARGV[3], 'o', ARGV[4],
  'm', ARGV[5], 'v', ARGV[6])
return expires_at
""")
"""→ expires_at, or nil if a live session has this name."""

ANNOUNCE: Final = Script("""
-- KEYS: names, due. ARGV: member, "open" or "close", ttl_s.
local due = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or nil)
local at
if ARGV[2] == 'open' then
  redis.call('ZADD', KEYS[1], 0, ARGV[1])
  at = now + tonumber(ARGV[3])
  -- Not later than now, because a stored session may have expired already.
  if due then at = due <= now and now or math.min(due, at) end
elseif due and due <= now then
  at = due - 0.001 -- changed, so that a sweeper that has read the entry does not remove it
else
  at = now
end
redis.call('ZADD', KEYS[2], text(at), ARGV[1])
return 1
""")
"""Update the indexes before a session is opened or closed."""

RESCHEDULE: Final = Script("""
-- KEYS: due. ARGV: member, its time as read, its new time.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1]) -- a full server refuses scripts whose first write needs memory
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
""")

FORGET: Final = Script("""
-- KEYS: names, due. ARGV: member, its time as read.
if redis.call('ZSCORE', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
""")

USAGE: Final = Script("""
-- KEYS: names. ARGV: first and last member, limit, prefix of the keys of sessions, which are on the
-- same server.
local page = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local num_sessions, num_bytes = 0, 0
for _, member in ipairs(page) do
  local key = ARGV[4] .. member
  local found = redis.call('HMGET', key, 'x', 'c')
  if found[1] and found[2] == '' and tonumber(found[1]) > now then
    num_sessions = num_sessions + 1
    num_bytes = num_bytes + redis.call('HSTRLEN', key, 'o') + redis.call('HSTRLEN', key, 'd')
  end
end
return {num_sessions, num_bytes, page[tonumber(ARGV[3])] or ''}
""")
"""→ live sessions, their bytes, and the last member if there may be more. Not for a cluster."""

REMOVE: Final = Script("""
-- KEYS: session. ARGV: revision, the time before which it must have expired.
local found = redis.call('HMGET', KEYS[1], 'r', 'x')
if found[1] ~= ARGV[1] or tonumber(found[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
return 1
""")
"""→ 1 if this call removed the session."""

SWAP: Final = Script("""
-- KEYS: a named value. ARGV: the expected value, "" for none; the new value.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
""")
"""→ 1 if the new value was set."""
