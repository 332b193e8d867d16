"""Why an answer is what it is: every condition of a definition with what it found and what it asked for.

As of another time it is the same: give that time, and the facts that were known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from profilelake.semantics.conditions.comparing import TEXTS, TEXTS_SOUGHT_MAX, Asked
from profilelake.semantics.conditions.effort import effort
from profilelake.semantics.conditions.evaluate import (
    Here,
    Occurred,
    Subject,
    candidates,
    counting,
    elements,
    looked_at,
    meets,
    of_element,
    operand_of,
    worth,
)
from profilelake.semantics.conditions.pairing import paired_in, static_part
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.times import MOMENTS_MAX, next_change
from profilelake.semantics.conditions.tree import (
    And,
    Compare,
    Comparison,
    Condition,
    Duration,
    Events,
    Instant,
    Items,
    Not,
    Or,
    Reduce,
    Root,
    Span,
    Users,
)
from profilelake.semantics.conditions.values import items
from profilelake.semantics.definitions import Json
from profilelake.semantics.times import format_time

EVENTS_SHOWN_MAX: Final = 5
"""How many of the events that count are shown, the newest first."""
USERS_SHOWN_MAX: Final = 10
"""How many users of an account are explained one by one, in their order."""
EVENTS_TRIED_MAX: Final = 100_000
"""About how many events are looked at to find when one condition changes."""

What: TypeAlias = Literal["comparison", "reduction", "elements", "users", "not", "and", "or"]


@dataclass(frozen=True, slots=True)
class Explained:
    """One condition, or one reduction in it, and what it came to.

    `holds` is None for a reduction alone: it has a `value`. Of a comparison `value` is what was found and `asked`
    what it is compared with, amounts of time and dates as text; `parts` are the reductions on both sides. Of a
    reduction `considered` says how many events of the name and of sources that count there are, `counted` how
    many of them count, and `events` are the newest of these; `left_out` are those that were not looked at because
    there are too many newer ones, or too much in these (`pairing.PAIRED_EVENTS_MAX`, `PAIRED_VALUES_MAX`), and of a
    comparison elements of arrays that are not looked for (`comparing.TEXTS_SOUGHT_MAX`). Of the elements of an array, or the users of an
    account, `considered` is how many there are and `counted` for how many the condition holds; `parts` are the
    first users, each with its `place`.

    `changes_at`: with no new fact nothing changes before this time; None means never.
    """

    what: What
    text: str
    span: Span | None
    holds: bool | None
    changes_at: int | None
    value: Json = None
    asked: tuple[Json, ...] = ()
    considered: int | None = None
    counted: int | None = None
    events: tuple[Occurred, ...] = ()
    left_out: int = 0
    place: int | None = None
    parts: tuple["Explained", ...] = ()


def explain(root: Root, subject: Subject, at: int) -> Explained:
    """Return why a definition comes to what it does for a subject at a time.

    Whether a member has the identifiers asked of it is told by `evaluate.reachable`, and which events are old
    enough by `evaluate.since`: neither is part of the tree.
    """
    here = Here(subject, at)
    if isinstance(root, Reduce):
        return _reduction(root, here)
    match root:
        case Compare():
            return _comparison(root, here)
        case Items():
            return _elements(root, here)
        case Users():
            return _users(root, here)
        case Not(of=of):
            return _joined("not", root, (of,), here)
        case And(parts=parts):
            return _joined("and", root, parts, here)
        case Or(parts=parts):
            return _joined("or", root, parts, here)


def document(explained: Explained) -> dict[str, Json]:
    """Return an explanation as JSON: times as text, and nothing of what does not apply."""
    told: dict[str, Json] = {
        "what": explained.what,
        "text": explained.text,
        "span": None if explained.span is None else list(explained.span),
        "holds": explained.holds,
        "changes_at": None if explained.changes_at is None else format_time(explained.changes_at),
    }
    if explained.holds is None:
        del told["holds"]
    if explained.what in ("comparison", "reduction", "elements"):
        told["value"] = explained.value
    if explained.what == "comparison":
        told["asked"] = list(explained.asked)
    if explained.considered is not None:
        told |= {"considered": explained.considered, "counted": explained.counted}
    if explained.what == "reduction":
        told["events"] = [_event(event) for event in explained.events]
    if explained.left_out:
        told["left_out"] = explained.left_out
    if explained.place is not None:
        told["place"] = explained.place
    if explained.parts:
        told["parts"] = [document(part) for part in explained.parts]
    return told


def _event(event: Occurred) -> dict[str, Json]:
    return {
        "name": event.name,
        "timestamp": format_time(event.timestamp),
        "position": event.position.hex(),
        "source_id": event.source_id,
        "properties": dict(event.properties),
    }


def _changes(root: Root, here: Here) -> int | None:
    events = len(here.subject.events) + sum(len(user.events) for user in here.subject.users)
    tried = min(MOMENTS_MAX, EVENTS_TRIED_MAX // (events + effort(root, here.subject) + 1))
    return next_change(root, here.subject, here.at, moments=tried)


def _joined(what: What, condition: Condition, parts: Sequence[Condition], here: Here) -> Explained:
    return Explained(
        what,
        written(condition),
        condition.span,
        meets(condition, here),
        _changes(condition, here),
        parts=tuple(explain(part, here.subject, here.at) for part in parts),
    )


def _comparison(condition: Compare, here: Here) -> Explained:
    sides = (condition.value, *condition.operands)
    asked = [operand_of(operand, here) for operand in condition.operands]
    return Explained(
        "comparison",
        written(condition),
        condition.span,
        meets(condition, here),
        _changes(condition, here),
        value=_shown(worth(condition.value, here)),
        asked=tuple(map(_shown, asked)),
        left_out=_not_sought(condition.how, asked),
        parts=tuple(_reduction(side, here) for side in sides if isinstance(side, Reduce)),
    )


def _not_sought(how: Comparison, asked: Sequence[Asked]) -> int:
    """Return how many texts in arrays are not looked for because there are too many before them."""
    several = [len(items(side)) for side in asked if how in TEXTS and isinstance(side, list)]
    return sum(max(size - TEXTS_SOUGHT_MAX, 0) for size in several)


def _shown(side: Asked) -> Json:
    if isinstance(side, Duration):
        return side.text
    return format_time(side.at) if isinstance(side, Instant) else side


def _reduction(reduce: Reduce, here: Here) -> Explained:
    found = counting(reduce.of, here)
    considered = candidates(reduce.of, here)
    left_out = 0
    if isinstance(reduce.of, Events) and paired_in(reduce.of.where):
        part = static_part(reduce.of.where)
        may_count = sum(part is None or meets(part, here.inside(event)) for event in considered)
        left_out = may_count - len(looked_at(reduce.of, here, newest_only=False))
    newest = sorted(found, key=lambda event: (event.timestamp, event.position), reverse=True)
    return Explained(
        "reduction",
        written(reduce),
        reduce.span,
        None,
        _changes(reduce, here),
        value=_shown(worth(reduce, here)),
        considered=len(considered),
        counted=len(found),
        events=tuple(newest[:EVENTS_SHOWN_MAX]),
        left_out=left_out,
    )


def _elements(condition: Items, here: Here) -> Explained:
    found = worth(condition.value, here)
    asked = elements(found)
    test = of_element(condition.of, here)
    return Explained(
        "elements",
        written(condition),
        condition.span,
        meets(condition, here),
        _changes(condition, here),
        value=_shown(found),
        considered=len(asked),
        counted=sum(map(test, asked)),
    )


def _users(condition: Users, here: Here) -> Explained:
    users = here.subject.users
    return Explained(
        "users",
        written(condition),
        condition.span,
        meets(condition, here),
        _changes(condition, here),
        considered=len(users),
        counted=sum(meets(condition.of, Here(user, here.at)) for user in users),
        parts=tuple(
            replace(explain(condition.of, user, here.at), place=place)
            for place, user in enumerate(users[:USERS_SHOWN_MAX])
        ),
    )
