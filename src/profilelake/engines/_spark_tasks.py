"""What Spark runs in its Python workers: values that can be pickled, from Arrow batches to Arrow batches.

Rows travel in blobs: the rows of one part that a task cut together, as one Arrow message in one binary
value. So the JVM moves and sorts a few large rows, and never looks at one of ours.
"""

import gc
import json
import pickle
import re
import sys
import traceback
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from zipimport import zipimporter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake import errors
from profilelake.engines.engine import CutUp, Gather, PartNumbers, Work
from profilelake.errors import Internal, Invalid, ProfilelakeError

BLOB_BYTES_MAX: Final = 2 << 20
"""Of a blob with more than one row; it is one row of Spark's shuffle."""
CUT_BYTES: Final = 64 << 20
"""Rows of one input that a task gathers before it sorts them by part: fewer make blobs too small."""
BATCH_BYTES: Final = 8 << 20
"""Blobs that are handed to the JVM at once."""
BLOBS_PER_BATCH: Final = 16
"""Blobs that the JVM hands to a Python worker at once, hence at most 32 MB."""
UNITS_BYTES_MAX: Final = 16 << 20
"""All units of a step, compressed: each task is sent them."""
ERROR_CHARACTERS_MAX: Final = 600
"""Of an error's text on its way to the driver; Spark Connect cuts what surrounds it."""
_GROUP: Final = 64
"""Units compressed together: a task opens one group."""

ANSWERS: Final = "number int, answer binary"
BLOBS: Final = "lane int, part int, input int, rows binary"
_ANSWERS: Final = pa.schema([("number", pa.int32()), ("answer", pa.binary())])
_BLOBS: Final = pa.schema(
    [("lane", pa.int32()), ("part", pa.int32()), ("input", pa.int32()), ("rows", pa.binary())]
)

_settled_modules: list[int] = [0]

_MARK: Final = re.compile(r"profilelake-task-error (\[.*?\]) end")


class TaskFailed(Exception):
    """Carries an error of a task through the JVM, as text."""


def failure_in(text: str) -> ProfilelakeError | None:
    """Return the error that a task raised, out of what Spark says of a failed job."""
    for found in _MARK.finditer(text):
        try:
            kind, message = json.loads(found[1])
        except ValueError:
            continue
        error: ProfilelakeError = getattr(errors, kind, Internal)(message)
        return error
    return None


def _failed(error: Exception) -> TaskFailed:
    if isinstance(error, ProfilelakeError):
        kind, text = type(error).__name__, str(error)
    elif isinstance(error, MemoryError):
        kind = "Unavailable"
        text = "a task ran out of memory; give executors more (spark.executor.memoryOverhead), or cut finer"
    elif isinstance(error, OSError):
        kind, text = "Unavailable", f"a task could not go on: {error}"
    else:
        # Its text may quote what is being worked on, so only the place is told; executors log the rest.
        frames = traceback.extract_tb(error.__traceback__)
        place = (
            f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "an unknown place"
        )
        kind = "Internal"
        text = f"a task failed with {type(error).__name__} in {place}; the log of its executor has the whole story"
    return TaskFailed(f"profilelake-task-error {json.dumps([kind, text[:ERROR_CHARACTERS_MAX]])} end")


