"""What keeps the newer of two states of a user in Redis, so that several rankers may write them.

Each ranker follows the log at its own pace. A state therefore lies behind the place it was read through, and the script
leaves one alone that was read further: a ranker that is behind never puts an older state over a newer one. It imports
no client and opens no connection.
"""

from __future__ import annotations

import struct

_HEAD = struct.Struct(">BQ")
_MARK = 2  # the first byte of format 1 was 1

KEEP_NEWER = """
for i = 1, #KEYS do
  local new, old = ARGV[i + 1], redis.call('GETRANGE', KEYS[i], 8, 16)
  local ahead = false
  if #old == 9 and old:byte(1) == 2 then
    local part, high, low = struct.unpack('>HHI4', old:sub(2))
    local mine, mine_high, mine_low = struct.unpack('>HHI4', new:sub(10, 17))
    ahead = part == mine and (high > mine_high or high == mine_high and low > mine_low)
  end
  if not ahead then redis.call('SET', KEYS[i], new, 'EX', ARGV[1]) end
end
"""
"""KEYS: one a state. ARGV: time to live (s), a value a state: checksum of 8 bytes, then `marked_with_place`."""

MOVE_ON = """
for i = 1, #ARGV, 2 do
  local held = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '-1')
  if tonumber(ARGV[i + 1]) > held then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
"""
"""KEYS: the hash of offsets. ARGV: name and offset in turn; none goes back."""


def marked_with_place(place: int, state: bytes) -> bytes:
    """A byte that names this form, the place (8, big endian), the encoded state."""
    return _HEAD.pack(_MARK, place) + state


def without_place(body: bytes) -> bytes:
    """The encoded state of `marked_with_place`. Raises ValueError for other bytes."""
    if len(body) < _HEAD.size or body[0] != _MARK:
        raise ValueError(f"its first byte is {body[:1]!r}")
    return body[_HEAD.size :]
