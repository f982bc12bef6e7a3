"""What the servers do by themselves: each script is atomic, touches one slot, and names its keys.

Every script reads the server's clock, so that replicas with clocks of their own agree on what has
expired. A time given as its last argument stands in for it (in tests); "" does not.

A session is one hash at one key:

    r  revision       x  expires_at, seconds since the epoch      c  why it is closed, or ""
    d  data           o  opening, each sealed: a checksum of 4 bytes and what it covers
    m  model          v  version (of the model), for the sweeper

A named value is a string at a key of its own. Beside the sessions lie indexes, in shards: `names`,
for lists, and `due`, the time before which a session cannot be over. They share a slot. An entry is
written before its session and may outlive it; it is taken away only if nobody has touched its time
since it was looked at.
"""

from hashlib import sha1
from typing import Final

from redis.exceptions import NoScriptError

from service.stores.redis.topology import Command, Topology


class Script:
    """A script and the digest that servers know it by."""

    def __init__(self, source: str) -> None:
        self.source = _NOW + source
        self.digest = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Call:
    """One call of a script; the first key says where it runs."""

    __slots__ = ("arguments", "keys", "script")

    def __init__(self, script: Script, keys: list[bytes], *arguments: bytes | str | float) -> None:
        self.script = script
        self.keys = keys
        self.arguments = arguments

    def command(self, *, is_known: bool) -> Command:
        name = ("EVALSHA", self.script.digest) if is_known else ("EVAL", self.script.source)
        return Command(self.keys[0], (*name, len(self.keys), *self.keys, *self.arguments))


async def run_scripts(
    servers: Topology, calls: list[Call], due_at: float | None = None
) -> list[object]:
    """Replies in order, in one round trip, or two where a server does not know a script yet.

    Answered by `due_at`, a time of the event loop's clock, where the caller makes more calls.
    """
    if not calls:
        return []
    replies = await servers.send([call.command(is_known=True) for call in calls], due_at)
    unknown = [index for index, each in enumerate(replies) if isinstance(each, NoScriptError)]
    if unknown:
        again = await servers.send(
            [calls[index].command(is_known=False) for index in unknown], due_at
        )
        for index, reply in zip(unknown, again, strict=True):
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
-- KEYS: session. ARGV: revision of the base, new revision, ttl_s, why closed, data; then, if the
-- opening is another one, opening, model, version, else three times "".
local found = redis.call('HMGET', KEYS[1], 'r', 'x', 'c')
if found[1] == ARGV[2] then return found[2] end -- it is there already: the same write, come again
if found[1] ~= ARGV[1] or found[3] ~= '' or tonumber(found[2]) <= now then return false end
local expires_at = text(now + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'r', ARGV[2], 'x', expires_at, 'c', ARGV[4], 'd', ARGV[5])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'o', ARGV[6], 'm', ARGV[7], 'v', ARGV[8])
end
return expires_at
""")
"""→ expires_at, or nil where the base is not there, live."""

CREATE: Final = Script("""
-- KEYS: session. ARGV: revision, ttl_s, data, opening, model, version.
local found = redis.call('HMGET', KEYS[1], 'r', 'x', 'c')
if found[1] == ARGV[1] then return found[2] end
if found[1] and found[3] == '' and tonumber(found[2]) > now then return false end
local expires_at = text(now + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'r', ARGV[1], 'x', expires_at, 'c', '', 'd', ARGV[3], 'o', ARGV[4],
  'm', ARGV[5], 'v', ARGV[6])
return expires_at
""")
"""→ expires_at, or nil where something live is there."""

ANNOUNCE: Final = Script("""
-- KEYS: names, due. ARGV: member, "open" or "close", ttl_s.
local due = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or nil)
local at
if ARGV[2] == 'open' then
  redis.call('ZADD', KEYS[1], 0, ARGV[1])
  at = now + tonumber(ARGV[3])
  -- Put off only as far as to now: nothing that is there can have expired earlier than it did.
  if due then at = due <= now and now or math.min(due, at) end
elseif due and due <= now then
  at = due - 0.001 -- other than it was, so that a sweeper that has looked already lets it be
else
  at = now
end
redis.call('ZADD', KEYS[2], text(at), ARGV[1])
return 1
""")
"""Say that a session is about to be opened or closed."""

PUT_OFF: Final = Script("""
-- KEYS: due. ARGV: member, its time as seen, its time from now on.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1]) -- a full server lets only who has written already go on
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
""")

FORGET: Final = Script("""
-- KEYS: names, due. ARGV: member, its time as seen.
if redis.call('ZSCORE', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
""")

USAGE: Final = Script("""
-- KEYS: names. ARGV: first and last of what is asked for, how many at most, the head of the keys of
-- sessions, which lie on this server, too.
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
"""→ live sessions, their bytes, and the last name if there may be more. Not for a cluster."""

REMOVE: Final = Script("""
-- KEYS: session. ARGV: revision, the time before which it must have ended.
local found = redis.call('HMGET', KEYS[1], 'r', 'x')
if found[1] ~= ARGV[1] or tonumber(found[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
return 1
""")
"""→ 1 if it was this call that took the session away."""

SWAP: Final = Script("""
-- KEYS: a named value. ARGV: the value that it must have, "" for none; the new one.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
""")
"""→ 1 if the new value was set."""
