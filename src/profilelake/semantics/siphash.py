"""SipHash-2-4 with 128-bit output: the keyed hash behind every identifier and set id.

Plain and slow, for single values and as the reference of `kernels.siphash`.
"""

from typing import Final

from profilelake.errors import Invalid

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_State = tuple[int, int, int, int]


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
    whole = len(data) // 8 * 8
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 0xFF])
    for start in range(0, whole + 8, 8):
        block = data[start : start + 8] if start < whole else last
        word = int.from_bytes(block, "little")
        v3 ^= word
        v0, v1, v2, v3 = _rounds((v0, v1, v2, v3), 2)
        v0 ^= word

    v0, v1, v2, v3 = _rounds((v0, v1, v2 ^ 0xEE, v3), 4)
    low = v0 ^ v1 ^ v2 ^ v3
    v0, v1, v2, v3 = _rounds((v0, v1 ^ 0xDD, v2, v3), 4)
    high = v0 ^ v1 ^ v2 ^ v3
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def _rounds(state: _State, count: int) -> _State:
    v0, v1, v2, v3 = state
    for _ in range(count):
        v0 = (v0 + v1) & _MASK
        v1 = _rotate(v1, 13) ^ v0
        v0 = _rotate(v0, 32)
        v2 = (v2 + v3) & _MASK
        v3 = _rotate(v3, 16) ^ v2
        v0 = (v0 + v3) & _MASK
        v3 = _rotate(v3, 21) ^ v0
        v2 = (v2 + v1) & _MASK
        v1 = _rotate(v1, 17) ^ v2
        v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK
