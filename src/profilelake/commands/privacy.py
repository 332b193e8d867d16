"""`profilelake privacy`: whose events are not stored. Works whether the server runs or not."""

import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json, rules_of
from profilelake.errors import Invalid, NotFound

if TYPE_CHECKING:
    from profilelake.semantics.rules import IdentityRules
    from profilelake.workspaces.suppressions import Hashed, Suppressions

privacy_commands = typer.Typer(no_args_is_help=True, help="Whose events are not stored.")

PAGE_ROWS: Final = 1_000
_STDIN: Final = Path("-")

Identifiers = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TYPE:VALUE...",
        help="Such as email:ana@example.org. Others on this machine can"
        " see arguments: give what they must not see by --file.",
    ),
]
File = Annotated[
    Path | None, typer.Option(help="Read identifiers from a file, one TYPE:VALUE a line; - for stdin.")
]
Collection = Annotated[str, typer.Option(help="users or accounts; group_id always is of accounts.")]


@privacy_commands.command("suppress")
def suppress(
    identifiers: Identifiers = None,
    file: File = None,
    collection: Collection = "users",
    reason: Annotated[str, typer.Option(help="Why, such as a ticket; no personal data.")] = "",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Store no event any more that names one of these. What is stored already stays."""
    from profilelake.ops.clock import wall

    with _list_of(directory) as listed:
        hashed = listed.hashed(_given(identifiers, file), collection)
        added = sum(
            listed.entries.suppress("default", part, reason=reason, now=wall()) for part in _parts(hashed)
        )
    if as_json:
        print_json({"suppressed": len(hashed), "added": added})
    else:
        print(f"{len(hashed)} suppressed, {added} of them new")
    print("in force for everything that is received from now on", file=sys.stderr)


@privacy_commands.command("unsuppress")
def unsuppress(
    identifiers: Identifiers = None,
    file: File = None,
    collection: Collection = "users",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Store events again that name these. What was not stored in between is gone."""
    with _list_of(directory) as listed:
        hashed = listed.hashed(_given(identifiers, file), collection)
        removed = sum(listed.entries.unsuppress("default", part) for part in _parts(hashed))
    if as_json:
        print_json({"removed": removed})
    else:
        print(f"{removed} of {len(hashed)} were suppressed, and are no more")


@privacy_commands.command("suppressed")
def suppressed(
    identifiers: Identifiers = None,
    file: File = None,
    collection: Collection = "users",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Tell whether identifiers are suppressed; ends with exit code 3 if one is not."""
    with _list_of(directory) as listed:
        hashed = listed.hashed(_given(identifiers, file), collection)
        found = [listed.entries.find("default", one) for one in hashed]
    if as_json:
        print_json([entry is not None for entry in found])
    else:
        for entry in found:
            print("no" if entry is None else f"yes, since {_time(entry.created_at)}")
    missing = sum(entry is None for entry in found)
    if missing:
        raise NotFound(f"looking for {len(found)} identifiers: {missing} are not suppressed")


@privacy_commands.command("suppressions")
def suppressions(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """List what is suppressed, as hashes: the identifiers themselves are kept nowhere."""
    with _list_of(directory) as listed:
        if not as_json:
            print(f"{listed.entries.count('default')} suppressed; their hashes: --json")
            return
        rows, after = [], b""
        while page := listed.entries.page("default", after=after, rows=PAGE_ROWS):
            rows += page
            after = page[-1].hashed.ident_id
    print_json(
        [
            {
                "collection": row.hashed.collection,
                "type": row.hashed.type,
                "hash": row.hashed.ident_id.hex(),
                "reason": row.reason,
                "created_at": _time(row.created_at),
            }
            for row in rows
        ]
    )


class _List:
    """The list of a data directory, and the key under which it is hashed."""

    def __init__(self, entries: "Suppressions", key: bytes, rules: "IdentityRules") -> None:
        self.entries = entries
        self._key = key
        self._rules = rules

    def hashed(self, given: Sequence[str], collection: str) -> "list[Hashed]":
        """Return identifiers as the list knows them; none is written before all of them can be read."""
        from profilelake.semantics.rules import COLLECTIONS
        from profilelake.workspaces.suppressions import SUPPRESSIONS_MAX, hash_identifier

        if collection not in COLLECTIONS:
            raise Invalid(f"--collection {collection}: it is one of {', '.join(COLLECTIONS)}")
        if not 1 <= len(given) <= SUPPRESSIONS_MAX:
            raise Invalid(
                f"{len(given)} identifiers were given: give 1 to {SUPPRESSIONS_MAX} as TYPE:VALUE or by --file"
            )
        found = []
        for number, text in enumerate(given, start=1):
            type, colon, value = text.partition(":")
            if not colon:
                # Whatever it is, it may be about a person: it is not repeated.
                raise Invalid(f"identifier {number} has no type: write TYPE:VALUE, such as user_id:42")
            place = "accounts" if type == "group_id" else COLLECTIONS[COLLECTIONS.index(collection)]
            found.append(hash_identifier(self._key, self._rules, place, type, value))
        return found


@contextmanager
def _list_of(directory: Path) -> Iterator[_List]:
    from profilelake.workspaces.control import Control
    from profilelake.workspaces.identifier_key import identifier_key

    layout = layout_of(directory)
    if not layout.control.exists():
        raise NotFound(f"opening {layout.control}: it is made at the first start; run: profilelake serve")
    with Control.open(layout.control, secrets.token_bytes) as control:
        yield _List(control.suppressions(), identifier_key(layout.secrets, "default"), rules_of(layout))


def _given(identifiers: list[str] | None, file: Path | None) -> list[str]:
    given = list(identifiers or ())
    if file is not None:
        text = sys.stdin.buffer.read() if file == _STDIN else file.read_bytes()
        try:
            lines = text.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise Invalid(f"reading {file}: byte {error.start} is not UTF-8; write it in UTF-8") from error
        given += [line.rstrip("\r") for line in lines if line.strip()]
    return given


def _parts(hashed: "list[Hashed]") -> "Iterator[list[Hashed]]":
    from profilelake.workspaces.suppressions import IDENTIFIERS_PER_CALL_MAX

    for start in range(0, len(hashed), IDENTIFIERS_PER_CALL_MAX):
        yield hashed[start : start + IDENTIFIERS_PER_CALL_MAX]


def _time(micros: int) -> str:
    from profilelake.semantics.times import format_time

    return format_time(micros)