def _settle() -> None:
    """Spare this worker what Spark has it do around every task: about 80 ms of a core, as much as a small task.

    Before a task it invalidates the caches of imports, for which each package inside Spark's zip file reads
    the zip's whole directory again; after one it collects garbage through all modules.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimporter):
            # Only a cache: made again when something is imported from there.
            del sys.path_importer_cache[path]
    if _settled_modules[0] != len(sys.modules):
        _settled_modules[0] = len(sys.modules)
        gc.collect()
        gc.freeze()


@dataclass(frozen=True, slots=True)
class Units:
    """All units of a step in a form that is cheap to send to every task."""

    groups: tuple[bytes, ...]

    @classmethod
    def of(cls, units: Sequence[Any]) -> "Units":
        """Pack units. Raises Invalid where they are too large together."""
        pickled = [pickle.dumps(unit, pickle.HIGHEST_PROTOCOL) for unit in units]
        groups = tuple(
            zlib.compress(pickle.dumps(pickled[begin : begin + _GROUP], pickle.HIGHEST_PROTOCOL), 6)
            for begin in range(0, len(pickled), _GROUP)
        )
        size = sum(map(len, groups))
        if size > UNITS_BYTES_MAX:
            raise Invalid(
                f"sending {len(units):,} units of work to a cluster: {size:,} bytes, at most "
                f"{UNITS_BYTES_MAX:,}; cut the work into fewer units"
            )
        return cls(groups)

    def __getitem__(self, number: int) -> Any:
        """Return a unit."""
        group = pickle.loads(zlib.decompress(self.groups[number // _GROUP]))  # noqa: S301 - made by `of`
        return pickle.loads(group[number % _GROUP])  # noqa: S301


@dataclass(frozen=True, slots=True)
class EachTask:
    """Answers the units whose numbers Spark hands over."""

    units: Units
    work: Work[Any]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the number and the answer of each unit."""
        _settle()
        try:
            for batch in batches:
                for number in batch.column(0).to_pylist():
                    yield _answer(number, self.work(self.units[number]))
        except Exception as error:  # noqa: BLE001 - whatever it is goes to the driver in one form
            failed = _failed(error)
        else:
            return
        raise failed


