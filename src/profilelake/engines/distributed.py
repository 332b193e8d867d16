"""The engine of a cluster: Apache Spark, its DataFrame API and nothing below, so that Spark Connect works too.

Spark schedules tasks, moves blobs of rows between them, and runs again what a lost machine had done. All that
touches rows happens in Python workers (`engines._spark_tasks`), with the code that the embedded engine runs.
"""

import pickle
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql

from profilelake.engines._lanes import lanes
from profilelake.engines._spark_tasks import (
    ANSWERS,
    BLOBS,
    BLOBS_PER_BATCH,
    CutTask,
    EachTask,
    GatherTask,
    Units,
    failure_in,
)
from profilelake.engines.engine import CutUp, Gather, Work
from profilelake.errors import Internal, Invalid, ProfilelakeError, Unavailable

PARTITIONS_MAX: Final = 20_000
"""Tasks of one stage; of more units or parts several share a task."""
LOOK_SECONDS: Final = 0.5
"""How often progress is looked at."""
CANCEL_SECONDS: Final = 30.0
"""How long an interrupted command waits for the cluster to stop what it asked for."""
REASON_CHARACTERS_MAX: Final = 300
_CONF: Final = {
    # A row is a blob of megabytes.
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(BLOBS_PER_BATCH),
    # It must not put partitions together or apart: a part is answered once.
    "spark.sql.adaptive.enabled": "false",
}

U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is: tasks of all its stages so far."""

    step: str
    done: int
    tasks: int
    seconds: float


class SparkEngine:
    """Runs steps on a Spark cluster, by a session that somebody else ends."""

    def __init__(
        self,
        session: SparkSession,
        name: str,
        tasks: int = 0,
        progress: Callable[[Progress], None] = lambda _: None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """Use a session, which stays as it is. `tasks` is asked of the cluster where it is 0; `end` on closing."""
        self._remote = not hasattr(session, "_jsc")
        self._session = session if self._remote else session.newSession()
        for key, value in _CONF.items():
            self._session.conf.set(key, value)
        self._name = name
        self._progress = progress
        self._end = end
        self._tasks = tasks

    @property
    def name(self) -> str:
        """How it is shown: the master's URL."""
        return self._name

    @property
    def tasks(self) -> int:
        """How many tasks run at the same time."""
        if self._tasks == 0:
            # A range is cut into as many partitions as there are cores, unless one says otherwise.
            found = self._session.range(0, 1 << 20).select(sql.spark_partition_id().alias("p"))
            rows = self._collected("asking for cores", found.agg(sql.max("p")))
            self._tasks = int(rows[0][0]) + 1
        return self._tasks

    def each(self, name: str, units: Sequence[U], work: Work[U]) -> list[bytes]:
        """Return the answer for each unit, in the order of the units."""
        if not units:
            return []
        task = EachTask(Units.of(units), _sent(name, work))
        frame = self._numbers(len(units)).mapInArrow(task, ANSWERS)
        found = self._answers(name, frame)
        if sorted(found) != list(range(len(units))):
            raise Internal(f"running {name} on {self._name}: {len(found)} answers for {len(units)} units")
        return [found[number] for number in range(len(units))]

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
        if not units:
            return {}
        named = tuple(inputs.items())
        partitions = min(parts, PARTITIONS_MAX)
        cutting = CutTask(Units.of(units), _sent(name, cut), named, lanes(parts, partitions))
        gathering = GatherTask(_sent(name, gather), named)
        blobs = self._numbers(len(units)).mapInArrow(cutting, BLOBS)
        frame = (
            blobs.repartition(partitions, "lane")
            .select("part", "input", "rows")
            .sortWithinPartitions("part")
            .mapInArrow(gathering, ANSWERS)
        )
        return dict(sorted(self._answers(name, frame).items()))

    def close(self) -> None:
        """Give up what the engine holds."""
        self._end()

    def _numbers(self, count: int) -> DataFrame:
        return self._session.range(0, count, 1, min(count, PARTITIONS_MAX))

    def _answers(self, name: str, frame: DataFrame) -> dict[int, bytes]:
        rows = self._collected(name, frame)
        found = {int(number): bytes(answer) for number, answer in rows}
        if len(found) != len(rows):
            raise Internal(f"running {name} on {self._name}: a part was answered twice")
        return found

    def _collected(self, name: str, frame: DataFrame) -> list[Any]:
        """Return the rows of a frame. The call is made by a thread, so that this one can be interrupted."""
        job = _Job(self._session, self._remote, name, frame)
        began = time.monotonic()
        job.start()
        try:
            while not job.ended.wait(LOOK_SECONDS):
                done, tasks = job.progress()
                self._progress(Progress(name, done, tasks, time.monotonic() - began))
        except BaseException:
            job.cancel()
            job.ended.wait(CANCEL_SECONDS)
            raise
        if job.error is not None:
            raise _told(job.error, name, self._name) from None
        return job.rows


