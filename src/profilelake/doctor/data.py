"""What the directory holds: log, state, tables, message ids, and whether they agree."""

import time
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.doctor.findings import Finding, Patient, fine, problem, warning
from profilelake.errors import Corrupt, Internal, NotFound
from profilelake.eventlog.embedded import log_bytes, log_trouble
from profilelake.lake.catalog import Lake
from profilelake.lake.schema import KIND
from profilelake.landing.dedup import DedupIndex, Verdict
from profilelake.landing.land import CONTENT_COLUMNS, dedup_entries
from profilelake.pipeline.progress import Applied, Published, events_in, load_applied, load_published
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.state.store import MAP_BYTES, State
from profilelake.workspaces.identifier_key import identifier_key

LOG_SHARE_WARN: Final = 0.75
MAP_SHARE_WARN: Final = 0.75
CLOCK_SECONDS_MAX: Final = 5
LAG_SECONDS_WARN: Final = 60
FAILED_SHARE_WARN: Final = 0.01
FAILED_EVENTS_MIN: Final = 1_000
"""Of fewer accepted events no share is told."""
SAMPLE_EVENTS: Final = 1_000
ORPHAN_AGE_SECONDS: Final = 86_400
ORPHAN_BYTES_WARN: Final = 1 << 30
RUN_TRIES: Final = 5


def log(patient: Patient) -> Iterator[Finding]:
    """Can the event log be read from end to end, and has it room?"""
    root, most = patient.layout.log, patient.settings.log.bytes_max
    held = log_bytes(root) if root.exists() else 0
    text = f"{held:,} of {most:,} bytes"
    if held > LOG_SHARE_WARN * most:
        yield warning(
            "log",
            f"{text}: events are processed more slowly than they come",
            "profilelake status shows the stage that lags; else raise [log] bytes_max",
        )
    else:
        yield fine("log", text)
    troubles = log_trouble(root)
    for trouble in troubles:
        yield problem(
            "log files",
            trouble,
            "its events end as damaged in failed events; a backup from before may have the file whole",
        )
    if not troubles:
        yield fine("log files", "every segment begins and ends as it was written")


def state(patient: Patient) -> Iterator[Finding]:
    """Can the state be read, and has it room?"""
    opened = _open_state(patient)
    if opened is None:
        yield fine("state", "nothing was applied yet")
        return
    try:
        with opened.read(patient.workspace) as tx:
            applied = load_applied(tx, patient.workspace, "")
        used = opened.bytes_used()
    finally:
        opened.close()
    text = (
        f"epoch {applied.epoch}, micro-batch {applied.sequence:,}; {used:,} of {MAP_BYTES:,} bytes of its map"
    )
    if used > MAP_SHARE_WARN * MAP_BYTES:
        yield problem("state", text, f"profilelake rebuild --dir {patient.layout.directory} makes it compact")
    else:
        yield fine("state", text)
    ahead = (applied.watermark - patient.now) / 1_000_000
    if ahead > CLOCK_SECONDS_MAX:
        yield problem(
            "clock",
            f"events were stamped up to {ahead:,.0f} s later than it is now: the clock went back, or was ahead",
            "set the clock right (chronyc makestep); until it has passed that time new events are refused or late",
        )
    else:
        yield fine("clock", "no event is from the future")


def tables(patient: Patient) -> Iterator[Finding]:
    """Can the tables be read, do they belong to the state, and are their files there?"""
    if not patient.layout.has_lake:
        yield fine("tables", "none were made yet")
        return
    lake = Lake.of(patient.layout)
    opened = _open_state(patient)
    try:
        epoch, sequence = _standing(patient, opened)
        missing: list[str] = []
        orphans = orphan_bytes = count = 0
        told: dict[tuple[str, str], str] = {}
        names = [(name, "") for name in lake.names(patient.workspace)]
        names += [(name, "sync") for name in lake.names(patient.workspace, "sync")]
        for name, part in names:
            table = lake.load(patient.workspace, name, "sync" if part else "")
            count += 1
            # A copy that was made by command says of what it is a copy, which may be long ago.
            kind = table.table.properties.get(KIND)
            if table.progress is not None and kind != "replaced":
                # A rebuild replaces the base of a current table; its log says the new epoch with the next change.
                place = (name.removesuffix("_changes") if kind == "changes" else name, part)
                told[place] = max(told.get(place, ""), table.progress.epoch)
            missing += table.missing()
            swept = table.unreachable(round(time.time()) - ORPHAN_AGE_SECONDS)
            orphans += len(swept)
            orphan_bytes += sum(file.bytes for file in swept)
    finally:
        lake.close()
        if opened is not None:
            opened.close()
    directory = patient.layout.directory
    if missing and patient.server is None:
        yield problem(
            "tables",
            f"{len(missing)} data files are missing, {missing[0]} among them",
            "restore them from a backup: profilelake restore --help",
        )
    else:
        yield fine("tables", f"{count} tables, all of their files are there")
    epochs = set(told.values())
    if epochs - {epoch}:
        yield problem(
            "epoch",
            f"the state is of epoch {epoch or 'none'!r}, tables of {', '.join(sorted(epochs))}: a rebuild was cut "
            "short, or the state is from elsewhere",
            f"profilelake rebuild --dir {directory}",
        )
    else:
        yield fine("epoch", f"state and tables are of one epoch, at micro-batch {sequence:,}")
    text = f"{orphans:,} files, {orphan_bytes:,} bytes, older than a day, are reached by no snapshot"
    if orphan_bytes > ORPHAN_BYTES_WARN:
        yield warning("orphans", text, f"profilelake lake compact --dir {directory}")
    else:
        yield fine("orphans", text)


