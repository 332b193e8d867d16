"""What the commands that decide about identity share: plan, or record and see it applied; then say so."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from profilelake.commands._applying import WORKSPACE, Pipeline, applying
from profilelake.commands.common import layout_of, print_json
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from profilelake.eventlog import Entry
    from profilelake.identity.decide import Asked, Decided, EventSeen
    from profilelake.identity.decisions import Decision
    from profilelake.pipeline.told_effects import Effects
    from profilelake.semantics.positions import Position

BY: Final = "command line"


def carry_out(asked: "Asked", directory: Path, *, as_json: bool) -> None:
    """Record a decision and return once it is applied and published, whether a server runs or not."""
    pipeline = Pipeline(layout_of(directory))
    with at_work(pipeline):
        # What was accepted before counts, and the event a retraction names may be among it.
        pipeline.wait()
        made = decided_now(pipeline, asked)
    if as_json:
        print_json(decisions_document(made))
    else:
        print_decisions(pipeline, made)


def at_work(pipeline: Pipeline) -> "AbstractContextManager[None]":
    """Have something apply the log meanwhile: the running server, or a process for the time being."""
    return nullcontext() if pipeline.runs() else applying(pipeline)


def decided_now(pipeline: Pipeline, asked: "Asked") -> "list[Decision]":
    """Record what fulfils a request and wait until it is in force; return it, nothing where it was already."""
    decided = _decide(pipeline, asked)
    if not decided.changed:
        return []
    from profilelake.identity.decide import entry_of

    positions = record(pipeline.layout, [entry_of(WORKSPACE, fact) for fact in decided.facts])
    pipeline.wait()
    return _shown(pipeline, decided, positions)


def decisions_document(made: "Sequence[Decision]") -> dict[str, Any]:
    """Return decisions as they are printed in JSON."""
    return {"changed": bool(made), "decisions": [msgspec.to_builtins(one) for one in made]}


def print_decisions(pipeline: Pipeline, made: "Sequence[Decision]") -> None:
    """Print decisions for people."""
    still = still_waiting(pipeline)
    if not made:
        print(f"unchanged: that is in force already{still}")
    for one in made:
        print(f"{one.decision} {_about(one)}: in force, at position {one.position}{still}")


def show_plan(asked: "Asked", directory: Path, *, as_json: bool) -> None:
    """Print what a decision would change. Changes nothing."""
    document = planned(asked, directory)
    if as_json:
        print_json(msgspec.to_builtins(document))
    else:
        print_effects(document)


def planned(asked: "Asked", directory: Path) -> dict[str, Any]:
    """Return what a decision would record and change, as of what is applied and published."""
    return planned_now(Pipeline(layout_of(directory)), asked)


def planned_now(pipeline: Pipeline, asked: "Asked") -> dict[str, Any]:
    """Return what a decision would record and change.

    A running server has everything committed first; without one, what waits in the log is left out.
    """
    from profilelake.app.offline import plan

    if pipeline.runs():
        pipeline.wait()
    elif waiting(pipeline):
        print("no server runs, and some of what was accepted is not applied: it is left out", file=sys.stderr)
    return plan(pipeline.layout, pipeline.state(), asked, BY)


def _decide(pipeline: Pipeline, asked: "Asked") -> "Decided":
    """Return the facts that fulfil a request."""
    from profilelake.app.offline import deciding
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.events_by_id import find_event

    layout = pipeline.layout

    def find(message_id: str) -> "EventSeen | None":
        return find_event(Lake.of(layout), WORKSPACE, message_id)

    return deciding(layout, pipeline.state).decide(asked, BY, find)


def record(layout: Layout, entries: "Sequence[Entry]") -> "list[Position]":
    """Append entries to the event log; return their positions."""
    from profilelake.app.directory import log_limits
    from profilelake.eventlog.embedded import LogWriter
    from profilelake.ops.clock import wall

    settings = Settings.load(layout.directory, os.environ)

    async def run() -> "list[Position]":
        writer = LogWriter(layout.log, region=settings.region, clock=wall, limits=log_limits(settings))
        try:
            return [await writer.place(entry) for entry in entries]
        finally:
            writer.close()

    return asyncio.run(run())


def _shown(pipeline: Pipeline, decided: "Decided", positions: "Sequence[Position]") -> "list[Decision]":
    from profilelake.identity.decisions import idents_of, shown

    if not positions:
        return []
    with pipeline.state().read(WORKSPACE) as tx:
        known = tx.idents(WORKSPACE, {ident for fact in decided.facts for ident in idents_of(fact)})
    made = zip(positions, decided.facts, strict=True)
    return [shown(position.to_bytes(), fact, known) for position, fact in made]


def still_waiting(pipeline: Pipeline) -> str:
    """Return what is to be added where decisions are in force, but not everybody shows them yet."""
    from profilelake.identity.background import load

    with pipeline.state().read(WORKSPACE) as tx:
        waiting = load(tx, WORKSPACE)
    if not waiting:
        return ""
    if any(pending.whole for pending in waiting):
        return "; all profiles wait to be resolved again in the background"
    number = len(waiting)
    what = "1 component waits" if number == 1 else f"{number:,} components wait"
    return f"; {what} to be resolved again in the background"


def _about(decision: "Decision") -> str:
    if decision.identifiers:
        return " and ".join(decision.identifiers)
    if decision.rules_version is not None:
        return f"version {decision.rules_version}"
    return str(decision.message_id)


def waiting(pipeline: Pipeline) -> bool:
    """Tell whether something was accepted that is not committed."""
    reached = pipeline.committed()
    return any(reached.get(log, 0) < offset for log, offset in pipeline.accepted().items())


def print_effects(document: "dict[str, Any]") -> None:
    """Print a plan for people."""
    if document["unchanged"]:
        print("unchanged: that is in force already")
        return
    found: Effects = document["effects"]
    print(f"profiles            {found.profiles_before:>13,} -> {found.profiles_after:,}")
    for name, count in (
        ("profiles that merge", found.profiles_merging),
        ("profiles that split", found.profiles_splitting),
        ("identifiers that move", found.identifiers_moved),
        ("sets that move", found.sets_moved),
        ("refusals that appear", found.refusals_appearing),
        ("refusals that vanish", found.refusals_vanishing),
    ):
        print(f"{name:<22}{count:>11,}")
    if not found.changed:
        print("nobody's profile changes")
    for example in found.examples:
        print(
            f"{example.change}: {example.identifiers_moved:,} identifiers and {example.sets_moved:,} sets move"
        )
        for word, profiles, count in (
            ("before", example.before, example.profiles_before),
            ("after", example.after, example.profiles_after),
        ):
            for profile in profiles:
                hidden = profile.identifier_count - len(profile.identifiers)
                more = f" and {hidden:,} more" if hidden else ""
                print(f"  {word:<7} {profile.profile_id}  {' '.join(profile.identifiers)}{more}")
            if count > len(profiles):
                print(f"  {word:<7} and {count - len(profiles):,} more profiles")
