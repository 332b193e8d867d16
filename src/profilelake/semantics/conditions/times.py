"""When an answer changes with no new fact: as events leave windows, sessions end and dates draw near or go by."""

from collections.abc import Iterable, Iterator
from typing import Final

from profilelake.semantics.conditions.comparing import moment_of
from profilelake.semantics.conditions.evaluate import (
    Here,
    Subject,
    among,
    elements,
    holds,
    in_window,
    looked_at,
    newest_only,
    value,
    wanted,
    worth,
)
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    Between,
    Compare,
    Comparison,
    Condition,
    Duration,
    Entities,
    Items,
    Not,
    Or,
    Reduce,
    Root,
    Session,
    Users,
    Window,
    Within,
)
from profilelake.semantics.conditions.values import canonical, items
from profilelake.semantics.conditions.visiting import walk

MOMENTS_MAX: Final = 100
"""At how many moments the answer is tried. If it is the same at all of them, the next moment is named."""


def next_change(root: Root, subject: Subject, at: int, *, moments: int = MOMENTS_MAX) -> int | None:
    """Return the first time after `at` at which the answer differs with no new fact, None for never.

    The traits of the subject are taken to stay as they are: where they are computed themselves, the earliest
    change of all counts. The time is never too late. It is early only where the answer was tried at as many
    `moments` before it and nothing had changed.
    """
    before = _told(root, subject, at)
    moment = next_moment(root, subject, at)
    for _ in range(moments):
        if moment is None or _told(root, subject, moment) != before:
            break
        moment = next_moment(root, subject, moment)
    return moment


def next_moment(root: Root, subject: Subject, at: int) -> int | None:
    """Return the first time after `at` at which any part of a definition may be worth something else."""
    here = Here(subject, at)
    moments = _of_reduction(root, here) if isinstance(root, Reduce) else _of_condition(root, here)
    return min((moment for moment in moments if moment > at), default=None)


def next_moment_of_event(condition: Condition, here: Here) -> int | None:
    """Return the first time at which any part of a condition on the event at hand may be worth something else."""
    return min((moment for moment in _of_condition(condition, here) if moment > here.at), default=None)


def _told(root: Root, subject: Subject, at: int) -> str:
    found = value(root, subject, at) if isinstance(root, Reduce) else holds(root, subject, at)
    return canonical(found)


def _of_condition(condition: Condition, here: Here) -> Iterator[int]:
    match condition:
        case Compare():
            yield from _of_comparison(condition, here)
        case Items(value=of_what, of=inner):
            for item in elements(worth(of_what, here)):
                yield from _of_condition(inner, here.among(item))
        case Users(of=inner):
            for user in here.subject.users:
                yield from _of_condition(inner, Here(user, here.at))
        case Not(of=inner):
            yield from _of_condition(inner, here)
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                yield from _of_condition(part, here)


def _of_comparison(condition: Compare, here: Here) -> Iterator[int]:
    """Yield the moments of a comparison: those of its sides, and where it asks for it those of dates."""
    for side in (condition.value, *condition.operands):
        if isinstance(side, Reduce):
            yield from _of_reduction(side, here)
    if condition.how in RELATIVE:
        left = worth(condition.value, here)
        dates = [left] if not isinstance(left, list) else items(left)
        for date in dates:
            moment = moment_of(date)
            for operand in condition.operands:
                if moment is not None and isinstance(operand, Duration):
                    yield from _of_date(condition.how, moment, operand.micros)


def _of_date(how: Comparison, moment: int, span: int) -> Iterable[int]:
    """Return the times at which what is asked of a moment begins or ends to hold."""
    match how:
        case "within_last":
            return (moment, moment + span + 1)
        case "within_next":
            return (moment - span, moment + 1)
        case "before_last":
            return (moment + span + 1,)
        case _:
            return (moment - span,)


def _of_reduction(reduce: Reduce, here: Here) -> Iterator[int]:
    of = reduce.of
    events = looked_at(of, here, newest_only=newest_only(reduce, here))
    asking = among(of, here)
    later = any(event.timestamp > here.at for event in here.subject.events)
    # Nothing that follows an event is looked at in vain: there may be as many as events themselves.
    if of.where is not None and (later or not _stands(of.where)):
        for event in events:
            yield from _of_condition(of.where, asking.inside(event))
    if isinstance(of, Entities):
        return
    for event in here.subject.events:
        # An event of a time to come is one that has not happened yet.
        if event.timestamp > here.at and event.name == of.name:
            yield event.timestamp
    # After a parent event time stands still: both have happened.
    if of.window is None or (isinstance(of.window, Within) and of.window.parent):
        return
    events = [event for event in events if wanted(of, event, asking)]
    if isinstance(of.window, Session):
        # The newest event alone decides when a session is over.
        events = in_window(of.window, events, here)[:1]
    for event in events:
        yield from _of_window(of.window, event.timestamp)


def _stands(condition: Condition) -> bool:
    """Tell whether a condition holds at all times alike, once all events it may ask for have happened."""
    return not any(
        isinstance(node, Between | Session | Users)
        or (isinstance(node, Within) and not node.parent)
        or (isinstance(node, Compare) and node.how in RELATIVE)
        for node in walk(condition)
    )


def _of_window(window: Window | None, timestamp: int) -> Iterable[int]:
    """Return the times at which an event enters and leaves a window."""
    match window:
        case Within(micros=span, parent=False) | Session(micros=span):
            return (timestamp + span + 1,)
        case Between(near=near, far=far):
            return (timestamp + near, timestamp + far + 1)
        case _:
            return ()
