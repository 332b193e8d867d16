"""SipHash-2-4 with 128-bit output: the keyed hash behind every identifier and set id.

Plain and slow, for single values and as the reference of `kernels.siphash`.
"""

import struct
from typing import Final

from profilelake.errors import Invalid

_MASK: Final = 0xFFFFFFFFFFFFFFFF


def siphash128(key: bytes, data: bytes) -> bytes:
    """Return the 16-byte keyed hash of `data`.

    Who does not know the 16-byte key can neither predict nor craft equal hashes, so ids made
    from it are safe to compare instead of the values, and say nothing about them.
    """
    if len(key) != 16:
        raise Invalid(f"hashing an identifier: the key has {len(key)} bytes; give exactly 16")
    k0 = int.from_bytes(key[:8], "little")
    k1 = int.from_bytes(key[8:], "little")
    v0 = k0 ^ 0x736F6D6570736575
    v1 = k1 ^ 0x646F72616E646F6D ^ 0xEE
    v2 = k0 ^ 0x6C7967656E657261
    v3 = k1 ^ 0x7465646279746573

    # The last word holds the bytes that do not fill eight, and the length in its top byte.
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    words = struct.unpack(f"<{len(padded) // 8}Q", padded)
    low = high = 0
    # Each turn: what goes into v1, v2 and v3 before, and the rounds. The last two turns give the digest.
    for first, second, word, rounds in [
        *((0, 0, word, 2) for word in words),
        (0, 0xEE, 0, 4),
        (0xDD, 0, 0, 4),
    ]:
        v1 ^= first
        v2 ^= second
        v3 ^= word
        # Written out, rotations too: half of the time would go into calls.
        for _ in range(rounds):
            v0 = (v0 + v1) & _MASK
            v1 = ((v1 << 13 | v1 >> 51) & _MASK) ^ v0
            v2 = (v2 + v3) & _MASK
            v3 = ((v3 << 16 | v3 >> 48) & _MASK) ^ v2
            v0 = ((v0 << 32 | v0 >> 32) + v3) & _MASK
            v3 = ((v3 << 21 | v3 >> 43) & _MASK) ^ v0
            v2 = (v2 + v1) & _MASK
            v1 = ((v1 << 17 | v1 >> 47) & _MASK) ^ v2
            v2 = (v2 << 32 | v2 >> 32) & _MASK
        v0 ^= word
        low, high = high, v0 ^ v1 ^ v2 ^ v3
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")
