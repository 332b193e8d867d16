"""`profilelake compute`: what definitions are worth, from the tables alone, on any engine."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profilelake.commands._applying import Pipeline
from profilelake.commands._defining import defined
from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_json,
    print_rows,
    without_token,
)
from profilelake.errors import Invalid, NotFound

if TYPE_CHECKING:
    from profilelake.state.store import State


def compute_definitions(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="Of audiences and computed traits; else all."),
    ] = None,
    at: Annotated[str, typer.Option(help="As of this time, `2026-01-31T00:00:00Z`; else now.")] = "",
    received_until: Annotated[
        str, typer.Option("--received-until", help="Leave out events received later than this.")
    ] = "",
    engine: Annotated[
        str, typer.Option(help="Where it runs: `embedded`, or the URL of a cluster.", callback=without_token)
    ] = "",
    to: Annotated[Path | None, typer.Option(help="A new folder for a Parquet file of each.")] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Compute audiences and traits over the whole lake at once. Nothing online changes."""
    from profilelake.app.computing import compute_over_lake
    from profilelake.ops.clock import wall

    pipeline = Pipeline(layout_of(directory))
    found = compute_over_lake(
        pipeline.layout,
        defined(pipeline).held,
        keys or [],
        _time(at, "--at") or wall(),
        received_until=_time(received_until, "--received-until"),
        engine_url=engine,
        to=to,
        report=lambda step: print(step, file=sys.stderr),
        state=_state(pipeline),
    )
    for key, reason in sorted(found.left_out.items()):
        print(f"left out {key}: {reason}", file=sys.stderr)
    if as_json:
        print_json(
            {
                "at": found.at,
                "profiles": found.profiles,
                "accounts": found.accounts,
                "events": found.events,
                "of": asdict(found.of),
                "unpublished": found.unpublished,
                "values": found.found,
            }
        )
        return
    accounts = f", {found.accounts:,} accounts" if found.accounts else ""
    print(f"{found.events:,} events and {found.profiles:,} people{accounts}", file=sys.stderr)
    print(
        f"tables of one moment: events at sequence {found.of.sequence:,}, profiles at {found.of.profiles_sequence:,}",
        file=sys.stderr,
    )
    if found.unpublished:
        print(
            f"{found.unpublished:,} identifier sets with events are in no profile published by then: their people have "
            "no value; compute again when profiles are published",
            file=sys.stderr,
        )
    print_rows([{"key": key, "profiles": f"{count:,}"} for key, count in sorted(found.found.items())])


def _state(pipeline: Pipeline) -> "State | None":
    try:
        return pipeline.state()
    except NotFound:
        return None  # nothing was applied yet


def _time(text: str, option: str) -> int | None:
    from profilelake.semantics.times import parse_time

    if not text:
        return None
    at = parse_time(text)
    if at is None:
        raise Invalid(f"{option} {text}: it is no time; write 2026-01-31T00:00:00Z")
    return at
