"""`profilelake failed`: events that could not be accepted; what to do about them."""

import base64
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_json,
    print_rows,
    rules_of,
    state_of,
)
from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.semantics.reasons import REASONS, REMEDIES, what_happened
from profilelake.semantics.times import format_time, parse_time
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from profilelake.failed.find import Failed, FailedEvents, Wanted
    from profilelake.failed.journal import Replay
    from profilelake.failed.replay import Judge, Judged, Outcome
    from profilelake.failed.results import Result
    from profilelake.lake.catalog import Lake
    from profilelake.semantics.standalone import Message

WORKSPACE: Final = "default"
LIST_ROWS: Final = 100
PAGE_ROWS: Final = 200

failed_commands = typer.Typer(no_args_is_help=True, help="Events that could not be accepted.")

Reason = Annotated[str | None, typer.Option(help="Only those that failed for this reason.")]
Source = Annotated[str | None, typer.Option(help="Only those of this source.")]
Since = Annotated[str | None, typer.Option(help="Only those received at this time (ISO 8601) or later.")]
Until = Annotated[str | None, typer.Option(help="Only those received before this time.")]
MessageId = Annotated[str | None, typer.Option(help="Only those with this messageId.")]


@failed_commands.command("list")
def list_failed(
    directory: Directory = DEFAULT_DIRECTORY,
    reason: Reason = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    message_id: MessageId = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = LIST_ROWS,
    cursor: Annotated[str | None, typer.Option(help="Go on behind this position.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Only how many there are by reason.")] = False,
    as_json: Json = False,
) -> None:
    """List failed events, with what was sent, what was wrong, and what to do. Reads committed data."""
    from profilelake.failed.edits import position_of

    layout = layout_of(directory)
    wanted = _wanted(reason, source, since, until, message_id)
    lake, events = _open(layout)
    if summary:
        _summarise(events.counts(wanted), as_json=as_json)
        return
    after = position_of(cursor) if cursor is not None else None
    positions = events.positions(wanted, newest_first=True, after=after, limit=limit + 1)
    shown = positions[:limit]
    pages = (shown[start : start + PAGE_ROWS] for start in range(0, len(shown), PAGE_ROWS))
    documents = (document for page in pages for document in _documents(layout, lake, events, page))
    if as_json:
        _print_lines(documents)
    else:
        _print_table(list(documents))
    if len(positions) > limit:
        print(f"there are more: --cursor {shown[-1].hex()}", file=sys.stderr)


