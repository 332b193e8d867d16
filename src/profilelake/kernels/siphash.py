"""SipHash-2-4-128 over whole Arrow columns: the fast form of `semantics.siphash`.

A hash is one row of a `uint64[n, 2]` array: the sixteen bytes of `siphash128` as two little-endian
words, so `words.view(np.uint8)` gives the bytes themselves, without a copy (`to_arrow`, `from_arrow`).
"""

import sys
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Internal, Invalid
from profilelake.kernels._compiled import compiled, read_only

Words: TypeAlias = npt.NDArray[np.uint64]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Offsets: TypeAlias = npt.NDArray[np.int64]
_Four: TypeAlias = tuple[np.uint64, np.uint64, np.uint64, np.uint64]

HASH_BYTES: Final = 16

_U = np.uint64
_INIT_0, _INIT_1 = _U(0x736F6D6570736575), _U(0x646F72616E646F6D ^ 0xEE)
_INIT_2, _INIT_3 = _U(0x6C7967656E657261), _U(0x7465646279746573)
_END_FIRST, _END_SECOND = _U(0xEE), _U(0xDD)


def hash_strings(key: bytes, prefix: bytes, values: pa.Array | pa.ChunkedArray) -> Words:
    """Return `siphash128(key, prefix + value)` of every string or binary value.

    A null gives two zero words; `values.is_null()` tells it from a hash.
    """
    return hash_typed(key, [prefix], np.zeros(len(values), dtype=np.int32), values)


def hash_typed(
    key: bytes,
    prefixes: Sequence[bytes],
    codes: npt.NDArray[np.int32],
    values: pa.Array | pa.ChunkedArray,
) -> Words:
    """Return `siphash128(key, prefixes[code] + value)` of every row: one pass over mixed types."""
    if len(codes) != len(values):
        raise Internal(f"hashing identifiers: {len(codes)} codes for {len(values)} values")
    if len(codes) and (codes.min() < 0 or codes.max() >= len(prefixes)):
        raise Internal(f"hashing identifiers: a code lies outside the {len(prefixes)} prefixes")
    state = _key_state(key)
    heads = np.frombuffer(b"".join(prefixes), dtype=np.uint8)
    head_offsets = np.concatenate(([0], np.cumsum([len(prefix) for prefix in prefixes]))).astype(np.int64)
    absorbed = np.empty((len(prefixes), 4), dtype=np.uint64)
    carried = np.empty(len(prefixes), dtype=np.uint64)
    out = np.empty((len(values), 2), dtype=np.uint64)
    start = 0
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        stop = start + len(chunk)
        data, offsets = _buffers(chunk)
        _hash_typed(
            state,
            read_only(heads, np.uint8),
            read_only(head_offsets, np.int64),
            read_only(codes[start:stop], np.int32),
            read_only(data, np.uint8),
            read_only(offsets, np.int64),
            absorbed,
            carried,
            out[start:stop],
        )
        if chunk.null_count:
            out[start:stop][np.asarray(chunk.is_null())] = 0
        start = stop
    return out


def set_ids(key: bytes, prefix: bytes, ids: Words, offsets: Offsets) -> Words:
    """Return for each group `siphash128(key, prefix + its ids in byte order, joined)`.

    Group g holds rows `offsets[g]` to `offsets[g + 1]` of `ids`. The order of rows inside a group
    does not matter; equal rows are not merged.
    """
    if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > len(ids) or (np.diff(offsets) < 0).any():
        raise Internal(f"hashing sets: {len(offsets)} offsets do not divide {len(ids)} ids")
    out = np.empty((len(offsets) - 1, 2), dtype=np.uint64)
    head = np.frombuffer(prefix, dtype=np.uint8)
    sizes = np.diff(offsets)
    room = np.empty((int(sizes.max(initial=0)), 2), dtype=np.uint64)
    message = np.empty(len(head) + HASH_BYTES * len(room), dtype=np.uint8)
    message[: len(head)] = head
    _set_ids(
        _key_state(key),
        len(head),
        read_only(ids, np.uint64),
        read_only(offsets, np.int64),
        room,
        message,
        out,
    )
    return out


