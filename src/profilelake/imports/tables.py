"""Reads files into blocks of lines: lines as they are, CSV and Parquet row by row."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from profilelake.errors import Invalid
from profilelake.imports.files import Format, Source, format_of
from profilelake.imports.mapping import ColumnMapping
from profilelake.imports.rows import RowWriter, Unreadable
from profilelake.semantics.events import event_lines

CSV_ROW_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of one row of CSV."""
ROWS: Final = 4096
"""Rows of a Parquet file that are read together."""
_DELIMITERS: Final = ",;\t|"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read: what the user said of them."""

    mapping: ColumnMapping
    default_type: str | None = None
    format: Format | None = None
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """The lines of a file, and how far the file was read for them."""

    blocks: Iterator[bytes]
    consumed: Callable[[], int]


def read_lines(source: Source, reading: Reading) -> Opened:
    """Return the messages of a file as blocks of lines.

    Raises:
        Invalid: the file is not what it should be, at once or at the block where that shows.
    """
    head = source.head()
    if head[:2] in _UTF16:
        raise Invalid(f"reading {source.file.name}: it is UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
    if head.startswith(b"PK\x03\x04"):
        raise Invalid(f"reading {source.file.name}: it is a zip archive; unpack it first")
    kind = format_of(source.file, reading.format, head)
    if kind == "parquet":
        return _parquet(source, reading)
    if kind == "csv":
        return Opened(_csv(source, reading), lambda: source.consumed)
    _check_lines(source.file.name, head)
    blocks = _mapped_lines(source, reading) if reading.mapping else source.blocks()
    return Opened(blocks, lambda: source.consumed)


def _check_lines(name: str, head: bytes) -> None:
    """Refuse at once what would only fail line by line."""
    first, _, rest = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    if first.startswith(b"["):
        raise Invalid(f"reading {name}: it is a JSON array, not one event per line; convert it: jq -c '.[]'")
    if first.strip() == b"{" and rest:
        raise Invalid(f"reading {name}: its events go over several lines; convert it: jq -c .")


def _joined(lines: Iterator[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in lines])


# ---- lines with other names ------------------------------------------------------------------


def _mapped_lines(source: Source, reading: Reading) -> Iterator[bytes]:
    """Take the members of each line for columns."""
    places = dict(reading.mapping.columns)
    writer = RowWriter(places, reading.mapping.constants, reading.default_type)
    left = b""
    for block in source.blocks():
        whole, newline, left = (left + block).rpartition(b"\n")
        if newline:
            yield _joined(_mapped(event_lines(whole), writer, places))
        if len(left) > CSV_ROW_BYTES_MAX:
            raise Invalid(f"reading {source.file.name}: a line has more than {CSV_ROW_BYTES_MAX} bytes")
    if left:
        yield _joined(_mapped(event_lines(left), writer, places))


def _mapped(lines: list[bytes], writer: RowWriter, places: Mapping[str, Any]) -> Iterator[bytes]:
    for line in lines:
        try:
            row = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            yield line
            continue
        if not isinstance(row, dict):
            yield line
            continue
        yield from writer.lines({name: [_member(row, name)] for name in places}, 1)


def _member(row: dict[str, Any], name: str) -> Any:
    """Return a member by its name, or by the names on the way to it."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


# ---- CSV -------------------------------------------------------------------------------------


def _csv(source: Source, reading: Reading) -> Iterator[bytes]:
    name, head = source.file.name, source.head()
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        return
    delimiter = reading.delimiter or _delimiter(source, head)
    names = _header(name, head, delimiter)
    places = reading.mapping.places(names, reading.default_type)
    writer = RowWriter(places, reading.mapping.constants, reading.default_type)
    bad: list[bytes] = []

    def keep(row: Any) -> str:
        bad.append(f"row: {row.text or ''}".encode("utf-8", "backslashreplace").replace(b"\n", b" "))
        return "skip"

    try:
        stream = arrow_csv.open_csv(
            pa.PythonFile(source, mode="r"),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=CSV_ROW_BYTES_MAX, encoding="utf8"
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep
            ),
            convert_options=arrow_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.binary()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        while True:
            batch = stream.read_next_batch()
            columns = {column: _texts(batch.column(column)) for column in places}
            lines = writer.lines(columns, batch.num_rows)
            yield _joined(lines) + _joined(iter(bad))
            bad.clear()
    except StopIteration:
        yield _joined(iter(bad))
    except pa.ArrowInvalid as error:
        raise Invalid(f"reading {name}: {error}; a row has {CSV_ROW_BYTES_MAX} bytes at most") from error


def _texts(column: pa.Array) -> list[Any]:
    try:
        found: list[Any] = column.cast(pa.string()).to_pylist()
        return found
    except pa.ArrowInvalid:
        return [_text(value) for value in column.to_pylist()]


def _text(value: bytes | None) -> Any:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return Unreadable(value or b"")


def _delimiter(source: Source, head: bytes) -> str:
    if source.file.suffix == ".tsv":
        return "\t"
    first = head.partition(b"\n")[0].decode(errors="replace")
    return max(_DELIMITERS, key=first.count)


def _header(name: str, head: bytes, delimiter: str) -> list[str]:
    try:
        names = next(csv.reader(io.StringIO(head.decode("utf-8-sig", "replace")), delimiter=delimiter))
    except (csv.Error, StopIteration) as error:
        raise Invalid(f"reading {name}: its first line is no header: {error}") from error
    return names


# ---- Parquet ---------------------------------------------------------------------------------


def _parquet(source: Source, reading: Reading) -> Opened:
    path = source.file.path
    if path is None or source.packed:
        raise Invalid(
            f"reading {source.file.name}: Parquet is read from a plain file; save or unpack it first"
        )
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise Invalid(f"reading {source.file.name}: it is no whole Parquet file: {error}") from error
    places = reading.mapping.places(file.schema_arrow.names, reading.default_type)
    writer = RowWriter(places, reading.mapping.constants, reading.default_type)
    rows = max(1, file.metadata.num_rows)
    done = 0

    def blocks() -> Iterator[bytes]:
        nonlocal done
        try:
            for batch in file.iter_batches(ROWS, columns=list(places)):
                columns = {name: _values(batch.column(name)) for name in places}
                yield _joined(writer.lines(columns, batch.num_rows))
                done += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise Invalid(f"reading {source.file.name}: the Parquet data is damaged: {error}") from error
        finally:
            file.close()

    return Opened(blocks(), lambda: round((source.file.bytes or 0) * done / rows))


def _values(column: pa.Array) -> list[Any]:
    found: list[Any] = column.cast(_readable(column.type), safe=False).to_pylist(maps_as_pydicts="lossy")
    return found


def _readable(type: pa.DataType) -> pa.DataType:
    """Return the type whose values Python has: no nanoseconds, no dictionaries."""
    if pa.types.is_timestamp(type):
        return pa.timestamp("us", type.tz)
    if pa.types.is_dictionary(type):
        return _readable(type.value_type)
    if pa.types.is_struct(type):
        return pa.struct([field.with_type(_readable(field.type)) for field in type])
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(_readable(type.value_type))
    return type