def message_ids(patient: Patient) -> Iterator[Finding]:
    """Does the de-duplication index know the newest events of the lake?"""
    sample = _newest_events(patient)
    if sample is None:
        yield fine("message ids", "there are no events yet")
        return
    opened = _open_state(patient)
    if opened is None:
        yield problem(
            "message ids",
            "there are events but no state",
            f"profilelake rebuild --dir {patient.layout.directory}",
        )
        return
    try:
        verdicts = _judged(patient, opened, sample)
    finally:
        opened.close()
    unknown = int((verdicts == Verdict.ACCEPTED).sum())
    if unknown:
        yield problem(
            "message ids",
            f"{unknown} of {sample.num_rows} events of the lake are not in the index: repeats would be taken twice",
            f"profilelake rebuild --dir {patient.layout.directory}",
        )
    else:
        yield fine("message ids", f"the index knows all of {sample.num_rows} events of the lake")


def account(patient: Patient) -> Iterator[Finding]:
    """Is every event accounted for, in time, and do few of them fail?"""
    opened = _open_state(patient)
    if opened is None:
        yield fine("account", "nothing was applied yet")
        return
    try:
        with opened.read(patient.workspace) as tx:
            applied = load_applied(tx, patient.workspace, "")
            published = load_published(tx, patient.workspace)
    finally:
        opened.close()
    yield from _balance(applied, published)
    waiting = events_in(applied.vector) - events_in(published.vector)
    late = (patient.now - published.at) / 1_000_000
    if patient.server is not None and waiting and published.at and late > LAG_SECONDS_WARN:
        yield warning(
            "lag",
            f"{waiting:,} events wait for the tables, the last commit was {late:,.0f} s ago",
            "look at the log of the lake process, and at profilelake status",
        )
    else:
        yield fine("lag", f"{waiting:,} events wait for the tables")


def _balance(applied: Applied, published: Published) -> Iterator[Finding]:
    for what, vector, totals in (
        ("state", applied.vector, applied.totals),
        ("tables", published.vector, published.totals),
    ):
        read, found = events_in(vector), sum(totals.values())
        if read != found:
            yield problem(
                "account",
                f"{what}: {read:,} events were read, {found:,} are accounted for",
                "profilelake verify; please report it",
            )
    read, failed = events_in(applied.vector), applied.totals.get("failed", 0)
    text = f"{failed:,} of {read:,} events failed"
    if read >= FAILED_EVENTS_MIN and failed > FAILED_SHARE_WARN * read:
        yield warning("failed events", text, "profilelake failed list")
    else:
        yield fine("failed events", text)


def _open_state(patient: Patient) -> State | None:
    try:
        state = State.open(patient.layout.state)
        with state.read(patient.workspace):
            return state
    except NotFound:
        return None


def _standing(patient: Patient, state: State | None) -> tuple[str, int]:
    if state is None:
        return "", 0
    with state.read(patient.workspace) as tx:
        applied = load_applied(tx, patient.workspace, "")
    return applied.epoch, applied.sequence


def _newest_events(patient: Patient) -> pa.Table | None:
    """Return some of the newest events of the lake, as the de-duplication index wants them."""
    if not patient.layout.has_lake:
        return None
    lake = Lake.of(patient.layout)
    try:
        if "events" not in lake.names(patient.workspace):
            return None
        events = lake.load(patient.workspace, "events")
    finally:
        lake.close()
    if not events.files:
        return None
    newest = max(events.files, key=lambda file: file.sequence)
    columns = ["message_id", "position", *CONTENT_COLUMNS]
    with events.storage.input(newest.location) as source, pq.ParquetFile(source) as opened:
        batch = next(opened.iter_batches(batch_size=SAMPLE_EVENTS, columns=columns))
    rows = pa.Table.from_batches([batch])
    place = rows.schema.get_field_index("position")
    return rows.set_column(place, "position", rows.column(place).cast(pa.binary(POSITION_BYTES)))


def _judged(patient: Patient, state: State, events: pa.Table) -> npt.NDArray[np.int8]:
    """Return verdicts on copies of events, from the index as it is; a file merged away meanwhile is no damage."""
    for attempt in range(RUN_TRIES):
        try:
            with state.read(patient.workspace) as tx:
                folder = patient.layout.dedup(patient.workspace)
                index = DedupIndex.load(tx, patient.workspace, folder, keep_files=True)
                key = index.key(identifier_key(patient.layout.secrets, patient.workspace))
                entries = dedup_entries(key, events)
                # At another place each must be a repeat; at its own it is accepted, known or not.
                entries["received_at"] += 1
                return index.judge(entries).verdicts
        except Corrupt:
            if patient.server is None or attempt + 1 == RUN_TRIES:
                raise
    raise Internal("judging message ids: no attempt was made")
