"""`profilelake plan` and `profilelake apply`: what the definitions of a data directory would change, and do it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profilelake.commands._deciding import carry_out, planned, print_effects, show_plan
from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json
from profilelake.errors import Conflict

if TYPE_CHECKING:
    from profilelake.identity.decide import AskRules


def plan(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Show what the definitions would change, and change nothing."""
    from profilelake.identity.decide import AskRules

    show_plan(AskRules(rules=None), directory, as_json=as_json)


def apply(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    note: Annotated[str, typer.Option("--note", help="Why; it is kept with the decision.")] = "",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Put the definitions in force: identity rules, for all that was and will be."""
    from profilelake.identity.decide import AskRules

    asked = AskRules(rules=None, note=note)
    if not yes and not _agreed(asked, directory):
        return
    carry_out(asked, directory, as_json=as_json)


def _agreed(asked: "AskRules", directory: Path) -> bool:
    """Show the plan on the terminal and ask."""
    if not sys.stdin.isatty():
        raise Conflict("applying: nobody is there to agree; look at `profilelake plan`, then give --yes")
    document = planned(asked, directory)
    print_effects(document)
    return not document["unchanged"] and typer.confirm("apply this?")
