"""`profilelake import`: files of events, past HTTP, into the event log."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from profilelake.commands._applying import Pipeline, applying
from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json, rules_of
from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from profilelake.imports.files import ImportFile
    from profilelake.imports.run import Outcome, Watcher
    from profilelake.imports.tables import Reading
    from profilelake.imports.trial import Trial

WORKSPACE: Final = "default"
FILES_SHOWN_MAX: Final = 20
_T = TypeVar("_T", bound=str)


def import_files(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE…", help="Files, patterns, directories, or - for the standard input."),
    ],
    directory: Directory = DEFAULT_DIRECTORY,
    source: Annotated[str, typer.Option(help="Id of the source the events count as.")] = "default",
    type: Annotated[str | None, typer.Option(help="Type of events that name none: track, identify …")] = None,
    format: Annotated[
        str | None, typer.Option(help="ndjson, csv or parquet; by default it is found out.")
    ] = None,
    map: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=FIELD", help="Where a column goes, such as mail=traits.email."),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field that is the same in all events."),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="TOML file with the sections [columns] and [constants].")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="What separates the columns of CSV.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would fail.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until a running server has committed the events.")] = True,
    apply: Annotated[bool, typer.Option("--apply", help="Commit them here if no server runs.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also send what was imported before; message ids then decide.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Import events from files: lines of JSON, CSV or Parquet, plain or packed. Repeating it is harmless."""
    from profilelake.imports.files import FORMATS, find_files
    from profilelake.imports.mapping import ColumnMapping
    from profilelake.imports.tables import Reading
    from profilelake.semantics.events import EVENT_TYPES

    layout = layout_of(directory)
    _check_source(layout, source)
    if delimiter is not None and len(delimiter.encode()) != 1:
        raise Invalid(f"--delimiter {delimiter!r}: it is one ASCII character")
    reading = Reading(
        mapping=ColumnMapping.load(mapping, map or (), set or ()),
        default_type=_one_of("--type", type, EVENT_TYPES),
        format=_one_of("--format", format, FORMATS),
        delimiter=delimiter,
    )
    found = find_files(files)
    if dry_run:
        return _try(layout, found, reading, source, as_json=as_json)
    settings = Settings.load(directory, os.environ)
    pipeline = Pipeline(layout)
    with applying(pipeline) if apply and not pipeline.runs() else nullcontext(), _shown(found) as watcher:
        outcome = _import(
            settings, layout, found, reading, source, watcher, pipeline, wait=wait or apply, again=again
        )
    _tell(outcome, as_json=as_json)
    if apply and outcome.place != "committed":
        raise Unavailable(
            "importing: the events are in the log, but what should commit them has ended; see its messages, "
            "then run the same command again"
        )
    problems = [file.problem for file in outcome.files if file.problem]
    if problems:
        rest = f"; and {len(problems) - 1} more files" if len(problems) > 1 else ""
        raise Invalid(f"importing: {problems[0]}{rest}")
    return 0


def _check_source(layout: Layout, source: str) -> None:
    import secrets

    from profilelake.workspaces.control import Control

    if not layout.control.exists():
        raise NotFound(
            f"importing into {layout.directory}: it has no source yet; start the server once: profilelake serve"
        )
    with Control.open(layout.control, secrets.token_bytes) as control:
        control.source(source)


def _one_of(option: str, value: str | None, known: tuple[_T, ...]) -> _T | None:
    for name in known:
        if value == name:
            return name
    if value is not None:
        raise Invalid(f"{option} {value}: it is one of {', '.join(known)}")
    return None


def _import(
    settings: Settings,
    layout: Layout,
    files: "list[ImportFile]",
    reading: "Reading",
    source: str,
    watcher: "Watcher",
    pipeline: Pipeline,
    *,
    wait: bool,
    again: bool,
) -> "Outcome":
    import asyncio

    from profilelake.app.directory import log_limits
    from profilelake.eventlog.embedded import LogWriter
    from profilelake.imports.progress import Progress, Target
    from profilelake.imports.run import Importer
    from profilelake.ops.clock import wall

    def open_writer() -> LogWriter:
        return LogWriter(layout.log, region=settings.region, clock=wall, limits=log_limits(settings))

    target = Target(WORKSPACE, source, reading.default_type or "")
    with Progress.open(layout.imports) as progress:
        importer = Importer(open_writer, progress, target, reading, pipeline, watcher)
        return asyncio.run(importer.run(files, wait=wait, again=again))


