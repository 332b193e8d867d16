"""`profilelake profile history`, `profilelake profile get --as-of` and `profilelake export`."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import quote

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json, print_rows
from profilelake.errors import Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    from profilelake.semantics.rules import Collection
    from profilelake.serve.history_routes import History
    from profilelake.settings import Layout
    from profilelake.state.store import Tx

WORKSPACE: Final = "default"
_ATTEMPTS: Final = 5
_TERMINAL_REFUSED: Final = frozenset({"arrow", "parquet"})
_Answer = TypeVar("_Answer")

CollectionOption = Annotated[str, typer.Option("--collection", help="users or accounts")]


def profile_then(directory: Path, identifier: str, collection: str, as_of: str, rules: str) -> dict[str, Any]:
    """Return a profile as it was, as `profile get` prints one."""
    import msgspec

    from profilelake.profiles.fold import identifiers_text, traits_text
    from profilelake.serve._answer import time_text
    from profilelake.serve.as_of import AsOf, Reading, activity_then, find_then

    with _history(layout_of(directory), identifier) as history:
        reading = Reading(history.past, history.identifier_key(WORKSPACE), history.rules, history.untrusted())

        def read(tx: "Tx") -> dict[str, Any]:
            moment = AsOf.of(_query(as_of=as_of, rules=rules), history.now())
            found = find_then(tx, WORKSPACE, _collection(collection), identifier, moment, reading)
            events, last = activity_then(found, moment.at, history.past)
            known = tx.idents(WORKSPACE, [key for key, _ in found.record.idents])
            return {
                "profile_id": found.segment_id,
                "collection": found.collection,
                "as_of": time_text(moment.at),
                "identifiers": msgspec.json.decode(identifiers_text(found.record, known)),
                "traits": msgspec.json.decode(traits_text(found.traits())),
                "first_seen_at": time_text(found.first_seen_at),
                "last_seen_at": time_text(last),
                "event_count": events,
            }

        return _read(history, f"profile get {identifier!r} --as-of {as_of}", read)


def explained_profile(
    directory: Path, key: str, identifier: str, collection: str, as_of: str | None
) -> dict[str, Any]:
    """Return why a definition says what it says of a profile, now or as of a time."""
    import msgspec

    from profilelake.serve._profile import find
    from profilelake.serve.as_of import AsOf, Reading, find_then
    from profilelake.serve.explaining import explained

    chosen = _collection(collection)
    with _history(layout_of(directory), identifier) as history:

        def read(tx: "Tx") -> dict[str, Any]:
            key_of, now = history.identifier_key(WORKSPACE), history.now()
            if as_of is None:
                found = find(tx, WORKSPACE, chosen, identifier, key_of, history.rules_now(WORKSPACE))
                return explained(found, key, now, history.past)
            moment = AsOf.of(_query(as_of=as_of), now)
            reading = Reading(history.past, key_of, history.rules, history.untrusted())
            then = find_then(tx, WORKSPACE, chosen, identifier, moment, reading)
            return explained(then, key, moment.at, history.past, rules_now=False)

        told = _read(history, f"explaining {key} for {identifier!r}", read)
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(told))
    return shown


def profile_history(
    identifier: Annotated[str, typer.Argument(metavar="TYPE:VALUE", help="such as email:ana@example.org")],
    directory: Directory = DEFAULT_DIRECTORY,
    collection: CollectionOption = "users",
    trait: Annotated[str | None, typer.Option(help="Show the writes of this trait, not events.")] = None,
    start: Annotated[str | None, typer.Option(help="Only events from this time on.")] = None,
    end: Annotated[str | None, typer.Option(help="Only events before this time.")] = None,
    type: Annotated[str | None, typer.Option(help="Only events of these types, such as track,page.")] = None,
    event: Annotated[str | None, typer.Option(help="Only events of these names.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only events with such a property: plan=pro, 'price[gte]=100'.")
    ] = None,
    sort: Annotated[str, typer.Option(help="desc: newest first; asc: oldest first.")] = "desc",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """Print the events of a profile, all the way back, or every write of one of its traits."""
    from profilelake.serve._profile import find
    from profilelake.serve.event_history import EVENTS_MAX, event_history
    from profilelake.serve.trait_history import trait_history

    filters = {f"property.{name}": value for name, value in map(_filter, where or ())}
    said = {"start": start, "end": end, "type": type, "include": event, "sort": sort, **filters}
    chosen = _collection(collection)
    rows: list[Any] = []
    with _history(layout_of(directory), identifier) as history:

        def page(tx: "Tx", following: str) -> Any:
            key, rules = history.identifier_key(WORKSPACE), history.rules_now(WORKSPACE)
            found = find(tx, WORKSPACE, chosen, identifier, key, rules)
            size = str(min(limit - len(rows), EVENTS_MAX))
            if trait is not None:
                return trait_history(found, trait, _query(limit=size, next=following), history.past)
            return event_history(found, _query(limit=size, next=following, **said), history.past)

        following = ""
        while len(rows) < limit:
            answer = _read(history, f"profile history {identifier!r}", lambda tx: page(tx, following))  # noqa: B023
            rows += answer.data
            following = answer.cursor.next
            if not following:
                break
    _print(rows, as_json=as_json, of_trait=trait is not None)
    if following:
        print(f"there are more; give a greater --limit than {limit}", file=sys.stderr)


def export_table(
    table: Annotated[str, typer.Argument(help="profiles or events")],
    directory: Directory = DEFAULT_DIRECTORY,
    since: Annotated[
        str | None, typer.Option(help="Only profiles seen, or events received, from this time on.")
    ] = None,
    collection: Annotated[str | None, typer.Option(help="Only profiles of users or of accounts.")] = None,
    format: Annotated[str, typer.Option(help="ndjson, csv, arrow or parquet.")] = "ndjson",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
) -> None:
    """Write a whole table as it is published: profiles as they are now, or all events."""
    from profilelake.semantics.times import parse_time
    from profilelake.serve.export import Export, export

    from_time = None if since is None else parse_time(since)
    if since is not None and from_time is None:
        raise Invalid(f"--since {since}: it is no ISO 8601 time, such as 2026-01-31T12:00:00Z")
    if collection is not None and table != "profiles":
        raise Invalid("--collection: events belong to users and accounts at once; leave it out")
    chosen = None if collection is None else _collection(collection)
    wanted = Export(table, format, collection=chosen, since=from_time)
    if output is None and format in _TERMINAL_REFUSED and sys.stdout.isatty():
        raise Invalid(f"--format {format} on a terminal: name a file with --output")
    with _history(layout_of(directory), f"export {table}") as history:
        pieces = export(history.past, WORKSPACE, wanted)
        if output is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        # Whoever finds the file finds all of it.
        part = output.with_name(f"{output.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as sink:
                for piece in pieces:
                    sink.write(piece)
            part.rename(output)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _history(layout: "Layout", what: str) -> "Iterator[History]":
    from profilelake.app.query_process import history
    from profilelake.serve.latest_state import LatestState

    if not (layout.state / "data.mdb").exists():
        raise NotFound(f"{what}: nothing was applied yet; start the server once: profilelake serve")
    state = LatestState(layout.state)
    with tempfile.TemporaryDirectory(prefix="profilelake-history-") as spill:
        opened = history(layout, state, Path(spill))
        try:
            yield opened
        finally:
            opened.past.close()
            state.close()


def _read(history: "History", what: str, read: "Callable[[Tx], _Answer]") -> _Answer:
    """Read in one transaction, and tell what is refused as commands do."""
    from profilelake.serve._answer import Refused

    try:
        for _ in range(_ATTEMPTS):
            try:
                with history.state().read(WORKSPACE) as tx:
                    return read(tx)
            except FileNotFoundError:
                continue  # a run was merged away since the transaction began
    except Refused as refused:
        error = NotFound if refused.status == 404 else Invalid
        raise error(f"{what}: {refused}") from refused
    except UnicodeEncodeError as error_:
        raise Invalid(f"{what}: it is not valid text") from error_
    raise Unavailable(f"{what}: run files go away faster than they are read; try again")


def _collection(text: str) -> "Collection":
    from profilelake.semantics.rules import COLLECTIONS

    if text not in COLLECTIONS:
        raise Invalid(f"--collection {text}: it is one of {', '.join(COLLECTIONS)}")
    return text


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise Invalid(f"--where {text}: write NAME=VALUE or NAME[OPERATOR]=VALUE")
    return name, value


def _query(**said: str | None) -> Any:
    """Return options as the query of a request, which checks them."""
    from profilelake.serve._request import Query

    pairs = (f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in said.items() if value)
    return Query("&".join(pairs).encode())


def _print(rows: list[Any], *, as_json: bool, of_trait: bool) -> None:
    import msgspec

    shown = msgspec.json.decode(msgspec.json.encode(rows))
    if as_json:
        print_json(shown)
        return
    if of_trait:
        columns = ("timestamp", "value", "in_force_from", "in_force_until", "source_id", "message_id")
    else:
        columns = ("timestamp", "type", "event", "properties", "source_id", "message_id")
    print_rows([{name: _cell(row[name]) for name in columns} for row in shown])


def _cell(value: object) -> str:
    import msgspec

    if value is None or value == {}:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
