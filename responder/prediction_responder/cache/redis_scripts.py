"""Scripts for the steps of the lease protocol that Redis has no single command for.

A hit needs none of them. All keys of one script share a hash tag, and so a cluster slot. They run on Redis 7.0 and
later and on Valkey.
"""

import hashlib
from dataclasses import dataclass, field

from prediction_responder.cache.generation import GENERATION_LUA
from prediction_responder.cache.port import FAILURES_KEPT_MS, HANDED_OVER_MS, SEEN_BYTES, Slot
from prediction_responder.cache.push import HANDED_OVER, NOTHING, PUSH_LUA, PUSH_MAX_BYTES
from prediction_responder.cache.value import (
    ENTRY_KINDS,
    GENERATION_AT,
    GENERATION_BYTES,
    KEPT_UNTIL_AT,
    MARK_BYTES,
    MARK_GENERATION_AT,
)


@dataclass(frozen=True)
class Script:
    """A script, and the SHA-1 by which Redis calls it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)


# A value stays while a lease stands beside it; otherwise the next miss would claim its place and call the model too. A
# mark is not prolonged. The value's header holds its original expiry, which is restored if the value is not replaced.
_STAYS = f"""
local function is_value(text)
  local kind = string.byte(text, 1)
  return {" or ".join(f"kind == {kind}" for kind in ENTRY_KINDS)}
end
local function stays(name, ms)
  if is_value(redis.call('GETRANGE', name, 0, 0)) and redis.call('PTTL', name) < tonumber(ms) then
    redis.call('PEXPIRE', name, ms)
  end
end
local function ends_as_planned(name)
  local head = redis.call('GETRANGE', name, 0, {KEPT_UNTIL_AT + 7})
  if #head < {KEPT_UNTIL_AT + 8} or not is_value(head) then return end
  local high, low = struct.unpack('>I4I4', string.sub(head, {KEPT_UNTIL_AT + 1}, {KEPT_UNTIL_AT + 8}))
  local ends_at = high * 4294967296 + low
  if redis.call('PEXPIRETIME', name) > ends_at then
    redis.call('PEXPIREAT', name, string.format('%.0f', ends_at))
  end
end
local function generation_of(text)
  if is_value(text) then return string.sub(text, {GENERATION_AT + 1}, {GENERATION_AT + GENERATION_BYTES}) end
  return string.sub(text, {MARK_GENERATION_AT + 1}, {MARK_GENERATION_AT + GENERATION_BYTES})
end
"""

# KEYS: refresh slot, value. ARGV: mark, milliseconds, first bytes of the value. Returns nothing for a claim that was
# granted, else what the slot holds and its TTL; -1 as the TTL when the value is another one.
CLAIM_BESIDE = Script(f"""{_STAYS}
if ARGV[3] ~= '' and redis.call('GETRANGE', KEYS[2], 0, #ARGV[3] - 1) ~= ARGV[3] then return {{'', -1}} end
local found = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'GET', 'PX', ARGV[2])
if found then return {{found, redis.call('PTTL', KEYS[1])}} end
stays(KEYS[2], ARGV[2])
return {{}}
""")

# KEYS: slot, value. ARGV: what was seen, mark, milliseconds.
TAKE_OVER = Script(f"""{_STAYS}
if redis.call('GETRANGE', KEYS[1], 0, {SEEN_BYTES - 1}) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if KEYS[1] ~= KEYS[2] then stays(KEYS[2], ARGV[3]) end
return 1
""")

# KEYS: slot, inboxes of followers. ARGV: mark, inbox, milliseconds.
REGISTER = Script(f"""
if redis.call('GETRANGE', KEYS[1], 0, {MARK_BYTES}) ~= ARGV[1] then return -1 end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return math.max(0, redis.call('PTTL', KEYS[1]))
""")

# KEYS: slot, fence, value. ARGV: mark, fence, milliseconds. If the slot is empty, it was lost (eviction, FLUSHALL, a
# restart), or the key was invalidated, and then the fence differs.
RENEW = Script(f"""{_STAYS}
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[2] then return 0 end
local held = redis.call('GETRANGE', KEYS[1], 0, {MARK_BYTES})
if held == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif held == '' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
else
  return 0
