"""Rows of files as linked tables take them."""

from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from profilelake.errors import Invalid
from profilelake.lake import sql

ROWS_MAX: Final = 50_000_000
"""Rows of one file: they are in memory together. Larger tables are written by an engine of their own."""
MEMORY_LIMIT: Final = "2GB"
_READERS: Final = {
    ".parquet": "read_parquet",
    ".csv": "read_csv",
    ".ndjson": "read_ndjson",
    ".jsonl": "read_ndjson",
    ".json": "read_json",
}


def read_rows(file: Path) -> pa.Table:
    """Return the rows of a file, by what its name ends in.

    Raises:
        Invalid: it is of no such format, cannot be read, or has too many rows.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise Invalid(f"reading {file}: give a file that ends in {', '.join(_READERS)}")
    try:
        with duckdb.connect() as connection:
            connection.execute(f"SET memory_limit={sql.text(MEMORY_LIMIT)}")
            connection.execute("SET TimeZone='UTC'; SET enable_progress_bar=false")
            counting = f"SELECT count(*) FROM {reader}($file)"  # noqa: S608 - a constant
            count, *_ = connection.execute(counting, {"file": str(file)}).fetchall()[0]
            if count > ROWS_MAX:
                raise Invalid(
                    f"reading {file}: it has {count:,} rows, more than {ROWS_MAX:,}; write the table with another engine"
                )
            reading = f"SELECT * FROM {reader}($file)"  # noqa: S608 - a constant
            return connection.sql(reading, params={"file": str(file)}).to_arrow_table()
    except duckdb.Error as error:
        raise Invalid(f"reading {file}: {error}") from error
