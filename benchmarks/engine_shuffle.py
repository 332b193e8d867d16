"""What bringing rows together costs: CPU for a million rows on the embedded engine, on Spark in blobs, and on Spark
as plain rows (`repartition` and `mapInArrow`, the baseline), in one run.

    python benchmarks/engine_shuffle.py [--rows 4000000] [--parts 64] [--memory 1g] [--master local[2]]

Counts the CPU of this process, the JVM and the Python workers, and the bytes that Spark wrote for the shuffle.
Making the rows is part of each figure, and is measured by itself too. A row has a 16-byte id, a text of 24
characters, and two numbers: 70 bytes in Arrow.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from _process_tree import cpu_seconds
from profilelake.engines.distributed import SparkEngine
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Cut, Engine
from profilelake.engines.session import open_engine
from profilelake.settings import EngineSettings

SEED: Final = 7
CUT_ROWS: Final = 1 << 18
UNITS: Final = 8
ROWS: Final = pa.schema(
    [("id", pa.binary(16)), ("text", pa.string()), ("at", pa.int64()), ("number", pa.float64())]
)


def made(unit: int, begin: int, count: int) -> pa.Table:
    """Return rows of a unit."""
    chance = np.random.default_rng([SEED, unit, begin])
    ids = pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(chance.bytes(16 * count))])
    letters = (chance.integers(97, 123, 24 * count, dtype=np.uint8)).tobytes()
    offsets = pa.py_buffer(np.arange(0, 24 * (count + 1), 24, dtype=np.int32))
    texts = pa.Array.from_buffers(pa.string(), count, [None, offsets, pa.py_buffer(letters)])
    at = chance.integers(0, 1 << 40, count)
    return pa.table([ids, texts, pa.array(at), pa.array(chance.random(count))], schema=ROWS)


def part_of(rows: pa.Table, parts: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the part of each row, by the first bytes of its id."""
    ids = np.frombuffer(rows["id"].chunk(0).buffers()[1], np.uint8).reshape(-1, 16)
    return ((ids[:, 0].astype(np.int32) << 8 | ids[:, 1]) * parts >> 16).astype(np.int32)


@dataclass(frozen=True)
class CutUp:
    """Rows for each unit."""

    rows: int
    parts: int

    def __call__(self, unit: int) -> Iterator[Cut]:
        """Yield the rows of a unit."""
        for begin in range(0, self.rows, CUT_ROWS):
            rows = made(unit, begin, min(CUT_ROWS, self.rows - begin))
            yield Cut("rows", rows, part_of(rows, self.parts))


def gather(_: int, tables: Mapping[str, pa.Table]) -> bytes:
    """Count and add up."""
    rows = tables["rows"]
    return msgspec.msgpack.encode(
        (rows.num_rows, sum(int(chunk.to_numpy().sum()) for chunk in rows["at"].chunks))
    )


@dataclass(frozen=True)
class PlainCut:
    """The rows of `CutUp`, as Spark has rows."""

    cut: CutUp

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield rows with their part."""
        for batch in batches:
            for unit in batch.column(0).to_pylist():
                for piece in self.cut(unit):
                    rows = piece.rows.append_column("part", pa.array(piece.parts))
                    columns = [rows["id"].cast(pa.binary()), *rows.columns[1:]]
                    yield from pa.table(columns, names=rows.schema.names).to_batches(10_000)


def plain_gather(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Count and add up what comes to a task."""
    count = total = 0
    for batch in batches:
        count += batch.num_rows
        total += int(batch.column("at").to_numpy().sum())
    yield pa.RecordBatch.from_arrays([pa.array([count]), pa.array([total])], names=["rows", "total"])


def plain(session: SparkSession, cut: CutUp) -> tuple[int, int]:
    """Bring the same rows together as a Spark program does that knows nothing of blobs."""
    rows = session.range(0, UNITS, 1, UNITS).mapInArrow(
        PlainCut(cut), "id binary, text string, at long, number double, part int"
    )
    answers = rows.repartition(cut.parts, "part").mapInArrow(plain_gather, "rows long, total long").collect()
    return sum(row[0] for row in answers), sum(row[1] for row in answers)


