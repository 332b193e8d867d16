"""`profilelake tail`: what becomes of events, as it happens."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, server_of
from profilelake.errors import Unavailable

if TYPE_CHECKING:
    from profilelake.pipeline.tail import Filter, Reader

ROWS_MAX: Final = 10_000
"""Events that are read together."""
WAIT_SECONDS: Final = 0.05
PAUSE_KEY: Final = b" "

Values = list[str] | None


def tail(
    directory: Directory = DEFAULT_DIRECTORY,
    type: Annotated[Values, typer.Option(help="Only events of this type; may be given again.")] = None,
    event: Annotated[Values, typer.Option(help="Only events of this name.")] = None,
    source: Annotated[Values, typer.Option(help="Only events of this source.")] = None,
    user_id: Annotated[Values, typer.Option(help="Only events with this userId.")] = None,
    anonymous_id: Annotated[Values, typer.Option(help="Only events with this anonymousId.")] = None,
    message_id: Annotated[Values, typer.Option(help="Only events with this messageId.")] = None,
    status: Annotated[Values, typer.Option(help="accepted, duplicate or failed.")] = None,
    reason: Annotated[Values, typer.Option(help="Only events that failed for this reason.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="End after this time.")] = None,
    as_json: Json = False,
) -> None:
    """Show events as they are applied, with what became of them. Space pauses and goes on.

    Everything from the start to the end is shown, or how many events were missed. Needs a running
    server; goes on when it is started again.
    """
    from profilelake.commands._keyboard import Keyboard
    from profilelake.pipeline.tail import Filter, Place, Reader, Watch

    chosen = Filter.of(
        type=type or (),
        event=event or (),
        source_id=source or (),
        user_id=user_id or (),
        anonymous_id=anonymous_id or (),
        message_id=message_id or (),
        status=status or (),
        reason=reason or (),
    )
    layout = layout_of(directory)
    if server_of(layout) is None:
        raise Unavailable(
            f"tail: no server runs on {directory}; start it: profilelake serve --dir {directory}"
        )
    folder = layout.tail("default")
    with Watch(folder) as watch, Keyboard() as keyboard:
        reader = Reader(folder, Place(watch.wait()))
        print("showing events from here on; space pauses, Ctrl-C ends", file=sys.stderr, flush=True)
        end_at = None if seconds is None else time.monotonic() + seconds
        left = limit
        paused = False
        while left is None or left > 0:
            ending = end_at is not None and time.monotonic() >= end_at
            shown = None if paused else _show(reader, chosen, left, as_json=as_json)
            if shown is None and ending:
                return
            if left is not None:
                left -= shown or 0
            if keyboard.pressed(WAIT_SECONDS if shown is None else 0) == PAUSE_KEY:
                paused = not paused
                print("paused; space goes on" if paused else "going on", file=sys.stderr, flush=True)


def _show(reader: "Reader", chosen: "Filter", left: int | None, *, as_json: bool) -> int | None:
    """Print what follows, at most `left` events of it; return how many, None when there is nothing."""
    import msgspec

    from profilelake.pipeline.tail import documents

    seen = reader.next(ROWS_MAX)
    if seen is None:
        return None
    rows = chosen.rows(seen.rows)
    if left is not None:
        rows = rows.slice(0, left)
    found: list[dict[str, Any]] = []
    if seen.missed:
        found.append({"status": "missed", "count": seen.missed})
    found += documents(rows)
    if seen.suppressed:
        found.append({"status": "suppressed", "count": seen.suppressed})
    for document in found:
        print(msgspec.json.encode(document).decode() if as_json else _line(document))
    sys.stdout.flush()
    return int(rows.num_rows)


def _line(document: dict[str, Any]) -> str:
    status = document["status"]
    if status == "missed":
        return f"--- {document['count']:,} events missed: they came faster than they were read here ---"
    if status == "suppressed":
        return f"--- {document['count']:,} events of suppressed people ---"
    words = [document["received_at"][11:23], f"{status:<9}", document.get("reason", "")]
    words += [document.get("type", "?"), *([f'"{document["event"]}"'] if "event" in document else [])]
    for name, shown in (
        ("user_id", "user"),
        ("anonymous_id", "anonymous"),
        ("source_id", "source"),
        ("message_id", "message"),
    ):
        if document.get(name):
            words.append(f"{shown}={document[name]}")
    line = " ".join(word for word in words if word)
    return "".join(character if character.isprintable() else " " for character in line)