def to_arrow(words: Words) -> pa.FixedSizeBinaryArray:
    """Return hashes as a column of sixteen bytes each."""
    buffer = pa.py_buffer(np.ascontiguousarray(words))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(HASH_BYTES), len(words), [None, buffer])


def from_arrow(values: pa.Array | pa.ChunkedArray) -> Words:
    """Return a column of sixteen bytes each as words; a null gives whatever its slot holds."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if values.type != pa.binary(HASH_BYTES):
        raise Internal(f"reading hashes: the column is {values.type}, expected {pa.binary(HASH_BYTES)}")
    if len(values) == 0:
        return np.empty((0, 2), dtype=np.uint64)
    words = np.frombuffer(values.buffers()[1], dtype=np.uint64)
    return words.reshape(-1, 2)[values.offset : values.offset + len(values)]


def to_bytes(words: Words) -> list[bytes]:
    """Return hashes as Python bytes, for small numbers of them."""
    joined = np.ascontiguousarray(words).tobytes()
    return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]


def warm() -> None:
    """Compile (or load from the cache) everything here, so that no request waits for it."""
    words = hash_strings(bytes(HASH_BYTES), b"", pa.array([""]))
    set_ids(bytes(HASH_BYTES), b"", words, np.array([0, 1], dtype=np.int64))


def _key_state(key: bytes) -> Words:
    if len(key) != HASH_BYTES:
        raise Invalid(f"hashing identifiers: the key has {len(key)} bytes; give exactly {HASH_BYTES}")
    if sys.byteorder != "little":
        raise Internal("hashing identifiers: the compiled form needs a little-endian machine")
    k0, k1 = np.frombuffer(key, dtype=np.uint64)
    return np.array([k0 ^ _INIT_0, k1 ^ _INIT_1, k0 ^ _INIT_2, k1 ^ _INIT_3], dtype=np.uint64)


def _buffers(chunk: pa.Array) -> tuple[Bytes, Offsets]:
    """Return the bytes of a column and, for its slice, where each value starts (one more at the end)."""
    if pa.types.is_dictionary(chunk.type) or pa.types.is_string_view(chunk.type):
        chunk = pc.cast(chunk, pa.large_string())
    if pa.types.is_string(chunk.type) or pa.types.is_binary(chunk.type):
        width: type[np.int32] | type[np.int64] = np.int32
    elif pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type):
        width = np.int64
    else:
        raise Internal(f"hashing identifiers: cannot hash a column of {chunk.type}; give text or binary")
    _, offsets, data = chunk.buffers()
    if len(chunk) == 0:
        return np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    starts = np.frombuffer(offsets, dtype=width)[chunk.offset : chunk.offset + len(chunk) + 1]
    # A column of empty values may come without a data buffer.
    content = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, dtype=np.uint8)
    return content, starts.astype(np.int64)


@compiled
def _rotate(word: np.uint64, bits: int) -> np.uint64:
    return (word << _U(bits)) | (word >> _U(64 - bits))


@compiled
def _round(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64) -> _Four:
    v0 += v1
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 += v3
    v3 = _rotate(v3, 16) ^ v2
    v0 += v3
    v3 = _rotate(v3, 21) ^ v0
    v2 += v1
    v1 = _rotate(v1, 17) ^ v2
    v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


@compiled
def _word(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64, word: np.uint64) -> _Four:
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ word, v1, v2, v3


@compiled
def _finish(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64, out: Words, row: int) -> None:
    v2 ^= _END_FIRST
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    out[row, 0] = v0 ^ v1 ^ v2 ^ v3
    v1 ^= _END_SECOND
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    out[row, 1] = v0 ^ v1 ^ v2 ^ v3


@compiled
def _load(data: Bytes, at: int) -> np.uint64:
    # The compiler turns these eight reads into one.
    return (
        _U(data[at])
        | _U(data[at + 1]) << _U(8)
        | _U(data[at + 2]) << _U(16)
        | _U(data[at + 3]) << _U(24)
        | _U(data[at + 4]) << _U(32)
        | _U(data[at + 5]) << _U(40)
        | _U(data[at + 6]) << _U(48)
        | _U(data[at + 7]) << _U(56)
    )


@compiled
def _load_part(data: Bytes, start: int, stop: int) -> np.uint64:
    word = _U(0)
    for at in range(start, stop):
        word |= _U(data[at]) << _U(8 * (at - start))
    return word


@compiled
def _hash_typed(
    key: Words,
    heads: Bytes,
    head_offsets: Offsets,
    codes: npt.NDArray[np.int32],
    data: Bytes,
    offsets: Offsets,
    absorbed: Words,
    carried: Words,
    out: Words,
) -> None:
    """Hash head + value without joining them.

    The whole words of each head are absorbed once, before the rows; its last 0 to 7 bytes are
    carried into the first word of the value, and so every word of the value is shifted by them.
    """
    for code in range(head_offsets.size - 1):
        v0, v1, v2, v3 = key[0], key[1], key[2], key[3]
        at, end = head_offsets[code], head_offsets[code + 1]
        while at + 8 <= end:
            v0, v1, v2, v3 = _word(v0, v1, v2, v3, _load(heads, at))
            at += 8
        absorbed[code, 0], absorbed[code, 1], absorbed[code, 2], absorbed[code, 3] = v0, v1, v2, v3
        carried[code] = _load_part(heads, at, end)

    for row in range(codes.size):
        code = codes[row]
        head_size = head_offsets[code + 1] - head_offsets[code]
        v0, v1, v2, v3 = absorbed[code, 0], absorbed[code, 1], absorbed[code, 2], absorbed[code, 3]
        word = carried[code]
        shift = _U(8 * (head_size & 7))
        at, end = offsets[row], offsets[row + 1]
        length = _U(head_size + end - at)
        while at + 8 <= end:
            more = _load(data, at)
            v0, v1, v2, v3 = _word(v0, v1, v2, v3, word | more << shift)
            # Two shifts, because shifting a word by all its 64 bits is undefined.
            word = (more >> _U(1)) >> (_U(63) - shift)
            at += 8
        more = _load_part(data, at, end)
        word |= more << shift
        if (shift >> _U(3)) + _U(end - at) >= _U(8):
            v0, v1, v2, v3 = _word(v0, v1, v2, v3, word)
            word = (more >> _U(1)) >> (_U(63) - shift)
        v0, v1, v2, v3 = _word(v0, v1, v2, v3, word | length << _U(56))
        _finish(v0, v1, v2, v3, out, row)


@compiled
def _big_endian(word: np.uint64) -> np.uint64:
    word = (word & _U(0x00FF00FF00FF00FF)) << _U(8) | (word >> _U(8)) & _U(0x00FF00FF00FF00FF)
    word = (word & _U(0x0000FFFF0000FFFF)) << _U(16) | (word >> _U(16)) & _U(0x0000FFFF0000FFFF)
    return word << _U(32) | word >> _U(32)


@compiled
def _set_ids(
    key: Words, head_size: int, ids: Words, offsets: Offsets, room: Words, message: Bytes, out: Words
) -> None:
    for group in range(offsets.size - 1):
        start = offsets[group]
        size = offsets[group + 1] - start
        # Byte order is the order of big-endian words. Insertion, since sets are small.
        for place in range(size):
            high, low = _big_endian(ids[start + place, 0]), _big_endian(ids[start + place, 1])
            while place > 0 and (
                room[place - 1, 0] > high or (room[place - 1, 0] == high and room[place - 1, 1] > low)
            ):
                room[place, 0], room[place, 1] = room[place - 1, 0], room[place - 1, 1]
                place -= 1
            room[place, 0], room[place, 1] = high, low
        for word in range(2 * size):
            value = room[word >> 1, word & 1]
            for byte in range(8):
                message[head_size + 8 * word + byte] = (value >> _U(56 - 8 * byte)) & _U(0xFF)

        end = head_size + HASH_BYTES * size
        v0, v1, v2, v3 = key[0], key[1], key[2], key[3]
        at = 0
        while at + 8 <= end:
            v0, v1, v2, v3 = _word(v0, v1, v2, v3, _load(message, at))
            at += 8
        last = _load_part(message, at, end) | _U(end) << _U(56)
        v0, v1, v2, v3 = _word(v0, v1, v2, v3, last)
        _finish(v0, v1, v2, v3, out, group)