class _Job(threading.Thread):
    """Collects a frame under a tag of its own."""

    def __init__(self, session: SparkSession, remote: bool, name: str, frame: DataFrame) -> None:
        super().__init__(name=f"profilelake-{name}", daemon=True)
        self.ended = threading.Event()
        self.rows: list[Any] = []
        self.error: Exception | None = None
        self._session = session
        self._remote = remote
        self._step = name
        self._frame = frame
        self._tag = f"profilelake-{uuid.uuid4().hex}"
        self._stages: dict[int, tuple[int, int]] = {}

    def run(self) -> None:
        try:
            if self._remote:
                self._session.addTag(self._tag)
                self._listen()
            else:
                context = self._session.sparkContext
                context.setJobGroup(self._tag, f"profilelake {self._step}", interruptOnCancel=True)
            self.rows = self._frame.collect()
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            self.error = error
        finally:
            self._unlisten()
            self.ended.set()

    def progress(self) -> tuple[int, int]:
        """Return how many tasks are done, and of how many that are known of."""
        if not self._remote:
            tracker = self._session.sparkContext.statusTracker()
            for number in tracker.getJobIdsForGroup(self._tag):
                job = tracker.getJobInfo(number)
                for stage in () if job is None else job.stageIds:
                    info = tracker.getStageInfo(stage)
                    if info is not None:
                        self._stages[stage] = (info.numCompletedTasks, info.numTasks)
        stages = list(self._stages.values())
        return sum(done for done, _ in stages), sum(tasks for _, tasks in stages)

    def cancel(self) -> None:
        """Stop it on the cluster."""
        try:
            if self._remote:
                self._session.interruptTag(self._tag)
            else:
                self._session.sparkContext.cancelJobGroup(self._tag)
        except Exception:  # noqa: BLE001, S110 - then there is no cluster left to stop it on
            pass

    def _listen(self) -> None:
        # Spark Connect before 4.0 does not tell.
        if hasattr(self._session, "registerProgressHandler"):
            self._session.registerProgressHandler(self._told)

    def _unlisten(self) -> None:
        if self._remote and hasattr(self._session, "removeProgressHandler"):
            self._session.removeProgressHandler(self._told)

    def _told(self, stages: Any, **_: Any) -> None:
        for stage in stages or ():
            self._stages[stage.stage_id] = (stage.num_completed_tasks, stage.num_tasks)


def _sent(name: str, function: Any) -> Any:
    """Return a function that can be sent to other machines. Raises Internal for one that cannot."""
    try:
        pickle.dumps(function)
    except Exception as error:
        raise Internal(
            f"running {name}: {type(error).__name__}: its functions cannot be sent to tasks"
        ) from error
    return function


def _told(error: Exception, step: str, engine: str) -> ProfilelakeError:
    """Return what a failed job means for the caller."""
    text = str(error)
    raised = failure_in(text)
    if raised is not None:
        return raised
    what = f"running {step} on {engine}"
    for pattern, kind, hint in _KNOWN:
        found = re.search(pattern, text)
        if found is not None:
            return kind(f"{what}: {found[0].strip()[:REASON_CHARACTERS_MAX]}; {hint}")
    reason = re.search(r"most recent failure: [^\n]*", text)
    said = reason[0] if reason is not None else next(iter(text.splitlines()), "")
    return Unavailable(
        f"{what}: {type(error).__name__}: {said[:REASON_CHARACTERS_MAX]}; nothing was decided: run the command "
        "again, which goes on with the step that failed"
    )


_KNOWN: Final[tuple[tuple[str, type[ProfilelakeError], str], ...]] = (
    (
        r"No module named '[^']*'",
        Invalid,
        "executors need the driver's Python environment: install profilelake there, or set [engine] executor_python",
    ),
    (
        r"(?:Python in worker has different version[^\n]*|PYTHON_VERSION_MISMATCH[^\n]*)",
        Invalid,
        "executors need the Python of the driver: set [engine] executor_python",
    ),
    (
        r"(?:Total size of serialized results|serialized results of)[^\n]*",
        Invalid,
        "raise spark.driver.maxResultSize in [engine.conf]",
    ),
    (
        r"(?:Python worker exited unexpectedly[^\n]*|Python worker failed to connect back[^\n]*)",
        Unavailable,
        "killed, most often for want of memory: raise spark.executor.memoryOverhead in [engine.conf], then retry",
    ),
    (
        r"(?:java\.lang\.OutOfMemoryError[^\n]*|SparkOutOfMemoryError[^\n]*)",
        Unavailable,
        "raise [engine] executor_memory or driver_memory, then run the command again",
    ),
)
