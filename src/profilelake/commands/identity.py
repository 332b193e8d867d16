"""`profilelake identity`: why people are one person or are not. Explaining only reads, and takes no lock."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from profilelake.commands import identity_decisions
from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_rows,
    state_of,
)
from profilelake.errors import Invalid, NotFound
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.semantics.times import parse_time
from profilelake.settings import Layout

if TYPE_CHECKING:
    from profilelake.identity.decisions import Decision
    from profilelake.identity.told import (
        Apart,
        Chain,
        Evidence,
        History,
        Quarantined,
        Refused,
        SetShown,
        Side,
        Step,
    )
    from profilelake.identity.view import View

WORKSPACE: Final = "default"
LIST_ROWS: Final = 100
IDENTIFIERS_SHOWN_MAX: Final = 10
_Answer = TypeVar("_Answer")

identity_commands = typer.Typer(no_args_is_help=True, help="Who is who, and why.")

Identifier = Annotated[str, typer.Argument(metavar="TYPE:VALUE", help="such as email:ana@example.org")]
InCollection = Annotated[
    str | None, typer.Option("--collection", help="users or accounts; by default the type says.")
]
Limit = Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")]
Cursor = Annotated[str, typer.Option(help="Go on where the list before ended.")]


@identity_commands.command("why")
def why(
    one: Identifier,
    other: Identifier,
    directory: Directory = DEFAULT_DIRECTORY,
    collection: InCollection = None,
    as_json: Json = False,
) -> None:
    """Show the shortest chain of events that makes two identifiers one person, or what keeps them apart."""
    from profilelake.identity import explain

    question = partial(explain.why, collection=_collection(collection), one=one, other=other)
    chain = _ask(layout_of(directory), f"why {one} {other}", question)
    if as_json:
        _print(chain)
    elif chain.apart is None:
        _print_chain(chain)
    else:
        _print_apart(chain, chain.apart)


@identity_commands.command("refusals")
def refusals(
    identifier: Annotated[
        str | None, typer.Argument(metavar="[TYPE:VALUE]", help="such as email:ana@example.org")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    event: Annotated[
        str | None, typer.Option(metavar="MESSAGE_ID", help="What this event refused, instead.")
    ] = None,
    collection: InCollection = None,
    limit: Limit = LIST_ROWS,
    cursor: Cursor = "",
    as_json: Json = False,
) -> None:
    """Show which events did not let an identifier join a profile, by which rule, and whose it is now."""
    from profilelake.identity import explain

    layout = layout_of(directory)
    if (identifier is None) == (event is None):
        raise Invalid("identity refusals: give either an identifier (TYPE:VALUE) or --event MESSAGE_ID")
    if event is not None:
        sets = _sets_of_event(layout, event)
        page = _ask(
            layout,
            f"refusals of event {event}",
            lambda view: explain.refusals_of_event(view, sets, after=cursor, rows=limit),
        )
    else:
        named = identifier or ""
        kind = _collection(collection)
        page = _ask(
            layout,
            f"refusals {named}",
            lambda view: explain.refusals(view, kind, named, after=cursor, rows=limit),
        )
    if as_json:
        _print(page.shown)
    else:
        for shown in page.shown.sets:
            _print_set(shown)
        _print_refusals(page.shown.refusals)
    _tell_more(page.following)


@identity_commands.command("history")
def history(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="TYPE:VALUE, or any id that the profile ever had.")
    ],
    directory: Directory = DEFAULT_DIRECTORY,
    as_of: Annotated[
        str | None, typer.Option(help="Only what was received before this time (ISO 8601).")
    ] = None,
    collection: InCollection = None,
    limit: Limit = LIST_ROWS,
    cursor: Cursor = "",
    as_json: Json = False,
) -> None:
    """Tell how a profile formed, event by event, under the rules and decisions in force."""
    from profilelake.identity import history as telling

    moment = _time(as_of)
    kind = _collection(collection)
    page = _ask(
        layout_of(directory),
        f"history {profile}",
        lambda view: telling.history(view, kind, profile, as_of=moment, after=cursor, rows=limit),
    )
    if as_json:
        _print(page.shown)
    else:
        _print_history(page.shown)
    _tell_more(page.following)


@identity_commands.command("quarantine")
def quarantine(
    identifier: Annotated[
        str | None, typer.Argument(metavar="[TYPE:VALUE]", help="Quarantine this; without it, list.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    collection: InCollection = None,
    note: Annotated[str, typer.Option(help="Why; it is kept with the decision.")] = "",
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where it changes nothing today.")] = False,
    limit: Limit = LIST_ROWS,
    cursor: Cursor = "",
    as_json: Json = False,
) -> None:
    """List the identifiers that link nobody, or let one more link nobody.

    They are there by decision, or because they met too many others. Release one with `identity release`.
    """
    from profilelake.identity import explain

    if identifier is not None:
        identity_decisions.quarantine(identifier, collection, note, anyway, directory, as_json)
        return
    page = _ask(
        layout_of(directory), "quarantine", lambda view: explain.quarantine(view, after=cursor, rows=limit)
    )
    if as_json:
        _print(page.shown)
    else:
        print_rows([_row(one) for one in page.shown])
    _tell_more(page.following)


identity_decisions.add_to(identity_commands)


# ---- reading -------------------------------------------------------------------------------------


def _ask(layout: Layout, asked: str, question: "Callable[[View], _Answer]") -> _Answer:
    """Return what is read from committed data, whether the server runs or not."""
    from profilelake.app.directory import identity_rules
    from profilelake.identity.view import explained
    from profilelake.workspaces.identifier_key import identifier_key

    state = state_of(layout)
    if state is None:
        raise NotFound(f"identity {asked}: nothing was applied yet; start the server once: profilelake serve")
    return explained(state, WORKSPACE, identifier_key(layout.secrets, WORKSPACE), identity_rules(), question)


def _sets_of_event(layout: Layout, message_id: str) -> list[bytes]:
    """Find an event among the recent ones, which show it at once; else in the lake."""
    from profilelake.identity.explain import no_such_event
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.events_by_id import find_event
    from profilelake.state import recent

    sets = _ask(
        layout,
        f"refusals of event {message_id}",
        lambda view: recent.keys_of_message(
            layout.recent(WORKSPACE), recent.load(view.tx, view.workspace), message_id
        ),
    )
    if not sets and layout.has_lake:
        seen = find_event(Lake.of(layout), WORKSPACE, message_id)
        sets = [] if seen is None else [key for _, key in seen.sets]
    if not sets:
        raise no_such_event(message_id)
    return list(dict.fromkeys(sets))


def _collection(name: str | None) -> Collection | None:
    if name is None:
        return None
    if name not in COLLECTIONS:
        raise Invalid(f"--collection {name}: it is one of {', '.join(COLLECTIONS)}")
    return COLLECTIONS[COLLECTIONS.index(name)]


def _time(text: str | None) -> int | None:
    micros = None if text is None else parse_time(text)
    if text is not None and micros is None:
        raise Invalid(f"--as-of {text[:40]!r}: write a time as 2026-03-01T10:00:00Z")
    return micros


# ---- showing -------------------------------------------------------------------------------------


def _print(document: object) -> None:
    import msgspec

    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    sys.stdout.write(encoded.decode() + "\n")


def _say(line: str = "") -> None:
    """Print a line. Identifiers are what strangers sent: none may steer the terminal."""
    print("".join(character if character.isprintable() else " " for character in line).rstrip())


def _tell_more(following: str | None) -> None:
    if following is not None:
        print(f"there are more: --cursor {following}", file=sys.stderr)


def _print_chain(chain: "Chain") -> None:
    ends = f"{chain.nodes[0]} and {chain.nodes[-1]}"
    if not chain.edges:
        _say(f"{chain.nodes[0]} is one identifier; its profile is {chain.profile_id or 'none'}")
        return
    _say(f"{ends} are one person, {chain.profile_id}, through {_count(len(chain.edges), 'event')}:")
    _say()
    for node, edge in zip(chain.nodes, [None, *chain.edges], strict=True):
        if edge is not None:
            _say(f"    | {_event(edge.evidence)}")
        _say(f"  {node}")


def _print_apart(chain: "Chain", apart: "Apart") -> None:
    _say(f"{chain.nodes[0]} and {chain.nodes[1]} are not one person")
    for node, side in zip(chain.nodes, apart.sides, strict=True):
        _say(f"  {node}: {_belongs(side)}")
    if apart.decisions:
        _say("decided:")
        for decision in apart.decisions:
            _say(f"  {decision.at}  {_decision(decision)}")
    if apart.refusals:
        _say("refused:")
        for refused in apart.refusals:
            _say(f"  {_refusal(refused)}")
            _say(f"    | {_event(refused.evidence)}")
    if apart.more:
        _say("  and more: profilelake identity refusals TYPE:VALUE")
    if not apart.decisions and not apart.refusals:
        _say("no event that counts links the two")


def _belongs(side: "Side") -> str:
    return {
        "linked": f"in the profile {side.profile_id}",
        "quarantined": "in no profile: it is quarantined (profilelake identity quarantine)",
        "blocked": "in no profile: the rules block this value",
        "no_rule": "in no profile: the rules have no such type",
        "refused": "in no profile: every event with it refused it",
        "retracted": "in no profile: no event with it counts",
    }[side.standing]


def _print_set(shown: "SetShown") -> None:
    _say(f"{shown.collection}: the profile is {shown.profile_id or 'none'}; decided by")
    _say(f"    | {_event(shown.evidence)}")
    for member in shown.members:
        _say(f"  {member.identifier}: {member.outcome.replace('_', ' ')}")
    _say()


def _print_refusals(refused: "Iterable[Refused]") -> None:
    empty = True
    for one in refused:
        empty = False
        _say(_refusal(one))
        _say(f"    | {_event(one.evidence)}")
    if empty:
        print("there are none", file=sys.stderr)


def _refusal(refused: "Refused") -> str:
    owner = refused.owner_profile_id
    now = "belongs to nobody" if owner is None else f"belongs to {owner}"
    same = owner is not None and owner == refused.profile_id
    return (
        f"{refused.identifier} did not join {refused.profile_id}: {_because(refused)};"
        f" it {'has joined it by another event since' if same else now}"
    )


def _because(refused: "Refused") -> str:
    limit = "" if refused.limit is None else f" of {refused.limit:,}"
    window = "" if refused.window_seconds is None else f" in {refused.window_seconds // 86_400} days"
    return {
        "limit": f"it would have more {refused.limit_type} than the limit{limit}",
        "time_limit": f"it would have more {refused.limit_type}{window} than the limit{limit}",
        "identifiers_max": f"it would have more identifiers than identifiers_max{limit}",
        "merges_max": f"it would have more merges than merges_max{limit}",
        "unlinked": "two of its identifiers were unlinked",
    }.get(refused.cause, refused.cause)


def _print_history(told: "History") -> None:
    if told.asked_for != told.profile_id:
        _say(f"{told.asked_for} is part of {told.profile_id}")
    for step in told.steps:
        _say(f"{step.at}  {_step(step)}")
        if step.evidence is not None:
            _say(f"    | {_event(step.evidence, at=False)}")
    _say("at the end:" if told.as_of is None else f"before {told.as_of}:")
    for part in told.parts:
        _say(f"  {part.profile_id} with {_count(part.identifiers, 'identifier')}")
    if told.parts_more:
        _say("  and more")


def _step(step: "Step") -> str:
    shown = ", ".join(map(str, step.identifiers[:IDENTIFIERS_SHOWN_MAX]))
    if len(step.identifiers) > IDENTIFIERS_SHOWN_MAX:
        shown += f" and {len(step.identifiers) - IDENTIFIERS_SHOWN_MAX:,} more"
    if step.what == "created":
        return f"{step.profile_id} began with {shown}"
    if step.what == "joined":
        return f"{step.profile_id} was joined by {shown}"
    if step.what == "merged":
        came = _count(step.count, "identifier")
        return f"{step.merged_profile_id} became part of {step.profile_id} with {came}"
    if step.what == "refused" and step.refused is not None:
        return _refusal(step.refused)
    if step.what == "quarantined_by_degree":
        return f"{shown} is quarantined: it met {step.count:,} others of one type"
    return _decision(step.decision) if step.decision is not None else step.what


def _decision(decision: "Decision") -> str:
    about = " ".join([*decision.identifiers, *([decision.message_id] if decision.message_id else [])])
    if decision.rules_version is not None:
        about = f"version {decision.rules_version}"
    note = f": {decision.note}" if decision.note else ""
    over = "" if decision.in_force is not False else " (no longer in force)"
    return f"{decision.decision} {about}, by {decision.by}{note}{over}"


def _event(evidence: "Evidence", *, at: bool = True) -> str:
    when = f"{evidence.at}  " if at else ""
    return f"{when}source {evidence.source_id}  message {evidence.message_id}"


def _row(one: "Quarantined") -> dict[str, str]:
    met = "" if one.degree is None else f"{one.degree:,} {one.degree_type}"
    by, note = ("", "") if one.decision is None else (one.decision.by, one.decision.note)
    return {
        "identifier": str(one.identifier),
        "collection": one.collection,
        "since": one.at[:19],
        "cause": one.cause,
        "met": met,
        "by": by,
        "note": note,
    }


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
