"""Which part a row goes to: by the first bits of its id, as `slot` does, so that parts are ranges of slots."""

import numpy as np
import pyarrow as pa

from profilelake.engines.engine import PartNumbers
from profilelake.kernels import siphash
from profilelake.kernels.slots import slots_of

SLOTS = 1 << 16


def parts_by_slot(slots: "np.ndarray[tuple[int], np.dtype[np.int32]]", parts: int) -> PartNumbers:
    """Return the part of each slot: `parts` ranges of equal width. `parts` is a power of two up to 65,536."""
    return (slots.astype(np.int64) * parts // SLOTS).astype(np.int32)


def parts_by_id(ids: pa.Array | pa.ChunkedArray, parts: int) -> PartNumbers:
    """Return the part of each 16-byte id, none of which is null."""
    column = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    return parts_by_slot(slots_of(siphash.from_arrow(column.cast(pa.binary(siphash.HASH_BYTES)))), parts)


def power_of_two(wanted: float, least: int = 1, most: int = SLOTS) -> int:
    """Return the least power of two that is below neither `wanted` nor `least`; at most `most`, itself one."""
    return min(most, 1 << int(np.ceil(np.log2(max(1.0, wanted, least)))))