def blobs(engine: Engine, cut: CutUp) -> tuple[int, int]:
    """Bring them together on an engine."""
    answers = engine.spread("rows", range(UNITS), cut, {"rows": ROWS}, cut.parts, gather)
    found = [msgspec.msgpack.decode(answer) for answer in answers.values()]
    return sum(count for count, _ in found), sum(total for _, total in found)


def making(engine: Engine, cut: CutUp) -> tuple[int, int]:
    """Only make the rows."""

    counts = engine.each("make", range(UNITS), Making(cut))
    return sum(int(count) for count in counts), 0


@dataclass(frozen=True)
class Making:
    """Makes rows and counts them."""

    cut: CutUp

    def __call__(self, unit: int) -> bytes:
        """Return how many."""
        return str(sum(piece.rows.num_rows for piece in self.cut(unit))).encode()


def shuffled(session: SparkSession) -> int:
    """Return the bytes written for shuffles so far."""
    context = session.sparkContext
    stages = httpx.get(
        f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages", timeout=30
    ).json()
    return sum(int(stage["shuffleWriteBytes"]) for stage in stages)


def main() -> None:
    """Measure."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--rows", type=int, default=4_000_000)
    ask.add_argument("--parts", type=int, default=64)
    ask.add_argument("--memory", default="1g")
    ask.add_argument("--master", default="local[2]")
    chosen = ask.parse_args()
    cut = CutUp(chosen.rows // UNITS, chosen.parts)
    print(machine().line())
    print(f"{cut.rows * UNITS:,} rows, {chosen.parts} parts, {UNITS} units, JVM {chosen.memory}, seed {SEED}")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    sys.modules["engine_shuffle"] = sys.modules["__main__"]
    for one in (CutUp, PlainCut, Making, gather, plain_gather):
        one.__module__ = "engine_shuffle"  # Workers import it by that name.
    with tempfile.TemporaryDirectory(prefix="engine-shuffle-") as scratch:
        place = Path(scratch)
        embedded = EmbeddedEngine(place / "embedded")
        options = EngineSettings(
            url=chosen.master,
            driver_memory=chosen.memory,
            conf={"spark.ui.enabled": "true", "spark.ui.port": "0"},
        )
        spark = open_engine(options, place / "spark", place / "jars")
        session = SparkSession.builder.getOrCreate()
        warm = CutUp(50_000, chosen.parts)  # The JVM has compiled what it needs often.
        blobs(spark, warm)
        plain(session, warm)
        blobs(embedded, warm)
        making(embedded, warm)
        measured(cut, session, embedded, spark)
        spark.close()


def measured(cut: CutUp, session: SparkSession, embedded: EmbeddedEngine, spark: SparkEngine) -> None:
    """Print the figures."""
    runs: list[tuple[str, Callable[[], tuple[int, int]]]] = [
        ("making rows alone, embedded", lambda: making(embedded, cut)),
        ("embedded engine", lambda: blobs(embedded, cut)),
        ("Spark, blobs", lambda: blobs(spark, cut)),
        ("Spark, plain rows (baseline)", lambda: plain(session, cut)),
    ]
    figures: dict[str, float] = {}
    answers = set()
    for name, run in runs:
        cpu, wall, before = cpu_seconds(os.getpid()), time.monotonic(), shuffled(session)
        answer = run()
        answers |= {answer} if answer[1] else set()
        figures[name] = (cpu_seconds(os.getpid()) - cpu) / (cut.rows * UNITS / 1e6)
        print(
            f"{name:<30} {figures[name]:6.2f} CPU s per million rows, {time.monotonic() - wall:6.1f} s, "
            f"{(shuffled(session) - before) / (cut.rows * UNITS):6.1f} bytes shuffled a row"
        )
    if len(answers) != 1:
        raise SystemExit(f"the answers differ: {answers}")
    base = figures["Spark, plain rows (baseline)"]
    made_alone = figures["making rows alone, embedded"]
    for name in ("Spark, blobs", "embedded engine"):
        print(f"{name}: {base / figures[name]:.1f} times less CPU than plain rows")
        without = max(0.01, figures[name] - made_alone)
        print(f"{name}: {(base - made_alone) / without:.1f} times less without making the rows")


if __name__ == "__main__":
    main()
