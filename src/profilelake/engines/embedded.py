"""The engine of one machine: threads, and files on disk between cutting and gathering.

Kernels and DuckDB let go of the interpreter while they work, so threads use the cores.
"""

import gc
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.engines.engine import CutUp, Gather, Work
from profilelake.errors import Unavailable

THREADS: Final = 2
BATCH_ROWS: Final = 1 << 20
"""Rows of one batch on disk."""

U = TypeVar("U")
R = TypeVar("R")


@dataclass
class _Divided:
    """Rows of one input on disk, batch by batch, each in the order of its parts.

    They are not compressed: every part is a slice of every batch, and only its pages of the file are looked at.
    """

    path: Path
    schema: pa.Schema
    starts: list[npt.NDArray[np.int64]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        self._sink = pa.OSFile(str(self.path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self.schema)

    def add(self, rows: pa.Table, numbers: npt.NDArray[np.int32], parts: int) -> None:
        if not rows.num_rows:
            return  # no batch would be written, and batches are counted
        # Numbers of two bytes are sorted by counting.
        order = np.argsort(numbers.astype(np.uint16) if parts <= 1 << 16 else numbers, kind="stable")
        starts = np.searchsorted(numbers[order], np.arange(parts + 1))
        sorted_rows = rows.select(self.schema.names).cast(self.schema).take(pa.array(order)).combine_chunks()
        # One column of long values may stay in several pieces, so there may be more batches than their rows ask for.
        batches = sorted_rows.to_batches(BATCH_ROWS)
        with self.lock:
            for batch in batches:
                self._writer.write_batch(batch)
                self.starts.append(np.clip(starts, 0, batch.num_rows))
                starts = starts - batch.num_rows

    def close(self) -> None:
        self._writer.close()
        self._sink.close()

    def part(self, number: int) -> pa.Table:
        found = []
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_file(source) as opened:
            for batch, starts in enumerate(self.starts):
                begin, end = int(starts[number]), int(starts[number + 1])
                if begin < end:
                    found.append(opened.get_batch(batch).slice(begin, end - begin))
        return pa.Table.from_batches(found, self.schema)

    def counts(self, parts: int) -> npt.NDArray[np.int64]:
        return sum((np.diff(starts) for starts in self.starts), start=np.zeros(parts, dtype=np.int64))


@contextmanager
def _few_objects() -> Iterator[None]:
    """Let the search for cycles pass over everything there is already.

    Tasks make many short-lived objects, so it begins often, and each time it walked through all modules: an eighth
    of the CPU of computing a hundred definitions. A process that has frozen its objects itself is left alone.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class EmbeddedEngine:
    """Runs steps on this machine; what is spread lies below `directory` meanwhile."""

    def __init__(self, directory: Path, tasks: int = THREADS) -> None:
        self._directory = directory
        self.tasks = tasks

    @property
    def name(self) -> str:
        """How it is shown."""
        return "embedded"

    def each(self, name: str, units: Sequence[U], work: Work[U]) -> list[bytes]:  # noqa: ARG002 - as in `Engine`
        """Return the answer for each unit, in the order of the units."""
        return self._all(units, work)

    def spread(
        self,
        name: str,
        units: Sequence[U],
        cut: CutUp[U],
        inputs: Mapping[str, pa.Schema],
        parts: int,
        gather: Gather,
    ) -> dict[int, bytes]:
        """Bring together the rows that `cut` makes of all units, by part, and return the answer for each part."""
        with self._scratch(name) as folder:
            divided = {key: _Divided(folder / f"{key}.arrow", schema) for key, schema in inputs.items()}
            for one in divided.values():
                one.open()

            def spread_one(unit: U) -> None:
                for piece in cut(unit):
                    divided[piece.input].add(piece.rows, piece.parts, parts)

            try:
                self._all(units, spread_one)
            finally:
                for one in divided.values():
                    one.close()
            counts = sum(
                (one.counts(parts) for one in divided.values()), start=np.zeros(parts, dtype=np.int64)
            )
            asked = np.flatnonzero(counts).tolist()

            def gather_one(part: int) -> bytes:
                return gather(part, {key: one.part(part) for key, one in divided.items()})

            return dict(zip(asked, self._all(asked, gather_one), strict=True))

    def close(self) -> None:
        """Nothing is held."""

    def _all(self, units: Sequence[U], work: Callable[[U], R]) -> list[R]:
        with _few_objects(), ThreadPoolExecutor(self.tasks) as pool:
            futures = [pool.submit(work, unit) for unit in units]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._directory))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise Unavailable(
                f"running {name}: {error}; nothing was changed, free space in {self._directory} and retry"
            ) from error
