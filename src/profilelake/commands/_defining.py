"""What the commands about computed traits and audiences share: what is defined, plans, and putting in force."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profilelake.commands._applying import WORKSPACE, Pipeline
from profilelake.commands._deciding import BY, at_work, record
from profilelake.commands.common import layout_of, print_json
from profilelake.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from profilelake.audiences.applying import Estimate
    from profilelake.audiences.deciding import Asked, Change, Decided, Defined


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be recorded, and what that would do to profiles, by key."""

    decided: "Decided"
    estimates: "Mapping[str, Estimate]"

    def objections(self) -> list[str]:
        """Return what is to be agreed to by number."""
        from profilelake.audiences.applying import objection

        return [
            told
            for change in self.decided.changes
            if (told := objection(change, self.estimates[change.key])) is not None
        ]


def defined(pipeline: Pipeline) -> "Defined":
    """Return what is defined, nothing where nothing was applied yet."""
    from profilelake.audiences.deciding import Defined, load

    try:
        with pipeline.state().read(WORKSPACE) as tx:
            return load(tx, WORKSPACE)
    except NotFound:
        return Defined({}, {})


def plan_files(pipeline: Pipeline, note: str = "") -> Plan:
    """Return what the files of the data directory would change.

    Raises:
        Invalid: they are no good, or do not fit together with what is defined.
    """
    from profilelake.app.naming import names_of
    from profilelake.audiences.applying import asked_of
    from profilelake.definitions.computed import load

    computed = load(pipeline.layout.definitions, names_of(pipeline.layout))
    known = defined(pipeline)
    made = plan(pipeline, asked_of(computed, known, note))
    warnings = (*made.decided.warnings, *computed.warnings)
    return Plan(replace(made.decided, warnings=warnings), made.estimates)


def plan(pipeline: Pipeline, asked: "Sequence[Asked]") -> Plan:
    """Return what requests would change together."""
    from profilelake.app.estimating import estimate
    from profilelake.audiences.deciding import decide

    decided = decide(asked, defined(pipeline), BY)
    try:
        state = pipeline.state()
    except NotFound:
        state = None
    return Plan(decided, estimate(pipeline.layout, state, decided.changes))


def put_in_force(pipeline: Pipeline, decided: "Decided") -> None:
    """Record what was decided and return once it is applied. Values follow: they are computed from now on."""
    from profilelake.audiences.deciding import entry_of

    if decided.facts:
        record(pipeline.layout, [entry_of(WORKSPACE, fact) for fact in decided.facts])
        pipeline.wait()


def carry_out(
    asked: "Callable[[Defined], Sequence[Asked]]", directory: Path, *, many: bool, as_json: bool
) -> None:
    """Do what is asked of what is defined, whether a server runs or not, and say what was done.

    Raises:
        Conflict: more profiles would change than may without `many`.
    """
    pipeline = Pipeline(layout_of(directory))
    with at_work(pipeline):
        pipeline.wait()
        made = plan(pipeline, asked(defined(pipeline)))
        refuse_many(made, many=many)
        put_in_force(pipeline, made.decided)
    if as_json:
        print_json({"changed": bool(made.decided.changes), **document(made)})
    else:
        print_done(made)


def refuse_many(made: Plan, *, many: bool) -> None:
    """Refuse a plan that changes more profiles than may without a word more."""
    told = made.objections()
    if told and not many:
        raise Conflict(
            "\n  ".join(
                [
                    "applying: more would change than may by accident",
                    *told,
                    "if that is meant, give --yes-many",
                ]
            )
        )


def document(made: Plan) -> dict[str, Any]:
    """Return a plan as it is printed in JSON."""
    return {
        "definitions": [_shown(change, made.estimates[change.key]) for change in made.decided.changes],
        "warnings": list(made.decided.warnings),
    }


def _shown(change: "Change", estimate: "Estimate") -> dict[str, Any]:
    one = change.after or change.before
    return {
        "key": change.key,
        "kind": None if one is None else one.kind,
        "what": change.what,
        "before": None if change.before is None else change.before.query,
        "after": None if change.after is None else change.after.query,
        "members": estimate.members,
        "entering": estimate.entering,
        "leaving": estimate.leaving,
        "altered": estimate.altered,
        "rows": estimate.rows,
    }


def print_plan(made: Plan) -> None:
    """Print a plan for people."""
    for change in made.decided.changes:
        one = change.after or change.before
        print(f"{change.what:<9} {'' if one is None else one.kind} {change.key}")
        if change.what == "changed":
            for line in _differences(change):
                print(f"  {line}")
        elif change.after is not None and change.what == "new":
            for line in change.after.query.splitlines():
                print(f"  + {line}")
        print(f"  {_numbers(made.estimates[change.key])}")
    for told in made.objections():
        print(f"many: {told}")
    for told in made.decided.warnings:
        print(f"note: {told}")


def print_done(made: Plan) -> None:
    """Print what was done for people."""
    if not made.decided.changes:
        print("unchanged: that is in force already")
    for change in made.decided.changes:
        print(
            f"{change.what} {change.key}: in force; see where its computation stands with `profilelake {_group(change)}`"
        )
    for told in made.decided.warnings:
        print(f"note: {told}")


def _group(change: "Change") -> str:
    from profilelake.semantics.definitions import is_audience

    one = change.after or change.before
    if one is not None and one.kind == "entity":
        return "diff"
    return "audience list" if one is not None and is_audience(one.kind) else "trait list"


def _numbers(estimate: "Estimate") -> str:
    parts = [f"{estimate.members:,} now"]
    for count, what in (
        (estimate.entering, "enter"),
        (estimate.leaving, "leave"),
        (estimate.altered, "get another value"),
    ):
        if count is not None:
            parts.append(f"{count:,} {what}")
    if estimate.entering is None:
        parts.append("how many change is not known")
    if estimate.rows is not None:
        parts.append(f"{estimate.rows:,} events to read")
    return ", ".join(parts)


def _differences(change: "Change") -> list[str]:
    from profilelake.audiences.shown import differences

    return differences(change.before, change.after)