# ---- what is shown ---------------------------------------------------------------------------


class _Quiet:
    """Says only why an import waits, once for each reason."""

    def __init__(self) -> None:
        self._reason = ""

    def began(self, file: "ImportFile") -> None:
        pass

    def went_on(self, file_bytes: int, events: int) -> None:
        pass

    def waits(self, reason: str) -> None:
        if reason != self._reason:
            print(f"waiting: {reason}", file=sys.stderr)
            self._reason = reason


class _Bar:
    """A bar on the terminal with rate and remaining time."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task
        self._bytes_before = self._events_before = self._bytes = self._events = 0

    def began(self, file: "ImportFile") -> None:
        self._bytes_before += self._bytes
        self._events_before += self._events
        self._bytes = self._events = 0
        self._bar.update(self._task, description=Path(file.name).name, note="")

    def went_on(self, file_bytes: int, events: int) -> None:
        self._bytes, self._events = file_bytes, events
        all_events = self._events_before + events
        self._bar.update(self._task, completed=self._bytes_before + file_bytes, events=all_events, note="")
        seconds = self._bar.tasks[0].elapsed
        if seconds:
            self._bar.update(self._task, rate=round(all_events / seconds))

    def waits(self, reason: str) -> None:
        self._bar.update(self._task, note=reason)


@contextmanager
def _shown(files: "list[ImportFile]") -> Iterator["Watcher"]:
    if not sys.stderr.isatty():
        yield _Quiet()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    sizes = [file.bytes for file in files]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[events]:,} events  {task.fields[rate]:,}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )
    with bar:
        yield _Bar(bar, bar.add_task("", total=total, events=0, rate=0, note=""))


def _tell(outcome: "Outcome", *, as_json: bool) -> None:
    if as_json:
        skipped = sum(file.skipped for file in outcome.files)
        print_json(
            {
                "events": outcome.events,
                "skipped": skipped,
                "place": outcome.place,
                "seconds": round(outcome.seconds, 3),
                "files": [asdict(file) for file in outcome.files],
            }
        )
        return
    for file in outcome.files[:FILES_SHOWN_MAX]:
        notes = [f"{file.events:,} events"]
        notes += [f"{file.skipped:,} were imported before"] if file.skipped else []
        notes += [f"{file.cut_lines:,} lines are far too long and were cut"] if file.cut_lines else []
        notes += ["not to its end"] if file.problem else []
        print(f"{file.file}: {', '.join(notes)}")
    if len(outcome.files) > FILES_SHOWN_MAX:
        print(f"and {len(outcome.files) - FILES_SHOWN_MAX:,} more files")
    if not outcome.events and outcome.place == "waiting":
        print("nothing new to import")
        return
    rate = outcome.events / outcome.seconds if outcome.seconds else 0
    print(f"{outcome.events:,} events in {outcome.seconds:.1f} s ({rate:,.0f}/s): {_MEANING[outcome.place]}")


_MEANING: Final = {
    "committed": "they are in the lake",
    "accepted": "they are in the log, and the running server commits them",
    "waiting": "no server runs, so they wait in the log; start it (profilelake serve), or run this with --apply",
}


def _try(layout: Layout, files: "list[ImportFile]", reading: "Reading", source: str, *, as_json: bool) -> int:
    from profilelake.imports.trial import try_files
    from profilelake.ops.clock import wall

    trials = try_files(files, reading, source, rules_of(layout), wall())
    if as_json:
        print_json([_trial_document(trial) for trial in trials])
        return 0
    for trial in trials:
        part = "" if trial.whole else "the first "
        print(f"{trial.file}: of {part}{trial.events:,} events {trial.good:,} are good")
        for failure in trial.failures.values():
            detail = f": {failure.detail}" if failure.detail else ""
            print(f"  {failure.events:,} fail with {failure.reason}{detail}")
            print(f"    first event {failure.line:,}: {failure.raw}")
    return 0


def _trial_document(trial: "Trial") -> dict[str, object]:
    document = asdict(trial)
    document["failures"] = list(document["failures"].values())
    return document