@failed_commands.command("replay")
def replay(
    positions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[POSITION]...", help="Positions, as `failed list` prints them."),
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    reason: Reason = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    message_id: MessageId = None,
    everything: Annotated[bool, typer.Option("--all", help="All failed events.")] = False,
    set: Annotated[
        list[str] | None, typer.Option(metavar="PATH=JSON", help="Put a value into each event.")
    ] = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="PATH", help="Remove a value.")] = None,
    rename: Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="Move a value.")] = None,
    edit: Annotated[
        Path | None, typer.Option(help="Send the events of this file: `failed list --json`, edited.")
    ] = None,
    new_message_id: Annotated[
        bool, typer.Option("--new-message-id", help="Give each a messageId of its own; conflicts need it.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed before.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the oldest first.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; send nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send failed events again, put right where that is needed.

    Each keeps its messageId, or gets one made of its position, and the time it happened: so a replay
    that is repeated stores nothing twice. Events that would fail again are told and not sent. Works
    with the server up (they are taken up at once) or down (at its next start).
    """
    from profilelake.app import directory as owned
    from profilelake.eventlog.embedded import LogWriter
    from profilelake.failed import replay as replaying
    from profilelake.failed.edits import Edits, position_of
    from profilelake.failed.journal import Journal
    from profilelake.ops.clock import wall

    layout = layout_of(directory)
    settings = Settings.load(directory, os.environ)
    edits = Edits.parse(rename or (), unset or (), set or ())
    edited = _edited(edit)
    named = tuple(position_of(text) for text in positions or ()) or None
    if edited is not None:
        named = (
            tuple(edited) if named is None else tuple(position for position in named if position in edited)
        )
    wanted = _wanted(reason, source, since, until, message_id, named)
    if not everything and wanted == _wanted():
        raise Invalid(
            "failed replay: say which: --reason, --source, --since, positions, --edit FILE, or --all"
        )
    _, events = _open(layout)
    judge = replaying.Judge(rules_of(layout), edits, new_message_id, wall())
    journal = Journal(layout.replays)
    outcome = replaying.Outcome()
    sendable = _sendable(
        events,
        events.positions(wanted, newest_first=False, limit=limit),
        journal,
        edited,
        judge,
        outcome,
        again,
    )
    if dry_run:
        outcome.sent = sum(1 for _ in sendable)
    else:
        outcome.sent = replaying.send(
            replaying.records(sendable),
            lambda: LogWriter(
                layout.log, region=settings.region, clock=wall, limits=owned.log_limits(settings)
            ),
            journal,
            WORKSPACE,
            wall,
        )
    if not outcome.found:
        raise NotFound("failed replay: there is no failed event like that; see: profilelake failed list")
    _tell(outcome, dry_run=dry_run, as_json=as_json)


def _wanted(
    reason: str | None = None,
    source: str | None = None,
    since: str | None = None,
    until: str | None = None,
    message_id: str | None = None,
    positions: tuple[bytes, ...] | None = None,
) -> "Wanted":
    from profilelake.failed.find import Wanted

    if reason is not None and reason not in REASONS:
        raise Invalid(f"--reason {reason[:40]!r}: it is one of {', '.join(REASONS)}")
    return Wanted(reason, source, _time("since", since), _time("until", until), message_id, positions)


def _time(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    micros = parse_time(text)
    if micros is None:
        raise Invalid(f"--{option} {text[:40]!r}: write a time as 2026-03-01T10:00:00Z")
    return micros


def _open(layout: Layout) -> tuple["Lake", "FailedEvents"]:
    from profilelake.failed.find import FailedEvents
    from profilelake.lake.catalog import Lake

    if not layout.has_lake:
        raise NotFound(f"reading failed events in {layout.directory}: no tables yet; start the server once")
    lake = Lake.of(layout)
    return lake, FailedEvents(lake, WORKSPACE, str(layout.run / "spill"))


# ---- list ------------------------------------------------------------------------------------


def _documents(
    layout: Layout, lake: "Lake", events: "FailedEvents", positions: Sequence[bytes]
) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each failed event."""
    from profilelake.failed.journal import Journal
    from profilelake.failed.results import results

    replays = Journal(layout.replays).of(positions)
    became = results(
        lake, WORKSPACE, [replay for some in replays.values() for replay in some], _committed(layout)
    )
    for failed in events.read(positions):
        yield _document(failed, [(replay, became[replay]) for replay in replays.get(failed.position, [])])


def _committed(layout: Layout) -> dict[str, int]:
    """Return how far each log is in the tables."""
    from profilelake.pipeline.progress import load_published

    state = state_of(layout)
    if state is None:
        return {}
    try:
        with state.read(WORKSPACE) as tx:
            return {log: offset for log, (offset, _) in load_published(tx, WORKSPACE).vector.items()}
    except NotFound:
        return {}


def _document(failed: "Failed", replays: list[tuple["Replay", "Result"]]) -> dict[str, Any]:
    import msgspec

    from profilelake.semantics import json_text

    document: dict[str, Any] = {
        "position": failed.position.hex(),
        "received_at": format_time(failed.received_at),
        "reason": failed.reason,
        "what_happened": what_happened(failed.reason),
        "what_to_do": REMEDIES.get(failed.reason, ""),
        "detail": failed.detail,
        "message_id": failed.message_id,
        "source_id": failed.source_id,
    }
    try:
        document["raw"] = failed.raw.decode()
    except UnicodeDecodeError:
        document["raw_base64"] = base64.b64encode(failed.raw).decode()
    # As text, because a number keeps the digits that were sent.
    event = None if failed.event is None else msgspec.Raw(json_text.dump(failed.event).encode())
    return document | {"event": event, "replays": [_replay(*each) for each in replays]}


def _replay(replay: "Replay", result: "Result") -> dict[str, Any]:
    document = {"replayed_at": format_time(replay.replayed_at), "outcome": result.state}
    if result.position is not None:
        document["position"] = result.position.hex()
    if result.reason is not None:
        document["reason"] = result.reason
    return document


def _print_lines(documents: Iterator[dict[str, Any]]) -> None:
    """Print one array, a line for each event, so that lines can be edited, kept or left out."""
    import msgspec

    print("[", end="")
    for number, document in enumerate(documents):
        print("," if number else "")
        print(msgspec.json.encode(document).decode(), end="")
    print("\n]")


def _print_table(documents: list[dict[str, Any]]) -> None:
    print_rows(
        [
            {
                "received_at": document["received_at"][:19],
                "reason": document["reason"],
                "detail": document["detail"],
                "source": document["source_id"],
                "message id": document["message_id"] or "",
                "replayed": _best(document["replays"]),
                "position": document["position"],
            }
            for document in documents
        ]
    )
    for reason in dict.fromkeys(document["reason"] for document in documents):
        print(f"{reason}: {what_happened(reason)}; {REMEDIES.get(reason, '')}", file=sys.stderr)


def _best(replays: list[dict[str, Any]]) -> str:
    """Return what the replays of an event came to: that one was accepted, or what the last one did."""
    outcomes = [replay["outcome"] for replay in replays]
    return "accepted" if "accepted" in outcomes else outcomes[-1] if outcomes else ""


def _summarise(counts: dict[str, int], *, as_json: bool) -> None:
    rows = [
        {
            "reason": reason,
            "events": count,
            "what_happened": what_happened(reason),
            "what_to_do": REMEDIES.get(reason, ""),
        }
        for reason, count in counts.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows([{name: str(value) for name, value in row.items()} for row in rows])


# ---- replay ----------------------------------------------------------------------------------


def _edited(path: Path | None) -> "dict[bytes, Message | None] | None":
    """Return the events of a file of edited ones, by position."""
    from profilelake.failed.edits import EDITED_BYTES_MAX, edited_events

    if path is None:
        return None
    try:
        if path.stat().st_size > EDITED_BYTES_MAX:
            raise Invalid(f"--edit {path}: more than {EDITED_BYTES_MAX} bytes; split it")
        return dict(edited_events(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise Invalid(f"--edit {path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise Unavailable(f"--edit {path}: {error}") from error


def _sendable(
    events: "FailedEvents",
    positions: Sequence[bytes],
    journal: Any,
    edited: "dict[bytes, Message | None] | None",
    judge: "Judge",
    outcome: "Outcome",
    again: bool,
) -> "Iterator[Judged]":
    """Yield what would be accepted; note everything else in `outcome`."""
    for start in range(0, len(positions), PAGE_ROWS):
        page = positions[start : start + PAGE_ROWS]
        outcome.found += len(page)
        if not again:
            before = journal.of(page)
            outcome.replayed_before += len(before)
            page = [position for position in page if position not in before]
        for failed in events.read(page):
            event = failed.event if edited is None else edited[failed.position]
            judged = judge.judge(failed, event)
            if judged.reason is None:
                yield judged
            else:
                outcome.note(judged)


def _tell(outcome: "Outcome", *, dry_run: bool, as_json: bool) -> None:
    failing: list[dict[str, Any]] = [
        {
            "reason": reason,
            "events": count,
            "what_to_do": REMEDIES.get(reason, ""),
            "examples": [
                {"position": each.failed.position.hex(), "detail": each.detail}
                for each in outcome.examples[reason]
            ],
        }
        for reason, count in outcome.failing.most_common()
    ]
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "found": outcome.found,
                "sent": 0 if dry_run else outcome.sent,
                "would_be_accepted": outcome.sent,
                "replayed_before": outcome.replayed_before,
                "would_fail": failing,
            }
        )
        return
    print(f"{outcome.sent:,} of {outcome.found:,} {'would be accepted' if dry_run else 'sent again'}")
    if outcome.replayed_before:
        print(f"{outcome.replayed_before:,} were replayed before and left alone; send them with --again")
    for each in failing:
        print(f"{each['events']:,} would fail again, {each['reason']}: {each['what_to_do']}")
        for example in each["examples"]:
            print(f"    {example['position']} {example['detail']}".rstrip())