end
if KEYS[1] ~= KEYS[3] then stays(KEYS[3], ARGV[3]) end
return 1
""")

# KEYS: value, refresh slot, inboxes of followers, fence, starts, failures, handed-over answer.
# ARGV: slot, mark, content, milliseconds, kind, digest, clear the starts, fence, next mark, its milliseconds, failures.
# A server that is out of memory refuses the SET; the followers get the push all the same. A commit that comes too late
# erases the starts too: its process survived, so an input whose leaders are only slow gets no crash count.
COMMIT = Script(f"""{_STAYS}{PUSH_LUA}
if ARGV[7] == '1' then redis.call('DEL', KEYS[5]) end
if (redis.call('GET', KEYS[4]) or '') ~= ARGV[8] then return 0 end
local kept, stores, slot = 1, ARGV[4] ~= '0', KEYS[1]
if ARGV[1] == '{Slot.VALUE.value}' then
  local held = redis.call('GETRANGE', KEYS[1], 0, {MARK_BYTES})
  if held ~= '' and held ~= ARGV[2] then return 0 end
else
  slot = KEYS[2]
  if redis.call('GET', slot) ~= ARGV[2] then return 0 end
  local there = redis.call('GETRANGE', KEYS[1], 0, {GENERATION_AT + GENERATION_BYTES - 1})
  if there ~= '' and generation_of(there) ~= generation_of(ARGV[2]) then
    kept, stores = 0, false
  end
end
if ARGV[11] == '0' then
  redis.call('DEL', KEYS[6])
elseif ARGV[11] ~= '' then
  redis.pcall('SET', KEYS[6], ARGV[11], 'PX', {FAILURES_KEPT_MS})
end
if stores then
  local done = redis.pcall('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  if type(done) == 'table' and done['err'] then kept, stores = 2, false end
end
if slot == KEYS[2] or not stores then redis.call('DEL', slot) end
if slot == KEYS[2] and not stores then ends_as_planned(KEYS[1]) end
if ARGV[9] ~= '' then redis.pcall('SET', slot, ARGV[9], 'PX', ARGV[10]) end
local waiting = redis.call('SMEMBERS', KEYS[3])
if #waiting > 0 then
  redis.call('DEL', KEYS[3])
  local kind, content = ARGV[5], ARGV[3]
  if #content > {PUSH_MAX_BYTES} then
    kind, content = '{NOTHING.decode()}', ''
    if not stores then
      local done = redis.pcall('SET', KEYS[7], ARGV[3], 'PX', {HANDED_OVER_MS})
      if not done['err'] then kind = '{HANDED_OVER.decode()}' end
    end
  end
  local push = push_of(kind, ARGV[6], ARGV[2], content)
  for _, inbox in ipairs(waiting) do redis.call('PUBLISH', inbox, push) end
end
return kept
""")

# KEYS: generation. ARGV: token of the new one.
SETTLE_GENERATION = Script(f"""{GENERATION_LUA}
local there = redis.call('GET', KEYS[1])
if generation_there(there) then return there end
return write_generation(ARGV[1], string.rep(string.char(0), {GENERATION_BYTES}), 0)
""")
RENEW_GENERATION = Script(f"""{GENERATION_LUA}
local there = redis.call('GET', KEYS[1])
if not there then return 0 end
local previous, after_ms = string.rep(string.char(0), {GENERATION_BYTES}), 0
if generation_there(there) then previous, after_ms = string.sub(there, 2, {1 + GENERATION_BYTES}), at_of(there) + 1 end
write_generation(ARGV[1], previous, after_ms)
return 1
""")

ALL = (CLAIM_BESIDE, TAKE_OVER, REGISTER, RENEW, COMMIT, SETTLE_GENERATION, RENEW_GENERATION)
