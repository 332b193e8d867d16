"""Steps 2 and 3 of a rebuild: the identifiers themselves, and which of them may link nothing."""

import numpy as np
import pyarrow as pa

from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.plans.rows import ID


def valued(owned: pa.Table, values: pa.Table) -> pa.Table:
    """Return rows with their `collection`, `type` and `value` from VALUES of the same part, which has all of them."""
    known, asked = (
        siphash.from_arrow(rows.column("ident_id").combine_chunks().cast(ID)) for rows in (values, owned)
    )
    numbers, first = dense_numbers(np.concatenate([known, asked]))
    rows = values.select(["collection", "type", "value"]).take(pa.array(first[numbers[len(known) :]]))
    for name in rows.column_names:
        owned = owned.append_column(name, rows.column(name))
    return owned
