"""`profilelake validate`: are the definitions of a data directory good? Nothing is changed, no server asked."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, print_json
from profilelake.definitions import identity
from profilelake.errors import Invalid
from profilelake.semantics.rules import IdentityRules
from profilelake.settings import Layout

_SUFFIXES: Final = (".yaml", ".yml")


def _identity(path: Path) -> str:
    return _summary(identity.load(path))


_CHECKS: Final[dict[str, Callable[[Path], str]]] = {"identity.yaml": _identity}
"""For each file that is known, what reads it and says what it holds."""


def validate(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> int:
    """Check the files in DIR/definitions; all errors are told at once. Ends with 2 if there are any."""
    layout = Layout(directory)
    if not directory.is_dir():
        raise Invalid(f"validating {directory}: no such directory; name one with --dir")
    found = sorted(path for path in layout.definitions.glob("*") if path.suffix in _SUFFIXES)
    told: list[str] = []
    checked = [_checked(path, told) for path in found if path.name in _CHECKS]
    unknown = [path.name for path in found if path.name not in _CHECKS]
    if as_json:
        print_json({"valid": not told, "files": checked, "unknown": unknown})
        return Invalid.exit_code if told else 0
    for name in unknown:
        known = ", ".join(_CHECKS)
        print(f"{layout.definitions / name}: nothing reads this file; known are {known}", file=sys.stderr)
    if told:
        raise Invalid("\n".join(told))
    for file in checked:
        print(f"{file['file']}: good, {file['holds']}")
    if not checked:
        print(f"{layout.definitions}: no definitions; Segment's default identity rules hold")
    return 0


def _checked(path: Path, told: list[str]) -> dict[str, Any]:
    """Return what is to be said of a file, and add to `told` what is wrong with it."""
    try:
        return {"file": str(path), "valid": True, "holds": _CHECKS[path.name](path), "problems": []}
    except identity.InvalidDefinition as error:
        told.append(str(error))
        return {
            "file": str(path),
            "valid": False,
            "problems": [asdict(problem) for problem in error.problems],
        }


def _summary(rules: IdentityRules) -> str:
    custom = sum(rule.custom or bool(rule.paths) for rule in rules.types)
    windows = sum(rule.window_seconds is not None for rule in rules.types)
    return (
        f"{len(rules.types)} identifier types ({custom} with places of their own, {windows} with a window),"
        f" demotion {rules.demotion}"
    )
