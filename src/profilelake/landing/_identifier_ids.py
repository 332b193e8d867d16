"""The ids of identifiers, a whole column of them at a time."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels import siphash
from profilelake.semantics.identifiers import ident_prefix
from profilelake.semantics.rules import Collection


def ident_hashes(
    key: bytes, collection: Collection, types: pa.ChunkedArray, values: pa.ChunkedArray
) -> siphash.Words:
    """Return the identifier ids of (type, value) rows; `semantics.identifiers.ident_id` is the meaning."""
    encoded = pc.dictionary_encode(types).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no rows: Arrow gives no chunk to combine
        return np.zeros((0, 2), dtype=np.uint64)
    prefixes = [ident_prefix(collection, name) for name in encoded.dictionary.to_pylist()]
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    return siphash.hash_typed(key, prefixes, codes, values)
