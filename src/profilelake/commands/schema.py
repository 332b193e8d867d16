"""`profilelake schema`: which paths and types events were sent with, since when, and what is at odds."""

import sys
from typing import Annotated, Final

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_rows

LIST_ROWS: Final = 1_000
LIST_ROWS_MAX: Final = 1_000_000

Text = str | None


def schema(
    directory: Directory = DEFAULT_DIRECTORY,
    event: Annotated[Text, typer.Option(help="Only of events with this name.")] = None,
    type: Annotated[Text, typer.Option(help="Only of calls of this type.")] = None,
    part: Annotated[Text, typer.Option(help="properties, traits or context.")] = None,
    path: Annotated[Text, typer.Option(help="Only this path and what lies below it.")] = None,
    new_since: Annotated[
        Text, typer.Option(metavar="WHEN", help="Only what is new since: 1h, 7d, or a time.")
    ] = None,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Only what is at odds: types, case, columns.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=LIST_ROWS_MAX, help="At most so many.")] = LIST_ROWS,
    as_json: Json = False,
) -> None:
    """Show which properties, traits and context events were sent with, and since when.

    Reads committed data, whether the server runs or not. Of values only the form is shown.
    """
    import msgspec

    from profilelake.app import query_process
    from profilelake.ops.clock import wall
    from profilelake.shapes.asking import schema_asked

    asked = schema_asked(
        event=event,
        type=type,
        part=part,
        path=path,
        new_since=new_since,
        at_odds="any" if conflicts else None,
        rows=limit + 1,
        now=wall(),
    )
    found = query_process.schema_page(layout_of(directory), asked)
    if len(found) > limit:
        print(f"schema: there are more than {limit:,}; give --limit, or ask for less", file=sys.stderr)
    found = found[:limit]
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    print_rows(
        [
            {
                "event": shape.event or f"({shape.type})",
                "part": shape.part,
                "path": shape.path,
                "type": shape.json_type,
                "events": f"{shape.events:,}",
                "first seen": shape.first_seen_at[:19],
                "last seen": shape.last_seen_at[:19],
                "example": shape.example or "",
                "column": shape.column_name or "",
                "at odds": ", ".join(shape.at_odds),
            }
            for shape in found
        ]
    )
