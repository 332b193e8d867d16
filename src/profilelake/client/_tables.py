"""Results of SQL. Arrow is imported when a result is looked at: who only reads profiles need not wait for it."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from profilelake.client.errors import RequestFailed

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

ARROW_STREAM: Final = "application/vnd.apache.arrow.stream"


class SqlResult:
    """The rows a query gave, as they came: an Arrow stream."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream

    def to_arrow(self) -> "pa.Table":
        """Return the rows as an Arrow table.

        Raises:
            RequestFailed: the answer was cut short; ask again.
        """
        import pyarrow as pa

        try:
            return pa.ipc.open_stream(self._stream).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise _cut_short(error) from error

    def to_polars(self) -> "pl.DataFrame":
        """Return the rows as a Polars frame; needs polars."""
        import polars as pl

        return cast("pl.DataFrame", pl.from_arrow(self.to_arrow()))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows as a pandas frame; needs pandas."""
        return self.to_arrow().to_pandas()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries, for results that are small."""
        found: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return found

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the rows to any library that speaks the Arrow stream protocol."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)


def batches(source: io.RawIOBase) -> Iterator["pa.RecordBatch"]:
    """Yield the batches of a result while it arrives.

    Raises:
        RequestFailed: the answer was cut short; ask again.
    """
    import pyarrow as pa

    try:
        yield from pa.ipc.open_stream(cast("BinaryIO", io.BufferedReader(source, 1 << 20)))
    except (pa.ArrowInvalid, OSError) as error:
        raise _cut_short(error) from error


def _cut_short(error: Exception) -> RequestFailed:
    return RequestFailed(
        f"reading the rows of a query: {error}; the answer was cut short, ask again", code="cut_short"
    )