@dataclass(frozen=True, slots=True)
class CutTask:
    """Cuts units into blobs, each of one input and one part. `lanes` has the key that Spark shuffles a part by."""

    units: Units
    cut: CutUp[Any]
    inputs: tuple[tuple[str, pa.Schema], ...]
    lanes: npt.NDArray[np.int32]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the blobs of each unit."""
        _settle()
        try:
            yield from self._packed(
                blob
                for batch in batches
                for number in batch.column(0).to_pylist()
                for blob in self._blobs(self.units[number])
            )
        except Exception as error:  # noqa: BLE001 - whatever it is goes to the driver in one form
            failed = _failed(error)
        else:
            return
        raise failed

    def _blobs(self, unit: Any) -> Iterator[tuple[int, int, pa.Buffer]]:
        waiting = {name: _Waiting(number, schema) for number, (name, schema) in enumerate(self.inputs)}
        for piece in self.cut(unit):
            into = waiting[piece.input]
            rows = piece.rows.select(into.schema.names).cast(into.schema)
            step = max(1, rows.num_rows * CUT_BYTES // max(1, rows.nbytes))
            for begin in range(0, rows.num_rows, step):
                into.add(rows.slice(begin, step), piece.parts[begin : begin + step], len(self.lanes))
                if into.bytes >= CUT_BYTES:
                    yield from into.take()
        for into in waiting.values():
            yield from into.take()

    def _packed(self, blobs: Iterable[tuple[int, int, pa.Buffer]]) -> Iterator[pa.RecordBatch]:
        held: list[tuple[int, int, pa.Buffer]] = []
        size = 0
        for blob in blobs:
            held.append(blob)
            size += blob[2].size
            if size >= BATCH_BYTES:
                yield self._batch(held)
                held, size = [], 0
        if held:
            yield self._batch(held)

    def _batch(self, blobs: list[tuple[int, int, pa.Buffer]]) -> pa.RecordBatch:
        parts = np.array([part for _, part, _ in blobs], np.int32)
        inputs = np.array([input for input, _, _ in blobs], np.int32)
        offsets = np.zeros(len(blobs) + 1, np.int32)
        np.cumsum([rows.size for _, _, rows in blobs], out=offsets[1:])
        rows = pa.Array.from_buffers(
            pa.binary(),
            len(blobs),
            [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(rows for _, _, rows in blobs))],
        )
        return pa.RecordBatch.from_arrays([pa.array(self.lanes[parts]), parts, inputs, rows], schema=_BLOBS)


@dataclass(slots=True)
class _Waiting:
    """Rows of one input until they are enough to be worth sorting."""

    input: int
    schema: pa.Schema
    tables: list[pa.Table] = field(default_factory=list)
    parts: list[PartNumbers] = field(default_factory=list)
    bytes: int = 0

    def add(self, rows: pa.Table, parts: PartNumbers, count: int) -> None:
        if len(parts) != rows.num_rows or (
            len(parts) and not 0 <= int(parts.min()) <= int(parts.max()) < count
        ):
            raise Internal(
                f"cutting: {rows.num_rows} rows with {len(parts)} parts that are not all below {count}"
            )
        self.tables.append(rows)
        self.parts.append(parts)
        self.bytes += rows.nbytes

    def take(self) -> Iterator[tuple[int, int, pa.Buffer]]:
        """Yield input, part and message of all rows that wait, and forget them."""
        if not self.tables:
            return
        rows, parts = pa.concat_tables(self.tables), np.concatenate(self.parts)
        self.tables, self.parts, self.bytes = [], [], 0
        # NumPy sorts integers of 16 bits by radix.
        order = np.argsort(parts.astype(np.uint16) if parts.max() < 1 << 16 else parts, kind="stable")
        parts = parts[order]
        batch = _one_batch(rows.take(pa.array(order)))
        starts = np.concatenate([[0], np.flatnonzero(np.diff(parts)) + 1, [len(parts)]])
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            for message in _messages(batch.slice(begin, end - begin)):
                yield self.input, int(parts[begin]), message


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    columns = [
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        for column in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _messages(rows: pa.RecordBatch) -> Iterator[pa.Buffer]:
    message = rows.serialize()
    if message.size <= BLOB_BYTES_MAX or rows.num_rows == 1:
        yield message
        return
    step = max(1, rows.num_rows * BLOB_BYTES_MAX // (message.size + 1))
    for begin in range(0, rows.num_rows, step):
        piece = rows.slice(begin, step)
        # Rows of very different sizes may still be too many.
        yield from (piece.serialize(),) if piece.num_rows <= 1 else _messages(piece)


@dataclass(frozen=True, slots=True)
class GatherTask:
    """Answers parts, one after the other, from blobs in the order of their parts."""

    gather: Gather
    inputs: tuple[tuple[str, pa.Schema], ...]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the number and the answer of each part."""
        _settle()
        try:
            yield from self._answers(batches)
        except Exception as error:  # noqa: BLE001 - whatever it is goes to the driver in one form
            failed = _failed(error)
        else:
            return
        raise failed

    def _answers(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        current, held = -1, self._nothing()
        for batch in batches:
            numbers = zip(batch.column("part").to_pylist(), batch.column("input").to_pylist(), strict=True)
            for row, (part, input) in enumerate(numbers):
                if part < current:
                    raise Internal(
                        f"gathering part {part} after part {current}: the engine has not sorted them"
                    )
                if part > current:
                    if current >= 0:
                        yield _answer(current, self._gathered(current, held))
                    current, held = part, self._nothing()
                # A copy, as what lies in the middle of a column is not aligned, which kernels rely on.
                message = pa.py_buffer(batch.column("rows")[row].as_py())
                held[input].append(pa.ipc.read_record_batch(message, self.inputs[input][1]))
        if current >= 0:
            yield _answer(current, self._gathered(current, held))

    def _nothing(self) -> list[list[pa.RecordBatch]]:
        return [[] for _ in self.inputs]

    def _gathered(self, part: int, held: Sequence[Sequence[pa.RecordBatch]]) -> bytes:
        tables: Mapping[str, pa.Table] = {
            name: pa.Table.from_batches(rows, schema)
            for (name, schema), rows in zip(self.inputs, held, strict=True)
        }
        return self.gather(part, tables)


def _answer(number: int, answer: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([number], pa.int32()), pa.array([answer], pa.binary())], schema=_ANSWERS
    )
