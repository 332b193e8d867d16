"""`profilelake source`: who may send events. Works whether the server runs or not."""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json, print_rows
from profilelake.workspaces import Source

if TYPE_CHECKING:
    from profilelake.workspaces.control import Control

source_commands = typer.Typer(no_args_is_help=True, help="Sources and their write keys: who may send events.")

SourceId = Annotated[str, typer.Argument(metavar="SOURCE", help="Id of the source.")]
Name = Annotated[str | None, typer.Option(help="What people call it; the id, if none is given.")]
Quota = Annotated[int | None, typer.Option(help="Events per second that are taken of it; 0 for no limit.")]


@source_commands.command("list")
def list_sources(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """List the sources."""
    with control_of(directory) as control:
        sources = control.sources("default")
    if as_json:
        print_json([_document(source) for source in sources])
        return
    print_rows(
        [
            {
                "source": source.id,
                "name": source.name,
                "state": _state(source),
                "trusted": "yes" if source.trusted else "no",
                "events per second": _quota(source),
                "live keys": str(len(source.write_keys)),
            }
            for source in sources
        ]
    )


@source_commands.command("add")
def add(
    source: SourceId,
    name: Name = None,
    browser: Annotated[
        bool,
        typer.Option(
            "--browser",
            help="Its key is in web pages or apps, for anyone to read: trust it less (untrusted).",
        ),
    ] = False,
    quota: Quota = None,
    write_key: Annotated[
        str | None, typer.Option(help="Take this write key, for instance one that is built into an app.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Add a source, with a write key of its own, and show it."""
    from profilelake.ops.clock import wall

    with control_of(directory) as control:
        made = control.add_source(
            "default",
            source,
            name=name or source,
            trusted=not browser,
            now=wall(),
            write_key=write_key,
            events_per_second=quota or 0,
        )
        _show(control, made, as_json=as_json)


@source_commands.command("show")
def show(source: SourceId, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Show a source with all keys it ever had."""
    with control_of(directory) as control:
        _show(control, control.source(source), as_json=as_json)


@source_commands.command("set")
def change(
    source: SourceId,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    trusted: Annotated[
        bool | None,
        typer.Option(
            "--trusted/--untrusted", help="Whether what it says of people weighs as much as our own."
        ),
    ] = None,
    quota: Quota = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Change name, trust or quota of a source. What is not given stays."""
    with control_of(directory) as control:
        changed = control.change_source(source, name=name, trusted=trusted, events_per_second=quota)
        _show(control, changed, as_json=as_json)


@source_commands.command("disable")
def disable(source: SourceId, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Refuse what a source sends, within a second. Its keys stay, so that it can be enabled again."""
    with control_of(directory) as control:
        _show(control, control.change_source(source, disabled=True), as_json=as_json)


@source_commands.command("enable")
def enable(source: SourceId, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Take what a source sends again."""
    with control_of(directory) as control:
        _show(control, control.change_source(source, disabled=False), as_json=as_json)


@source_commands.command("rotate")
def rotate(
    source: SourceId,
    write_key: Annotated[str | None, typer.Option(help="Take this key instead of making one up.")] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Add a second write key beside those that are live, so that senders can change over without a gap."""
    from profilelake.ops.clock import wall

    with control_of(directory) as control:
        key = control.add_write_key(source, now=wall(), write_key=write_key)
        rotated = control.source(source)
        _show(control, rotated, as_json=as_json)
    older = [known for known in rotated.write_keys if known != key]
    print(f"new write key: {key}", file=sys.stderr)
    for known in older:
        print(
            f"once nobody sends with it any more: profilelake source revoke-key {known}",
            file=sys.stderr,
        )


@source_commands.command("revoke-key")
def revoke_key(
    write_key: Annotated[str, typer.Argument(metavar="KEY", help="The write key itself.")],
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Make a write key bad for good, within a second."""
    from profilelake.ops.clock import wall

    with control_of(directory) as control:
        control.revoke_write_key(write_key, now=wall())
        source = control.source_of(write_key)
        _show(control, source, as_json=as_json)
    if not source.write_keys:
        print(
            f"source {source.id} has no live key left; give it one: profilelake source rotate {source.id}",
            file=sys.stderr,
        )


@contextmanager
def control_of(directory: Path) -> "Iterator[Control]":
    """Open the control database of an existing data directory."""
    from profilelake.workspaces.control import Control

    with Control.open(layout_of(directory).control, secrets.token_bytes) as control:
        yield control


def _show(control: "Control", source: Source, *, as_json: bool) -> None:
    from profilelake.semantics.times import format_time

    keys = control.write_keys(source.id)
    if as_json:
        past = [
            {
                "key": key.key,
                "created_at": format_time(key.created_at),
                "revoked_at": None if key.revoked_at is None else format_time(key.revoked_at),
            }
            for key in keys
        ]
        print_json(_document(source) | {"keys": past})
        return
    lines = [
        ("source", source.id),
        ("name", source.name),
        ("state", _state(source)),
        ("trusted", "yes" if source.trusted else "no"),
        ("events per second", _quota(source)),
    ]
    for key in keys:
        gone = "" if key.revoked_at is None else f", revoked {format_time(key.revoked_at)}"
        lines.append(("write key", f"{key.key} (created {format_time(key.created_at)}{gone})"))
    for name, value in lines:
        print(f"{name:<18} {value}")


def _document(source: Source) -> dict[str, object]:
    return {
        "id": source.id,
        "name": source.name,
        "enabled": not source.disabled,
        "trusted": source.trusted,
        "events_per_second": source.events_per_second,
        "write_keys": list(source.write_keys),
    }


def _state(source: Source) -> str:
    return "disabled" if source.disabled else "enabled" if source.write_keys else "no live key"


def _quota(source: Source) -> str:
    return f"{source.events_per_second:,}" if source.events_per_second else "no limit"
