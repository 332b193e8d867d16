"""`profilelake backup` and `profilelake restore`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json
from profilelake.errors import Invalid
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from profilelake.backup.places import Place

WORKSPACES = ("default",)


def backup(
    place: Annotated[
        str, typer.Argument(metavar="DEST", help="Folder that keeps the backups, or s3://bucket/prefix.")
    ],
    directory: Directory = DEFAULT_DIRECTORY,
    without_key: Annotated[
        bool,
        typer.Option("--without-key", help="Leave the identifier key out; without it a backup is of no use."),
    ] = False,
    key_to: Annotated[
        Path | None, typer.Option("--key-to", help="Write the identifier key into this folder instead.")
    ] = None,
    link: Annotated[
        bool,
        typer.Option("--link", help="Share unchanging files with the data directory, on one file system."),
    ] = False,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Backups to keep in DEST; 0 keeps all.")] = 0,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the backups in DEST.")] = False,
    as_json: Json = False,
) -> None:
    """Back the data directory up, beside a running server or without one."""
    if list_only:
        _list(place, directory, as_json=as_json)
        return
    if without_key and key_to is not None:
        raise Invalid("backing up: --without-key and --key-to contradict each other; give one of them")
    from profilelake.backup.take import Options, take
    from profilelake.ops.clock import wall

    options = Options(with_key=not without_key, key_to=key_to, link=link, keep=keep)
    made = take(layout_of(directory), place, WORKSPACES, wall(), options)
    if without_key:
        print(
            "the identifier key is not in this backup, which is of no use without it: "
            f"keep {directory / 'secrets'} safe elsewhere",
            file=sys.stderr,
        )
    if as_json:
        print_json(
            {
                "id": made.id,
                "events": made.events,
                "files": made.files,
                "bytes": made.bytes,
                "new_files": made.new_files,
                "new_bytes": made.new_bytes,
                "removed": list(made.removed),
            }
        )
        return
    print(f"backup {made.id}: {made.events:,} events, {made.files:,} files, {made.bytes:,} bytes")
    print(f"new in {place}: {made.new_files:,} files, {made.new_bytes:,} bytes")
    for id in made.removed:
        print(f"removed {id}")


def _list(where: str, directory: Path, *, as_json: bool) -> None:
    place = _place(where, directory)
    place.check()
    rows = [msgspec.structs.asdict(summary) for summary in place.summaries()]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        key = "with key" if row["with_key"] else "without key"
        print(
            f"{row['id']}  {row['created_at']}  {row['events']:,} events  {row['bytes']:,} bytes  {key}  {row['directory']}"
        )


def _place(where: str, directory: Path) -> "Place":
    """Return a place for backups, as the settings of a data directory and the environment say to speak to it."""
    from profilelake.backup.places import place_at

    return place_at(where, Settings.load(directory, os.environ).backup)


def restore(
    place: Annotated[
        str, typer.Argument(metavar="SRC", help="Folder that keeps the backups, or s3://bucket/prefix.")
    ],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="New data directory: nothing may be there.")
    ] = None,
    id: Annotated[str, typer.Option("--backup", help="Id of the backup; the newest if none is given.")] = "",
    key_from: Annotated[
        Path | None, typer.Option("--key-from", help="Folder with the identifier key.")
    ] = None,
    control_from: Annotated[
        Path | None,
        typer.Option(
            "--control-from",
            help="Data directory that knows who is suppressed now, and which tokens are good; otherwise the "
            "newest backup in SRC says so.",
        ),
    ] = None,
    warehouse: Annotated[
        str,
        typer.Option(
            "--warehouse",
            help="Where the tables are to lie, if not where the settings of the backup say: a folder, or "
            "s3://bucket/prefix.",
        ),
    ] = "",
    catalog: Annotated[
        str,
        typer.Option("--catalog", help="The catalog that is to know them, if not the one of these settings."),
    ] = "",
    check_only: Annotated[
        bool, typer.Option("--check", help="Only check that every file of the backup is whole.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a new data directory from a backup."""
    from profilelake.backup import restore as restoring

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    if check_only:
        chosen, manifest = restoring.check(_place(place, directory or DEFAULT_DIRECTORY), id, report)
        document: dict[str, object] = {"id": chosen, "files": len(manifest.files), "bytes": manifest.bytes()}
        if as_json:
            print_json(document)
        else:
            print(f"backup {chosen} is whole: {len(manifest.files):,} files, {manifest.bytes():,} bytes")
        return
    if directory is None:
        raise Invalid("restoring: name the new data directory with --dir")
    options = restoring.Options(
        id=id, key_from=key_from, control_from=control_from, warehouse=warehouse, catalog=catalog
    )
    made = restoring.restore(_place(place, directory), Layout(directory), options, report)
    if as_json:
        print_json(
            {
                "id": made.id,
                "created_at": made.created_at,
                "events": made.events,
                "files": made.files,
                "bytes": made.bytes,
                "tables": made.tables,
                "suppressed": made.suppressed,
                "suppressed_since": made.suppressed_since,
                "control_from": made.control_from,
                "warehouse": made.warehouse,
                "catalog": made.catalog,
                "to_write": list(made.to_write),
            }
        )
        return
    print(f"restored backup {made.id} of {made.created_at} to {directory}: {made.events:,} events")
    print(
        f"suppressed are {made.suppressed:,} identifiers, {made.suppressed_since:,} of them since the backup; "
        f"who may send and read is as {made.control_from} knows it"
    )
    if made.to_write:
        print(
            f"before it starts, write into [lake] of {directory / 'profilelake.toml'}: {'; '.join(made.to_write)}",
            file=sys.stderr,
        )
    print(f"check it: profilelake verify --dir {directory}", file=sys.stderr)
