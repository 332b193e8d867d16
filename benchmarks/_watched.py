"""An engine that tells what each step took: processor seconds of all processes, rows and bytes between tasks."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from _process_tree import cpu_seconds
from profilelake.engines.engine import Cut, CutUp, Engine, Gather, Work

Shuffled: TypeAlias = Callable[[], int]


@dataclass
class Step:
    """What a step took; `rows` and `bytes` went from task to task."""

    name: str
    seconds: float
    cpu_seconds: float
    rows: int = 0
    bytes: int = 0

    def line(self) -> str:
        """Return it as a line of a report."""
        return (
            f"  {self.name:<14} {self.cpu_seconds:8.1f} CPU s {self.seconds:8.1f} s {self.rows:>14,} rows "
            f"{self.bytes / 1e6:>10,.1f} MB shuffled"
        )


class Watched:
    """An engine, with what its steps took."""

    def __init__(self, engine: Engine, shuffled: Shuffled | None = None) -> None:
        """Watch an engine of this process, or one of Spark, of which `shuffled` tells bytes and nothing tells rows."""
        self._engine = engine
        self._shuffled = shuffled
        self.name, self.tasks = engine.name, engine.tasks
        self.steps: list[Step] = []

    def each(self, name: str, units: Sequence[Any], work: Work[Any]) -> list[bytes]:
        """Return what the engine does."""
        with stepping(self.steps, name, self._shuffled):
            return self._engine.each(name, units, work)

    def spread(
        self,
        name: str,
        units: Sequence[Any],
        cut: CutUp[Any],
        inputs: Mapping[str, pa.Schema],
        parts: int,
        gather: Gather,
    ) -> dict[int, bytes]:
        """Return what the engine does."""
        with stepping(self.steps, name, self._shuffled) as step:
            counted = cut if self._shuffled else _Counted(cut, step)
            return self._engine.spread(name, units, counted, inputs, parts, gather)

    def close(self) -> None:
        """End it."""
        self._engine.close()


@contextmanager
def stepping(steps: list[Step], name: str, shuffled: Shuffled | None) -> Iterator[Step]:
    """Add what happens inside to `steps`."""
    step = Step(name, time.monotonic(), cpu_seconds(os.getpid()))
    before = shuffled() if shuffled else 0
    yield step
    step.seconds = time.monotonic() - step.seconds
    step.cpu_seconds = cpu_seconds(os.getpid()) - step.cpu_seconds
    if shuffled:
        step.bytes = shuffled() - before
    steps.append(step)


def engine_named(name: str, heap: str, scratch: Path) -> Watched:
    """Return `embedded`, or `spark` on this machine with two tasks at a time."""
    if name == "embedded":
        from profilelake.engines.embedded import EmbeddedEngine  # noqa: PLC0415 - only where somebody asks for it

        return Watched(EmbeddedEngine(scratch / "engine"))
    # Only who asks for Spark needs it.
    from profilelake.engines.distributed import SparkEngine  # noqa: PLC0415 - only where somebody asks for it

    session = spark_session(heap, scratch)
    return Watched(SparkEngine(session, "local[2]", end=session.stop), shuffled_by(session))


def spark_session(heap: str, scratch: Path) -> Any:
    """Return a session of two tasks at a time with so much heap."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - only where somebody asks for it

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master("local[2]")
        .appName("benchmark")
        .config("spark.driver.memory", heap)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.local.dir", str(scratch))
        .config("spark.sql.shuffle.partitions", "32")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def shuffled_by(session: Any) -> Shuffled:
    """Return a function that tells how many bytes a session has written for shuffles so far."""
    context = session.sparkContext
    # Spark's own figures have no way in from Python.
    jvm, store, gateway = context._jvm, context._jsc.sc().statusStore(), context._gateway  # noqa: SLF001 - what was shuffled is told nowhere else

    def shuffled() -> int:
        stages = store.stageList(
            None, False, False, gateway.new_array(jvm.double, 0), jvm.java.util.ArrayList()
        )
        return sum(stages.apply(place).shuffleWriteBytes() for place in range(stages.size()))

    return shuffled


@dataclass
class _Counted:
    cut: CutUp[Any]
    step: Step
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Tasks are threads here."""

    def __call__(self, unit: Any) -> Iterator[Cut]:
        for piece in self.cut(unit):
            with self.lock:
                self.step.rows += piece.rows.num_rows
                self.step.bytes += piece.rows.nbytes
            yield piece
