"""MessagePack of whole columns: the records of `state.records` for many keys at once.

Each function returns a column of `large_binary` with the bytes that `state.records.encode` writes; `record`
puts the fields of a row together, `lists` and `maps` the items of a row.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Internal

Packed: TypeAlias = pa.LargeBinaryArray
Int64s: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]

_NIL: Final = pa.scalar(b"\xc0", pa.large_binary())
_NOTHING: Final = pa.scalar(b"", pa.large_binary())
_INT_CODES: Final = ((1, 0xCC, 0xD0), (2, 0xCD, 0xD1), (4, 0xCE, 0xD2), (8, 0xCF, 0xD3))
"""Bytes of a number, its code without a sign, its code with one."""


def integers(values: npt.NDArray[np.integer]) -> Packed:
    """Return whole numbers."""
    wide = values.astype(np.int64)
    width = np.full(len(wide), 8, dtype=np.int64)
    code = np.where(wide < 0, 0xD3, 0xCF)
    for bytes_, plain, signed in reversed(_INT_CODES[:-1]):
        bits = 8 * bytes_
        fits = np.where(wide < 0, wide >= -(1 << (bits - 1)), wide < (1 << bits))
        width[fits] = bytes_
        code[fits] = np.where(wide[fits] < 0, signed, plain)
    small = (wide >= -32) & (wide < 128)
    width[small] = 0
    code[small] = wide[small] & 0xFF
    return _numbered(code, wide, width)


def decimals(values: npt.NDArray[np.float64]) -> Packed:
    """Return numbers with a fraction; all that are no numbers alike."""
    plain = np.where(np.isnan(values), np.nan, values.astype(np.float64))
    written = np.empty((len(plain), 9), dtype=np.uint8)
    written[:, 0] = 0xCB
    written[:, 1:] = plain.astype(">f8").view(np.uint8).reshape(-1, 8)
    ends = pa.py_buffer(np.arange(0, 9 * len(plain) + 1, 9, dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(plain), [None, ends, pa.py_buffer(written)]
    )


def or_nil(values: Packed, there: npt.NDArray[np.bool_]) -> Packed:
    """Return the values, nil where there is none."""
    return values if there.all() else pc.if_else(pa.array(there), values, _NIL)


def booleans(values: npt.NDArray[np.bool_]) -> Packed:
    """Return truth values."""
    return pa.array((b"\xc2", b"\xc3"), pa.large_binary()).take(pa.array(values.astype(np.int8)))


def texts(values: pa.Array | pa.ChunkedArray) -> Packed:
    """Return texts; a null is nil."""
    return _with_heads(values, ((32, 0xA0, 0), (1 << 8, 0xD9, 1), (1 << 16, 0xDA, 2), (1 << 32, 0xDB, 4)))


def binaries(values: pa.Array | pa.ChunkedArray) -> Packed:
    """Return bytes; a null is nil."""
    return _with_heads(values, ((1 << 8, 0xC4, 1), (1 << 16, 0xC5, 2), (1 << 32, 0xC6, 4)))


def record(*fields: Packed) -> Packed:
    """Return a record of these fields in each row."""
    count = len(fields)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return pc.binary_join_element_wise(pa.scalar(head, pa.large_binary()), *fields, _NOTHING)


def lists(items: Packed, starts: Int64s) -> Packed:
    """Return lists: row r has the items from `starts[r]` up to `starts[r + 1]`."""
    heads = _heads(np.diff(starts), ((16, 0x90, 0), (1 << 16, 0xDC, 2), (1 << 32, 0xDD, 4)))
    return pc.binary_join_element_wise(heads, joined(items, starts), _NOTHING)


def maps(keys: Packed, values: Packed, starts: Int64s) -> Packed:
    """Return maps: row r has the pairs from `starts[r]` up to `starts[r + 1]`."""
    heads = _heads(np.diff(starts), ((16, 0x80, 0), (1 << 16, 0xDE, 2), (1 << 32, 0xDF, 4)))
    pairs = pc.binary_join_element_wise(keys, values, _NOTHING)
    return pc.binary_join_element_wise(heads, joined(pairs, starts), _NOTHING)


def joined(items: Packed, starts: Int64s) -> Packed:
    """Return in each row the bytes of its items, which follow one another, so none are copied."""
    _, offsets, data = items.buffers()
    if not len(items):
        return pa.array([b""] * (len(starts) - 1), pa.large_binary())
    places = np.frombuffer(offsets, dtype=np.int64)[items.offset : items.offset + len(items) + 1]
    ends = pa.py_buffer(np.ascontiguousarray(places[starts]))
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(starts) - 1, [None, ends, data or pa.py_buffer(b"")]
    )


def _with_heads(values: pa.Array | pa.ChunkedArray, forms: tuple[tuple[int, int, int], ...]) -> Packed:
    column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    column = column.cast(pa.large_binary())
    sizes = pc.binary_length(column).fill_null(0).to_numpy().astype(np.int64)
    packed = pc.binary_join_element_wise(_heads(sizes, forms), column, _NOTHING)
    return packed.fill_null(_NIL) if column.null_count else packed


def _heads(sizes: Int64s, forms: tuple[tuple[int, int, int], ...]) -> Packed:
    """Return what stands before texts, bytes, lists and maps: a code, and the size where it is not in it."""
    code, width = np.zeros(len(sizes), dtype=np.int64), np.zeros(len(sizes), dtype=np.int64)
    fitting = np.zeros(len(sizes), dtype=np.bool_)
    for below, first, bytes_ in forms:
        chosen = ~fitting & (sizes < below)
        code[chosen] = first if bytes_ else first | sizes[chosen]
        width[chosen] = bytes_
        fitting |= chosen
    if not fitting.all():
        raise Internal(f"packing records: {int(sizes.max())} are more than MessagePack can count")
    return _numbered(code, sizes, width)


def _numbered(code: npt.NDArray[np.integer], numbers: Int64s, width: Int64s) -> Packed:
    """Return in each row its code, then the last `width` bytes of its number, greatest first."""
    most = int(width.max(initial=0))
    written = np.empty((len(numbers), 1 + most), dtype=np.uint8)
    written[:, 0] = code
    for place in range(most):
        # A number of few bytes stands where it ends last, so its first ones come first.
        shift = np.maximum(8 * (width - 1 - place), 0)
        written[:, 1 + place] = (numbers >> shift) & 0xFF
    used: Bytes = written[np.arange(1 + most) <= width[:, None]]
    ends = np.append(0, np.cumsum(1 + width))
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(numbers), [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(used)]
    )
