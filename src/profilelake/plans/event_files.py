"""Step of a rebuild: the index of message ids and the runs of recent events, made of all events by tasks.

Tasks read every event; the process that puts a state in place only copies what they wrote, in its order. The
index is one run, sorted by hashes: each part of a step packs a stretch of it.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, kept_bytes
from profilelake.engines.keys import power_of_two
from profilelake.lake.pinned import Shape, Share
from profilelake.lake.progress import Progress
from profilelake.lake.storage import Storage
from profilelake.landing import dedup_parts
from profilelake.landing.dedup import message_key
from profilelake.landing.dedup_parts import Packing, Reach
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.ops.failpoints import reach
from profilelake.pipeline.batch import WorkspaceSetup
from profilelake.pipeline.recent_runs import run_rows
from profilelake.pipeline.remaking import RUN_ROWS, fresh_index, note_events
from profilelake.plans.facts import FactFiles, Read, read_share
from profilelake.plans.sizes import Sizes
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.state import recent
from profilelake.state.store import State

COPIED_BYTES: Final = 8 << 20
"""Bytes of a run of recent events that are in memory while it is put in its place."""
_IDS: Final = "ids"
_TABLES: Final = (EVENTS.name, EVENT_COPIES.name)


class RecentFile(msgspec.Struct, frozen=True):
    """A run of recent events as a task wrote it."""

    location: str
    rows: int
    received_max: int


class EventFiles(msgspec.Struct, frozen=True):
    """What the new state is to know of events."""

    reach: Reach
    ids: list[KeptFile]
    """Packed parts of the index of message ids, in the order of hashes."""
    recent: list[RecentFile]


def event_files(
    engine: Engine, job: Job, setup: WorkspaceSetup, files: FactFiles, sizes: Sizes, now: int
) -> EventFiles:
    """Make the files of the index and of recent events. A step that the job remembers is not run again."""
    storage = job.storage
    shapes = {name: files.tables[name].shape for name in _TABLES}
    shares = {name: files.tables[name].shares(sizes.share_bytes) for name in _TABLES}
    every = [share for name in _TABLES for share in shares[name]]
    answers = job.step("reach", lambda: engine.each("reach", every, _Reaching(storage, shapes)))
    found = Reach.together(msgspec.msgpack.decode(body, type=Reach) for body in answers.values())
    packing = Packing(message_key(setup.identifier_key), tuple(found.logs), found.bounds())
    parts = power_of_two(found.rows / sizes.ids_per_part, least=engine.tasks)
    packed = job.step(
        _IDS,
        lambda: engine.spread(
            _IDS,
            every,
            _CutIds(storage, shapes, packing, parts),
            {_IDS: dedup_parts.ROWS},
            parts,
            _Pack(storage, job.folder(_IDS), packing, parts),
        ),
    )
    oldest = now - recent.LOOK_BACK_SECONDS * 1_000_000
    runs = job.step(
        "recent",
        lambda: engine.each(
            "recent", shares[EVENTS.name], _Recent(storage, job.folder("recent"), shapes, oldest)
        ),
    )
    return EventFiles(
        found,
        [msgspec.msgpack.decode(body, type=KeptFile) for _, body in sorted(packed.items())],
        [
            one
            for _, body in sorted(runs.items())
            for one in msgspec.msgpack.decode(body, type=list[RecentFile])
        ],
    )


def load_event_files(
    state: State, setup: WorkspaceSetup, storage: Storage, files: EventFiles, progress: Progress, now: int
) -> None:
    """Put index and runs in their places, and say where all stands; a part or a piece is in memory at a time."""
    runs = []
    # Readers who want the newest look into those first that were received last.
    for number, file in enumerate(sorted(files.recent, key=lambda file: file.received_max)):
        run = recent.Run(
            recent.labelled(f"{progress.epoch}-{number}"),
            recent.LEVEL_TOP,
            progress.sequence,
            progress.sequence,
            file.received_max,
            file.rows,
        )
        recent.take_over(setup.recent_directory, run, _pieces(storage, file.location))
        runs.append(run)
    reach("rebuild.recent")
    parts = (dedup_parts.read_part(storage.read(file.location)) for file in files.ids)
    with state.write() as tx:
        fresh_index(setup).take_over(tx, progress.epoch, files.reach.logs, files.reach.bounds(), parts)
        note_events(tx, setup.name, runs, files.reach.last, progress, now)


def _pieces(storage: Storage, location: str) -> Iterator[bytes]:
    with storage.input(location) as source:
        while piece := source.read(COPIED_BYTES):
            yield piece


@dataclass(frozen=True)
class _Reaching:
    """Tells how far the positions of a share of events reach."""

    storage: Storage
    shapes: dict[str, Shape]

    def __call__(self, share: Share) -> bytes:
        """Return it as `Reach`."""
        read = Read(_IDS, f"SELECT position FROM {share.table}")  # noqa: S608 - a table of ours
        some = [
            Reach.of(rows.column("position").cast(pa.binary(POSITION_BYTES)))
            for rows in read_share(self.storage, self.shapes, share, read)
        ]
        found = Reach.together(some)
        if share.table != EVENTS.name:
            found = msgspec.structs.replace(found, last=b"")  # a copy is no event of its own
        return msgspec.msgpack.encode(found)


@dataclass(frozen=True)
class _CutIds:
    """Cuts events by the hashes of their message ids."""

    storage: Storage
    shapes: dict[str, Shape]
    packing: Packing
    parts: int

    def __call__(self, share: Share) -> Iterator[Cut]:
        """Yield the rows of a share."""
        columns = ", ".join(dedup_parts.COLUMNS)
        read = Read(_IDS, f"SELECT {columns} FROM {share.table}")  # noqa: S608 - a table of ours
        for events in read_share(self.storage, self.shapes, share, read):
            place = events.schema.get_field_index("position")
            positions = events.column(place).cast(pa.binary(POSITION_BYTES))
            rows = self.packing.rows(events.set_column(place, "position", positions))
            yield Cut(_IDS, rows, dedup_parts.part_of(rows, self.parts))


@dataclass(frozen=True)
class _Pack:
    """Packs a part of the index."""

    storage: Storage
    folder: str
    packing: Packing
    parts: int

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        """Return where it is, as `KeptFile`."""
        body = dedup_parts.written(self.packing.pack(rows[_IDS], self.parts))
        return msgspec.msgpack.encode(kept_bytes(self.storage, self.folder, body, rows[_IDS].num_rows, part))


@dataclass(frozen=True)
class _Recent:
    """Writes the events of a share that were received within the look-back as runs."""

    storage: Storage
    folder: str
    shapes: dict[str, Shape]
    oldest: int

    def __call__(self, share: Share) -> bytes:
        """Return where they are, as a list of `RecentFile`."""
        read = Read(
            EVENTS.name,
            f"FROM events WHERE received_at >= make_timestamp({self.oldest:d})::TIMESTAMPTZ",
        )
        found = []
        for events in read_share(self.storage, self.shapes, share, read):
            for start in range(0, events.num_rows, RUN_ROWS):
                rows = run_rows(EVENTS.shape(events.slice(start, RUN_ROWS)).combine_chunks())
                found.append(self._written(rows))
        return msgspec.msgpack.encode(found)

    def _written(self, rows: pa.Table) -> RecentFile:
        with tempfile.TemporaryDirectory(prefix="profilelake-recent-") as scratch:
            run = recent.write(
                Path(scratch), rows, sequence_min=0, sequence_max=0, level=recent.LEVEL_TOP, label="run"
            )
            body = (Path(scratch) / run.name).read_bytes()
        file = kept_bytes(self.storage, self.folder, body, run.rows, -1)
        return RecentFile(file.location, run.rows, run.received_max)
