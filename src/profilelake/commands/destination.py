"""`profilelake destination`: who is told of changes, and how that goes. Works whether the server runs or not."""

import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json, print_rows
from profilelake.errors import Invalid, NotFound
from profilelake.settings import Layout

if TYPE_CHECKING:
    from profilelake.activate.journal import Journal
    from profilelake.workspaces.destinations import Destinations, Held

destination_commands = typer.Typer(
    no_args_is_help=True, help="Who is told of changes of traits and audiences."
)

WORKSPACE: Final = "default"
SECRET_BYTES: Final = 24
Name = Annotated[str, typer.Argument(metavar="DESTINATION", help="Its name.")]


@destination_commands.command("list")
def list_destinations(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """List the destinations and how it goes with them."""
    with _opened(directory) as (destinations, journal, _):
        shown = [_shape(held, journal) for held in destinations.all()]
    if as_json:
        print_json(shown)
        return
    columns = ("name", "type", "state", "delivered", "waiting", "dead", "trouble")
    print_rows([{column: str(one[column]) for column in columns} for one in shown])


@destination_commands.command("show")
def show(name: Name, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Show a destination: what was said of it, how far it is, what is wrong."""
    with _opened(directory) as (destinations, journal, _):
        _print(_shape(destinations.one(name), journal), as_json=as_json)


@destination_commands.command("apply")
def apply(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Let hold what definitions/destinations.yaml says; those it does not name any more end."""
    from profilelake.definitions.destinations import FILE, load
    from profilelake.ops.clock import wall

    found = load(layout_of(directory).destinations)
    with _opened(directory) as (destinations, _, _layout):
        told = destinations.replace_file(FILE, found, now=wall())
    if as_json:
        print_json(told)
        return
    for what, names in told.items():
        for name in names:
            print(f"{what:<10} {name}")


@destination_commands.command("secret")
def secret(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What destinations call it.")],
    generate: Annotated[bool, typer.Option("--generate", help="Make one up and show it, this once.")] = False,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Store a secret, read from standard input; it is never shown again."""
    import base64

    from profilelake.activate import secret_files
    from profilelake.semantics.destinations import fault_of_secret_name

    layout = layout_of(directory)
    fault = fault_of_secret_name(name)
    if fault:
        raise Invalid(f"storing secret {name[:80]!r}: {fault}")
    if generate:
        value = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    else:
        if sys.stdin.isatty():
            print("type the secret and end with Enter:", file=sys.stderr)
        value = sys.stdin.readline().rstrip("\n")
    secret_files.store(layout.destination_secrets, name, value)
    if generate:
        print(value)


@destination_commands.command("pause")
def pause(name: Name, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Send nothing there until it is resumed. What is to be told waits, as long as the feed is kept."""
    from profilelake.ops.clock import wall

    with _opened(directory) as (destinations, journal, _):
        held = destinations.pause(name, "by the command line", now=wall())
        _print(_shape(held, journal), as_json=as_json)


@destination_commands.command("resume")
def resume(name: Name, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Go on sending."""
    from profilelake.ops.clock import wall

    with _opened(directory) as (destinations, journal, _):
        _print(_shape(destinations.resume(name, now=wall()), journal), as_json=as_json)


@destination_commands.command("resync")
def resync(
    name: Name,
    definition: Annotated[
        list[str] | None, typer.Option(help="Only this definition; may be given more than once.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Tell a destination everything anew: who is a member, what traits are worth, who left unheard."""
    from profilelake.activate.resync import ask
    from profilelake.commands.common import state_of
    from profilelake.ops.clock import wall

    with _opened(directory) as (destinations, journal, layout):
        state = state_of(layout)
        held = destinations.one(name)
        asked = ask(state, WORKSPACE, journal, held.destination, definition or (), now=wall())
        if as_json:
            print_json({"destination": name, "definitions": asked})
            return
        print(f"{name} is told anew of {', '.join(asked) if asked else 'nothing: there is no definition'}")


@destination_commands.command("dead")
def dead(
    name: Name,
    after: Annotated[int, typer.Option(min=0, help="Only those behind this id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    bodies: Annotated[bool, typer.Option("--bodies", help="Show what was sent; it is about people.")] = False,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """List the records that were given up, and why, the oldest first."""
    from profilelake.semantics.times import format_time

    with _opened(directory) as (destinations, journal, _):
        destinations.one(name)
        found = journal.letters.listed(name, after, limit, bodies=bodies)
        more = found and journal.letters.listed(name, found[-1].id, 1, bodies=False)
    rows: list[dict[str, Any]] = [
        {
            "id": one.id,
            "at": format_time(one.at),
            "definition": one.definition,
            "profile_id": one.profile_id,
            "idempotency_key": one.idempotency_key,
            "status": one.status,
            "attempts": one.attempts,
            "reason": one.reason,
        }
        | ({"body": json.loads(one.body)} if bodies else {})
        for one in found
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows([{key: str(value) for key, value in row.items()} for row in rows])
    if more:
        print(f"there are more: --after {found[-1].id}", file=sys.stderr)


Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Ids of dead letters.")]
All = Annotated[bool, typer.Option("--all", help="All there are now.")]


@destination_commands.command("replay")
def replay(
    name: Name,
    ids: Ids = None,
    everything: All = False,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Send dead letters again, with the keys they had, unless something newer was told since.

    The server sends them one after the other; `destination show` tells how far it is.
    """
    if bool(ids) == everything:
        raise Invalid("replaying dead letters: give their ids, or --all")
    with _opened(directory) as (destinations, journal, _):
        held = destinations.one(name)
        count = journal.letters.ask_replay(name, None if everything else ids)
    if as_json:
        print_json({"destination": name, "asked": count})
        return
    when = "are sent again" if held.active else "are sent again once it is resumed and enabled"
    print(f"{count} dead letters {when} to {name}, but for those that are outdated by what was told since")


@destination_commands.command("discard")
def discard(
    name: Name,
    ids: Ids = None,
    everything: All = False,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Put dead letters away unsent. The receiver never hears of them, unless by a resync."""
    if bool(ids) == everything:
        raise Invalid("discarding dead letters: give their ids, or --all")
    with _opened(directory) as (destinations, journal, _):
        destinations.one(name)
        count = journal.letters.discard(name, None if everything else ids)
    if as_json:
        print_json({"destination": name, "discarded": count})
        return
    print(f"{count} dead letters of {name} are put away")


@destination_commands.command("diff")
def diff(
    definition: Annotated[str, typer.Argument(metavar="DEFINITION", help="Key of a trait or an audience.")],
    since: Annotated[str, typer.Option("--from", help="A time, such as 2026-03-01T00:00:00Z.")],
    until: Annotated[str | None, typer.Option("--to", help="A later time; now, if none is given.")] = None,
    format: Annotated[str, typer.Option(help="table, json, ndjson, csv, arrow or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show what differs between two moments, for whoever syncs now and then: added, updated, deleted."""
    from profilelake.activate.classes import write_changes
    from profilelake.lake.catalog import Lake
    from profilelake.ops.clock import wall
    from profilelake.query.run import writer

    layout = layout_of(directory)
    after, end = _micros("--from", since), wall() if until is None else _micros("--to", until)
    if not layout.has_lake:
        raise NotFound(f"comparing two moments: no tables in {directory} yet; start the server once")
    lake = Lake.of(layout)
    write_changes(lake, WORKSPACE, definition, after, end, writer("json" if as_json else format, output))


def _micros(option: str, text: str) -> int:
    from profilelake.semantics.times import parse_time

    micros = parse_time(text)
    if micros is None:
        raise Invalid(f"{option} {text[:40]!r}: give a time such as 2026-03-01T00:00:00Z")
    return micros


@contextmanager
def _opened(directory: Path) -> "Iterator[tuple[Destinations, Journal, Layout]]":
    from profilelake.activate.journal import Journal
    from profilelake.workspaces.control import Control

    layout = layout_of(directory)
    with (
        Control.open(layout.control, secrets.token_bytes) as control,
        Journal.open(layout.activations) as journal,
    ):
        yield control.destinations(WORKSPACE), journal, layout


def _shape(held: "Held", journal: "Journal") -> dict[str, Any]:
    from profilelake.activate.shown import shape

    return shape(held, journal.health(held.destination.name))


def _print(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"{key:<18} {text}")
