"""`profilelake lake connect` and `move`: how others reach this lake, and how its catalog becomes another one."""

import os
from typing import Annotated, Literal

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json
from profilelake.errors import Conflict, Invalid, NotFound


def connect(
    engine: Annotated[
        Literal["spark", "trino", "duckdb", "pyiceberg"],
        typer.Argument(help="Which engine is to read the lake."),
    ],
    directory: Directory = DEFAULT_DIRECTORY,
    spark_version: Annotated[str, typer.Option(help="Version of Spark, such as 4.1 or 3.5.")] = "4.1",
    as_json: Json = False,
) -> None:
    """Print what another engine must be told to read this lake: packages, versions, properties; no secrets."""
    from profilelake.lake import connections
    from profilelake.lake.catalog import Lake
    from profilelake.lake.place import LakePlace

    layout = layout_of(directory)
    place = LakePlace.of(layout, os.environ)
    if engine == "spark":
        lines = connections.spark(place, spark_version)
        if as_json:
            print_json({"packages": list(lines.packages), "properties": dict(lines.properties)})
        else:
            print(" \\\n  ".join(["spark-sql", *lines.options()]))
    elif engine == "trino":
        told = connections.trino(place)
        if as_json:
            print_json(told)
        else:
            print("\n".join(f"{name}={value}" for name, value in told.items()))
    else:
        if engine == "duckdb":
            sql = place.kind != "rest"
            text = connections.duckdb(place, Lake.of(layout).pointers() if sql else {})
        else:
            text = connections.pyiceberg(place)
        print_json({"lines": text}) if as_json else print("\n".join(text))


def move(
    directory: Directory = DEFAULT_DIRECTORY,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Make the catalog that settings name now know the tables that another one knew; the server is stopped.

    Files stay where they are: change lake.catalog, not lake.warehouse. To take the files elsewhere too, restore a
    backup into a new directory.
    """
    from profilelake.app.directory import DirectoryLock
    from profilelake.lake.catalog import Lake, register_tables
    from profilelake.lake.place import LakePlace, note, noted_place

    layout = layout_of(directory)
    before, after = noted_place(layout), LakePlace.of(layout, os.environ)
    if before is None:
        raise NotFound(f"moving the lake of {layout.directory}: it has none yet; start the server once")
    if before.warehouse != after.warehouse:
        raise Invalid(
            f"moving the lake of {layout.directory}: its files lie in {before.warehouse}, settings name "
            f"{after.warehouse}; a catalog can be changed in place, files are taken elsewhere by backup and restore"
        )
    if before.identity == after.identity:
        raise Invalid(
            f"moving the lake of {layout.directory}: it is where settings say; set lake.catalog to the new one first"
        )
    lock = DirectoryLock(layout)
    try:
        old = Lake.at(before)
        known = [(*key, location) for key, location in sorted(old.pointers().items())]
        if not dry_run:
            register_tables(after, after.warehouse, known)
            new = Lake.at(after)
            if missing := [key for *key, at in known if new.pointers().get((key[0], key[1])) != at]:
                raise Conflict(
                    f"moving the lake: the new catalog does not know {missing[0]}; run the same again"
                )
            note(layout, after)
            if before.kind == "sqlite" and layout.catalog.exists():
                # It would go stale, and whoever still read it would see old rows.
                layout.catalog.rename(layout.catalog.with_suffix(".sqlite.moved"))
    finally:
        lock.release()
    if as_json:
        print_json({"from": before.catalog, "to": after.catalog, "tables": len(known), "done": not dry_run})
    else:
        print(f"{len(known)} tables {'would be' if dry_run else 'are now'} known to {after.catalog}")
