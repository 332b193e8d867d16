"""`profilelake plan`, `apply` and `diff`: what the definitions of a data directory would change, and do it."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from profilelake.commands import _defining
from profilelake.commands._applying import Pipeline
from profilelake.commands._deciding import (
    at_work,
    decided_now,
    decisions_document,
    planned_now,
    print_decisions,
    print_effects,
)
from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, layout_of, print_json, tell_unread
from profilelake.errors import Conflict

if TYPE_CHECKING:
    from profilelake.commands._defining import Plan

DIFFERENT = 1
Note = Annotated[str, typer.Option("--note", help="Why; it is kept with the decision.")]


def plan(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Show what the definitions would change, and change nothing."""
    from profilelake.identity.decide import AskRules

    pipeline = Pipeline(layout_of(directory))
    tell_unread(pipeline.layout)
    rules = planned_now(pipeline, AskRules(rules=None))
    made = _defining.plan_files(pipeline)
    if as_json:
        print_json(msgspec.to_builtins(rules) | _defining.document(made))
    else:
        _print(rules, made)


def apply(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    yes_many: Annotated[
        bool, typer.Option("--yes-many", help="Do not ask, also where very many profiles change.")
    ] = False,
    note: Note = "",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Put the definitions in force: identity rules, computed traits and audiences, for all that was and will be."""
    from profilelake.identity.decide import AskRules

    if not (yes or yes_many) and not sys.stdin.isatty():
        raise Conflict("applying: nobody is there to agree; look at `profilelake plan`, then give --yes")
    asked = AskRules(rules=None, note=note)
    pipeline = Pipeline(layout_of(directory))
    tell_unread(pipeline.layout)
    with at_work(pipeline):
        pipeline.wait()
        made = _defining.plan_files(pipeline, note)
        if not (yes or yes_many) and not _agreed(planned_now(pipeline, asked), made):
            return
        _defining.refuse_many(made, many=yes_many)
        decided = decided_now(pipeline, asked)
        _defining.put_in_force(pipeline, made.decided)
    if as_json:
        print_json(decisions_document(decided) | _defining.document(made))
        return
    if decided or not made.decided.changes:
        print_decisions(pipeline, decided)
    if made.decided.changes:
        _defining.print_done(made)


def diff(
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 where files and what is in force differ.")
    ] = False,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> int:
    """Compare the files of computed traits and audiences with what is in force, and change nothing."""
    from profilelake.audiences.applying import asked_of
    from profilelake.audiences.deciding import decide
    from profilelake.audiences.shown import differences
    from profilelake.commands._deciding import BY
    from profilelake.definitions.computed import load

    pipeline = Pipeline(layout_of(directory))
    tell_unread(pipeline.layout)
    known = _defining.defined(pipeline)
    changes = decide(asked_of(load(pipeline.layout.definitions), known), known, BY).changes
    if as_json:
        print_json(
            [
                {"key": one.key, "what": one.what, "difference": differences(one.before, one.after)}
                for one in changes
            ]
        )
    for one in () if as_json else changes:
        print(f"{one.what} {one.key}")
        for line in differences(one.before, one.after):
            print(f"  {line}")
    if not changes and not as_json:
        print("what the files say is in force")
    return DIFFERENT if changes and exit_code else 0


def _agreed(rules: dict[str, Any], made: "Plan") -> bool:
    """Show the plan on the terminal and ask."""
    _print(rules, made)
    return not (rules["unchanged"] and not made.decided.changes) and typer.confirm("apply this?")


def _print(rules: dict[str, Any], made: "Plan") -> None:
    if not rules["unchanged"] or not made.decided.changes:
        print_effects(rules)
    _defining.print_plan(made)
