"""The commit of user states as one Lua script, so that several rankers may write the states of a tenant.

Each ranker follows the log at its own pace. A state therefore lies behind the place it was read through, and the script
leaves one alone that was read further: a ranker that is behind never puts an older state over a newer one. It imports
no client and opens no connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import orjson

from features.redis_extra import seal_state, unseal_state
from features.user_state import UserState

_PLACE = struct.Struct(">Q")

COMMIT = """
local held, flat = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do held[flat[i]] = tonumber(flat[i + 1]) end
for name, at in pairs(cjson.decode(ARGV[3])) do
  if (held[name] or 0) < at then return {0, flat} end
end
redis.call('SET', KEYS[2], ARGV[1])
for i = 3, #KEYS do
  local new, old = ARGV[i + 2], redis.call('GETRANGE', KEYS[i], 8, 15)
  if new == '' then
    redis.call('UNLINK', KEYS[i])
  else
    local ahead = false
    if #old == 8 then
      local part, high, low = struct.unpack('>HHI4', old)
      local mine, mine_high, mine_low = struct.unpack('>HHI4', new:sub(9, 16))
      ahead = part == mine and (high > mine_high or high == mine_high and low > mine_low)
    end
    if not ahead then redis.call('SET', KEYS[i], new, 'EX', ARGV[2]) end
  end
end
for name, at in pairs(cjson.decode(ARGV[4])) do
  if at > (held[name] or 0) then redis.call('HSET', KEYS[1], name, string.format('%.0f', at)) end
end
return {1, redis.call('HGETALL', KEYS[1])}
"""
"""KEYS: offsets, format, a key a state. ARGV: format, time to live (s), the offsets that must still be there and those
to move to (JSON), a value a state ('': forget it). Returns (1, all offsets), or (0, all offsets) where some have gone
back; then nothing was written."""


def sealed(state: UserState) -> bytes:
    """What lies in Redis: xxh3 of the rest (8 bytes), the place it was read through (8, big endian), the state."""
    return seal_state(_PLACE.pack(state.offset) + state.encode())


def unsealed(data: bytes) -> bytes | None:
    """The encoded state; None where the bytes are not those that were written."""
    body = unseal_state(data)
    return None if body is None or len(body) < _PLACE.size else body[_PLACE.size :]


def arguments(
    version: int, ttl: int, known: Mapping[str, int], offsets: Mapping[str, int], values: Iterable[bytes]
) -> Sequence[bytes | int]:
    """ARGV of the script."""
    return [version, ttl, orjson.dumps(dict(known)), orjson.dumps(dict(offsets)), *values]
