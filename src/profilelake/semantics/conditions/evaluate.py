"""What a condition or reduction is worth for one subject at one time: the meaning every engine is held to.

Slow and plain on purpose. Nothing but the facts given decides: not their order, not a clock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from profilelake.semantics.conditions.comparing import Asked, Looked, Side, compares
from profilelake.semantics.conditions.pairing import (
    PAIRED_EVENTS_MAX,
    PAIRED_VALUES_MAX,
    paired_in,
    searched,
    static_part,
)
from profilelake.semantics.conditions.reducers import Given, reduced
from profilelake.semantics.conditions.tree import (
    And,
    Between,
    Compare,
    Condition,
    Constant,
    Context,
    Duration,
    Entities,
    Events,
    Instant,
    Items,
    Not,
    Operand,
    Or,
    Path,
    Property,
    Reduce,
    Root,
    Session,
    Trait,
    Users,
    Window,
    Within,
)
from profilelake.semantics.conditions.values import amount, found
from profilelake.semantics.definitions import Definition, Json

_CALLS: Final = {"page": ("Page Viewed", "page_name"), "screen": ("Screen Viewed", "screen_name")}


ITSELF: Final = ("$",)
"""The path of the element itself, in a condition on the elements of an array."""


@dataclass(frozen=True, slots=True)
class Occurred:
    """One event as conditions see it. `timestamp` is in microseconds, `position` its place in the order of facts."""

    name: str
    timestamp: int
    position: bytes = b""
    source_id: str = ""
    properties: Mapping[str, Json] = field(default_factory=dict)
    context: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """A person or account: its facts, as far as definitions ask for them.

    `events` of an account are those of all users linked to it now (`account` puts them together), and `users`
    are these users. `traits` has computed ones too, and every audience as true or false. `identifier_types` are
    the types of which it has an identifier.
    """

    events: Sequence[Occurred] = ()
    traits: Mapping[str, Json] = field(default_factory=dict)
    users: Sequence["Subject"] = ()
    entities: Mapping[str, Sequence[Mapping[str, Json]]] = field(default_factory=dict)
    identifier_types: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Here:
    """Where in a definition a question is asked: about whom, when, and inside which event, parent and element."""

    subject: Subject
    at: int
    event: Occurred | None = None
    parent: Occurred | None = None
    item: Json = None
    paired: frozenset[Reduce] = frozenset()
    """Reductions here that look at the newest events only."""

    def inside(self, event: Occurred) -> "Here":
        """Return the place inside an event of `where`: the event around it becomes its parent."""
        return replace(self, event=event, parent=self.event)

    def among(self, item: Json) -> "Here":
        """Return the place inside an element of an array."""
        return replace(self, item=item)


def occurred(
    type: str,
    name: str | None,
    timestamp: int,
    *,
    position: bytes = b"",
    source_id: str = "",
    properties: Mapping[str, Json] | None = None,
    context: Mapping[str, Json] | None = None,
) -> Occurred | None:
    """Return the event that a call is, or none: identify, group and alias are no events.

    `name` is the event of a track call and the name of a page or screen, whose events have it as the property
    `page_name` or `screen_name`, whatever `properties` says of these.
    """
    told = dict(properties or {})
    if type in _CALLS:
        event, named = _CALLS[type]
        told[named] = name
    elif type == "track" and name is not None:
        event = name
    else:
        return None
    return Occurred(event, timestamp, position, source_id, told, dict(context or {}))


def account(
    users: Sequence[Subject],
    traits: Mapping[str, Json] | None = None,
    entities: Mapping[str, Sequence[Mapping[str, Json]]] | None = None,
) -> Subject:
    """Return an account with the users linked to it now."""
    events = [event for user in users for event in user.events]
    return Subject(events, traits or {}, users, entities or {})


def holds(condition: Condition, subject: Subject, at: int) -> bool:
    """Tell whether a condition holds at a time."""
    return meets(condition, Here(subject, at))


def value(reduce: Reduce, subject: Subject, at: int) -> Json:
    """Return what a reduction is worth at a time, `None` for no value."""
    return _json(worth(reduce, Here(subject, at)))


def answer(definition: Definition, root: Root, subject: Subject, at: int, *, created: bytes = b"") -> Json:
    """Return whether a subject is in an audience, or what a computed trait is worth for it.

    `created` is the position of the first version of the definition: one that is not `historical` counts only
    events behind it. A definition that is not enabled has no members and no values.
    """
    if not definition.historical:
        subject = since(subject, created)
    if isinstance(root, Reduce):
        return value(root, subject, at) if definition.enabled else None
    return definition.enabled and reachable(definition, subject) and holds(root, subject, at)


def reachable(definition: Definition, subject: Subject) -> bool:
    """Tell whether a subject has an identifier that a definition asks of members; accounts need none."""
    asked = definition.external_ids
    return definition.target == "accounts" or not asked or not subject.identifier_types.isdisjoint(asked)


def since(subject: Subject, position: bytes) -> Subject:
    """Return a subject with only the events behind a position, its users too."""
    return replace(
        subject,
        events=[event for event in subject.events if event.position > position],
        users=[since(user, position) for user in subject.users],
    )


def answers(
    definitions: Iterable[tuple[Definition, Root, bytes]],
    subject: Subject,
    at: int,
    *,
    accounts: bool = False,
) -> dict[str, Json]:
    """Return the answers of many definitions, each in the order given seeing those before it as traits.

    Each comes with the position at which it was created. Only definitions about what the subject is are
    answered; users of an account see theirs. A definition owns its key: a trait of that name that somebody sent
    is not seen while it stands.
    """
    known = list(definitions)
    target = "accounts" if accounts else "users"
    users = [replace(user, traits={**user.traits, **answers(known, user, at)}) for user in subject.users]
    found_so_far: dict[str, Json] = {}
    for definition, root, created in known:
        if definition.target == target:
            seen = replace(subject, users=users, traits={**subject.traits, **found_so_far})
            found_so_far[definition.key] = answer(definition, root, seen, at, created=created)
    return found_so_far


def meets(condition: Condition, here: Here) -> bool:
    """Tell whether a condition holds where it stands."""
    match condition:
        case Compare(value=left, how=how, operands=operands):
            return compares(
                how, worth(left, here), [operand_of(operand, here) for operand in operands], here.at
            )
        case Items(value=of_what, of=inner, every=every):
            test = of_element(inner, here)
            return _quantified([test(item) for item in elements(worth(of_what, here))], every=every)
        case Users(of=inner, every=every):
            answered = [meets(inner, Here(user, here.at)) for user in here.subject.users]
            return _quantified(answered, every=every)
        case Not(of=inner):
            return not meets(inner, here)
        case And(parts=parts):
            return all(meets(part, here) for part in parts)
        case Or(parts=parts):
            return any(meets(part, here) for part in parts)


def of_element(condition: Condition, here: Here) -> "Callable[[Json], bool]":
    """Return whether an element meets a condition, as a test that looks once at what is the same for all elements."""
    match condition:
        case Compare(value=left, how=how, operands=operands):
            value, *others = (_of_element(side, here) for side in (left, *operands))
            return lambda item: compares(how, value(item), [other(item) for other in others], here.at)  # type: ignore[arg-type]
        case Items(value=of_what, of=inner, every=every):
            test = of_element(inner, here)
            return lambda item: _quantified(
                [test(one) for one in elements(worth(of_what, here.among(item)))], every=every
            )
        case Not(of=inner):
            negated = of_element(inner, here)
            return lambda item: not negated(item)
        case And(parts=parts):
            tests = [of_element(part, here) for part in parts]
            return lambda item: all(test(item) for test in tests)
        case Or(parts=parts):
            tests = [of_element(part, here) for part in parts]
            return lambda item: any(test(item) for test in tests)
        case Users():
            return lambda item: meets(condition, here.among(item))


def _of_element(side: Operand, here: Here) -> "Callable[[Json], Asked | Looked]":
    if isinstance(side, Property) and side.scope == "item":
        return lambda item: worth(side, here.among(item))
    looked = Looked(operand_of(side, here))
    return lambda _: looked


def _quantified(answered: Sequence[bool], *, every: bool) -> bool:
    return bool(answered) and all(answered) if every else any(answered)


def elements(array: Side) -> Sequence[Json]:
    """Return the elements that `any` and `all` ask about, nulls among them; a single value is its only element."""
    if array is None or isinstance(array, Instant):
        return []
    return array if isinstance(array, list) else [array]


def operand_of(operand: Operand, here: Here) -> Asked:
    """Return an operand of a comparison as it is here."""
    return operand if isinstance(operand, Duration) else worth(operand, here)


def worth(expression: Operand, here: Here) -> Side:
    """Return what an expression is worth where it stands."""
    match expression:
        case Constant(value=constant):
            return constant
        case Instant():
            return expression
        case Trait(path=path):
            return _under(path, here.subject.traits)
        case Property(path=path, scope="item"):
            return here.item if path == ITSELF else found(path, here.item)
        case Property(path=path, scope=scope):
            event = here.parent if scope == "parent" else here.event
            return None if event is None else _under(path, event.properties)
        case Context(path=path):
            return None if here.event is None else _under(path, here.event.context)
        case Reduce(of=of, value=reduced_value):
            given = [
                Given(
                    one.timestamp,
                    None if reduced_value is None else _json(worth(reduced_value, here.inside(one))),
                )
                for one in counting(of, here, newest_only=newest_only(expression, here))
            ]
            return reduced(expression, given)
        case Duration():
            return None


def _under(path: Path, values: Mapping[str, Json]) -> Json:
    return found(path[1:], values.get(path[0]))


def _json(side: Side) -> Json:
    return None if isinstance(side, Instant) else side


def counting(of: Events | Entities, here: Here, *, newest_only: bool = False) -> list[Occurred]:
    """Return the events (or rows of an entity) that count where a reduction stands."""
    events = looked_at(of, here, newest_only=newest_only)
    asking = among(of, here)
    if isinstance(of, Entities):
        return [row for row in events if wanted(of, row, asking)]
    if isinstance(of.window, Session):
        # Only events that are wanted prolong a session.
        return in_window(of.window, [event for event in events if wanted(of, event, asking)], here)
    return [event for event in in_window(of.window, events, here) if wanted(of, event, asking)]


def newest_only(reduce: Reduce, here: Here) -> bool:
    """Tell whether a reduction looks at the newest events only where it stands (`pairing.paired_in`)."""
    return bool(here.paired) and reduce in here.paired


def among(of: Events | Entities, here: Here) -> Here:
    """Return the place from which `wanted` is asked of the events of a reduction that stands here."""
    return replace(here, paired=paired_in(of.where))


def looked_at(of: Events | Entities, here: Here, *, newest_only: bool) -> list[Occurred]:
    """Return the candidates that are looked at: all of them, or the newest of those that may count.

    Only the newest are looked at by a reduction that is worked out pair by pair, and of the events that it is
    asked of. Those that do not meet what is static of the condition are none of them. What has to be looked
    through in these must not be too much together, either. Of events at one time all are looked at or none.
    """
    events = candidates(of, here)
    if not isinstance(of, Events) or not (newest_only or paired_in(of.where)):
        return events
    part = static_part(of.where)
    events = [event for event in events if part is None or meets(part, here.inside(event))]
    if len(events) > PAIRED_EVENTS_MAX:
        times = sorted((event.timestamp for event in events), reverse=True)
        events = [event for event in events if event.timestamp > times[PAIRED_EVENTS_MAX]]
    values = searched(of, newest_only=newest_only)
    return _not_too_much(events, values, here) if values else events


def _not_too_much(events: list[Occurred], values: Sequence[Property | Context], here: Here) -> list[Occurred]:
    """Return the newest of some events that hold no more than is looked through."""
    reached = 0
    for event in sorted(events, key=lambda event: event.timestamp, reverse=True):
        inside = here.inside(event)
        reached += sum(amount(_json(worth(value, inside))) for value in values)
        if reached > PAIRED_VALUES_MAX:
            return [one for one in events if one.timestamp > event.timestamp]
    return events


def candidates(of: Events | Entities, here: Here) -> list[Occurred]:
    """Return the events of the name and of sources that count, that have happened by now, or all rows."""
    if isinstance(of, Entities):
        return [Occurred(of.slug, 0, properties=row) for row in here.subject.entities.get(of.slug, ())]
    return [
        event
        for event in here.subject.events
        if event.name == of.name and event.source_id not in of.excluded and event.timestamp <= here.at
    ]


def wanted(of: Events | Entities, event: Occurred, here: Here) -> bool:
    """Tell whether an event meets what is asked of it, its time aside; `here` is a place of `among`."""
    return of.where is None or meets(of.where, here.inside(event))


def in_window(window: Window | None, events: list[Occurred], here: Here) -> list[Occurred]:
    """Return the events that lie in a window, both its edges included.

    A window after the parent event holds what came at its time or later, but not that event itself; outside of a
    parent it holds nothing. A session is the longest run of events up to the newest in which none is further
    from the next than it allows, and is over when the newest is further than that from now.
    """
    at = here.at
    match window:
        case None:
            return events
        case Within(micros=span, parent=False):
            return [event for event in events if at - span <= event.timestamp]
        case Within(micros=span):
            parent = here.event
            if parent is None:
                return []
            start = parent.timestamp
            return [one for one in events if start <= one.timestamp <= start + span and one is not parent]
        case Between(near=near, far=far):
            return [event for event in events if at - far <= event.timestamp <= at - near]
        case Session(micros=gap):
            session: list[Occurred] = []
            reached = at
            for event in sorted(events, key=lambda event: event.timestamp, reverse=True):
                if event.timestamp + gap < reached:
                    break
                session.append(event)
                reached = event.timestamp
            return session
