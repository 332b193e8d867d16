"""What commands have in common: where the data are, how results are printed."""

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from profilelake.errors import Invalid, NotFound
from profilelake.settings import Layout

if TYPE_CHECKING:
    from profilelake.semantics.rules import IdentityRules
    from profilelake.state.store import State

SERVER_LOOK_SECONDS: Final = 2.0
"""How long a server may take to accept a connection before it counts as not running."""

Directory = Annotated[
    Path,
    typer.Option("--dir", envvar="PROFILELAKE_DIR", help="Data directory.", show_default=True),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_DIRECTORY: Final = Path("profilelake-data")


def without_token(url: str | None) -> str | None:
    """Return the URL of an engine as a command was given it.

    Raises:
        Invalid: it holds a token, which everybody on this machine can read in the list of processes.
    """
    if url is not None and ";token=" in url.lower():
        raise Invalid(
            "option --engine: it holds a token, which everybody on this machine reads in the list of processes; put the "
            "URL into the variable PROFILELAKE_ENGINE_URL, and make a new token"
        )
    return url


def layout_of(directory: Path) -> Layout:
    """Return the layout of an existing data directory. Raises Invalid where there is none."""
    layout = Layout(directory)
    layout.check()
    return layout


def state_of(layout: Layout) -> "State | None":
    """Return the online state to read from, None where nothing was applied yet."""
    from profilelake.state.store import State

    try:
        return State.open(layout.state)
    except NotFound:
        return None


def rules_of(layout: Layout) -> "IdentityRules":
    """Return the identity rules in force: Segment's defaults, where nothing was applied yet."""
    from profilelake.identity.standing import rules_in_force
    from profilelake.semantics.rules import segment_defaults

    state = state_of(layout)
    if state is None:
        return segment_defaults()
    try:
        with state.read("default") as tx:
            return rules_in_force(tx, "default", segment_defaults())
    except NotFound:
        return segment_defaults()
    finally:
        state.close()


def server_of(layout: Layout) -> str | None:
    """Return the address at which the server of this directory answers; None if it does not."""
    try:
        document = json.loads(layout.server.read_text())
        address = urlsplit(str(document["url"]))
        # A killed server leaves the file behind, and its process id may be another process by now.
        with socket.create_connection((address.hostname, address.port), timeout=SERVER_LOOK_SECONDS):
            return str(document["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tell_unread(layout: Layout) -> None:
    """Name on stderr the files among the definitions that nothing reads, which are not in force whatever they say."""
    from profilelake.definitions.unread import KNOWN, unread

    for name in unread(layout.definitions):
        print(
            f"{layout.definitions / name}: nothing reads this file; known are {', '.join(KNOWN)}",
            file=sys.stderr,
        )


def print_json(document: object) -> None:
    """Print a result as one JSON document."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_rows(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows of text, all with the same columns, as the tables of `sql` are printed."""
    import pyarrow as pa

    from profilelake.query.run import writer

    if rows:
        writer("table", None)(pa.Table.from_pylist([dict(row) for row in rows]))
    else:
        print("there are none", file=sys.stderr)
