"""`profilelake validate`: are the definitions of a data directory good? Nothing is changed, no server asked."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, print_json, tell_unread
from profilelake.definitions import computed, destinations, identity
from profilelake.definitions.schemas import SECTIONS, schema
from profilelake.definitions.unread import unread
from profilelake.errors import Invalid
from profilelake.semantics.definitions import is_audience, is_trait
from profilelake.semantics.rules import IdentityRules
from profilelake.settings import Layout

if TYPE_CHECKING:
    from profilelake.definitions.computed import Computed


def validate(
    print_schema: Annotated[
        str | None,
        typer.Option(
            metavar="traits|audiences|entities", help="Print the JSON Schema of such a file instead."
        ),
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> int:
    """Check the files in DIR/definitions; all errors are told at once. Ends with 2 if there are any."""
    if print_schema is not None:
        for section in SECTIONS:
            if print_schema == section:
                print_json(schema(section))
                return 0
        raise Invalid(f"--print-schema {print_schema}: it is one of {', '.join(SECTIONS)}")
    layout = Layout(directory)
    if not directory.is_dir():
        raise Invalid(f"validating {directory}: no such directory; name one with --dir")
    told: list[str] = []
    checked = (
        _identity(layout.identity_rules, told)
        + _destinations(layout.destinations, told)
        + _computed(layout.definitions, told)
    )
    if as_json:
        print_json({"valid": not told, "files": checked, "unknown": unread(layout.definitions)})
        return Invalid.exit_code if told else 0
    tell_unread(layout)
    if told:
        raise Invalid("\n".join(told))
    for file in checked:
        print(f"{file['file']}: good, {file['holds']}")
        for warning in file.get("warnings", ()):
            print(f"{file['file']}: {warning}", file=sys.stderr)
    if not checked:
        print(f"{layout.definitions}: no definitions; Segment's default identity rules hold")
    return 0


def _destinations(path: Path, told: list[str]) -> list[dict[str, Any]]:
    """Return what is to be said of the destinations, and add to `told` what is wrong with them."""
    if not path.exists():
        return []
    try:
        count = len(destinations.load(path))
    except identity.InvalidDefinition as error:
        return [_bad(str(path), error, told)]
    return [
        {
            "file": str(path),
            "valid": True,
            "holds": f"{count} destination{'' if count == 1 else 's'}",
            "problems": [],
        }
    ]


def _identity(path: Path, told: list[str]) -> list[dict[str, Any]]:
    """Return what is to be said of the identity rules, and add to `told` what is wrong with them."""
    if not path.exists():
        return []
    try:
        holds = _summary(identity.load(path))
    except identity.InvalidDefinition as error:
        return [_bad(str(path), error, told)]
    return [{"file": str(path), "valid": True, "holds": holds, "problems": []}]


def _computed(directory: Path, told: list[str]) -> list[dict[str, Any]]:
    """Return what is to be said of computed traits and audiences, and add to `told` what is wrong with them."""
    try:
        found = computed.load(directory)
    except computed.InvalidDefinitions as error:
        return [_bad(_path(directory, one.name), one, told) for one in error.files]
    return [_good(directory, name, found) for name in found.files]


def _good(directory: Path, name: str, found: "Computed") -> dict[str, Any]:
    mine = [one for one in found.written.values() if one.definition.managed_by == name]
    audiences = sum(is_audience(one.definition.kind) for one in mine)
    traits = sum(is_trait(one.definition.kind) for one in mine)
    cases = sum(case.file == name for case in found.cases)
    parts = [
        f"{count} {word if count == 1 else f'{word}s'}"
        for word, count in (
            ("computed trait", traits),
            ("audience", audiences),
            ("SQL entity", len(mine) - audiences - traits),
            ("case", cases),
        )
        if count
    ]
    return {
        "file": _path(directory, name),
        "valid": True,
        "holds": ", ".join(parts) or "nothing in it",
        "problems": [],
        "warnings": list(found.told.get(name, ())),
    }


def _bad(path: str, error: identity.InvalidDefinition, told: list[str]) -> dict[str, Any]:
    told.append(str(error))
    return {"file": path, "valid": False, "problems": [asdict(problem) for problem in error.problems]}


def _path(directory: Path, name: str) -> str:
    return str(directory.parent / name)


def _summary(rules: IdentityRules) -> str:
    custom = sum(rule.custom or bool(rule.paths) for rule in rules.types)
    windows = sum(rule.window_seconds is not None for rule in rules.types)
    return (
        f"{len(rules.types)} identifier types ({custom} with places of their own, {windows} with a window),"
        f" demotion {rules.demotion}"
    )
