"""Whether a definition that can be read also makes sense: typed, in its place, and about things there are.

What cannot work is an error, what hardly was meant so a warning. A tree without errors has an answer for every
profile; none is needed to evaluate one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from profilelake.semantics.conditions._compared import contradictions, of_comparison
from profilelake.semantics.conditions._names import of_audience, of_entity, of_events, of_property, of_trait
from profilelake.semantics.conditions.bounds import too_much
from profilelake.semantics.conditions.findings import NOTHING_KNOWN, Finding, Known, Severity
from profilelake.semantics.conditions.spoken_times import UNITS, written_duration
from profilelake.semantics.conditions.text import shown
from profilelake.semantics.conditions.tree import (
    And,
    Between,
    Compare,
    Context,
    Entities,
    Events,
    Items,
    Node,
    Property,
    Reduce,
    Root,
    Target,
    Trait,
    Users,
    Window,
    Within,
)
from profilelake.semantics.conditions.visiting import children, events_of, reads, walk

__all__ = ["Finding", "Known", "check", "cycles", "events_of", "reads", "walk"]

RootKind: TypeAlias = Literal["audience", "trait"]
FUNNEL_MAX: Final = 3 * 365 * UNITS["day"]
"""The longest wait for what follows an event that is taken without a warning."""


def check(root: Root, *, kind: RootKind, target: Target, known: Known = NOTHING_KNOWN) -> list[Finding]:
    """Return what is wrong with a definition, in the order of its text."""
    checker = _Checker(target, known)
    checker.whole(root, kind)
    checker.visit(root, _Place())
    return sorted(checker.findings, key=lambda finding: finding.span or (0, 0))


def cycles(definitions: Mapping[str, Root]) -> list[list[str]]:
    """Return the circles in which definitions read each other: each key reads the next, the last the first.

    Of definitions that are entangled in several circles a shortest one is told for each of their keys, once.
    """
    asked = {key: sorted(reads(root) & definitions.keys()) for key, root in definitions.items()}
    found: list[list[str]] = []
    told: set[frozenset[str]] = set()
    for key in sorted(asked):
        circle = _shortest_circle(key, asked)
        if circle and frozenset(circle) not in told:
            told.add(frozenset(circle))
            found.append(circle)
    return found


def _shortest_circle(start: str, asked: Mapping[str, list[str]]) -> list[str]:
    before: dict[str, str] = {}
    waiting = [start]
    for key in waiting:
        for other in asked[key]:
            if other == start:
                circle = [key]
                while circle[-1] != start:
                    circle.append(before[circle[-1]])
                return circle[::-1]
            if other not in before:
                before[other] = key
                waiting.append(other)
    return []


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a definition a node stands: the events it is asked of, from the outside in, and the like."""

    events: tuple[Events, ...] = ()
    entity: Entities | None = None
    item: bool = False
    users: bool = False


class _Checker:
    def __init__(self, target: Target, known: Known) -> None:
        self.findings: list[Finding] = []
        self._target = target
        self._known = known

    def whole(self, root: Root, kind: RootKind) -> None:
        """Check what a definition is as a whole."""
        if kind == "audience" and isinstance(root, Reduce):
            self._error(root, "no_condition", "an audience is a condition; compare the value: add >= 1")
        if kind == "trait" and not isinstance(root, Reduce):
            message = (
                "a computed trait is one value, such as event('…').count(); a condition makes an audience"
            )
            self._error(root, "no_value", message)
        beyond = too_much(root)
        if beyond is not None:
            self._error(beyond[0], "too_much", beyond[1])

    def visit(self, node: Node, place: _Place) -> None:
        """Check a node and all below it."""
        match node:
            case Property() | Context() | Trait():
                self._reference(node, place)
            case Users():
                self._users(node, place)
                place = replace(place, users=True)
            case Items():
                self.visit(node.value, place)
                self.visit(node.of, replace(place, item=True))
                return
            case Reduce():
                self._reduction(node, place)
                return
            case Compare():
                self.findings += of_comparison(node)
                self.findings += of_audience(node, self._known_at(place))
            case And():
                self.findings += contradictions(node)
        for below in children(node):
            self.visit(below, place)

    def _users(self, node: Users, place: _Place) -> None:
        word = "ALL" if node.every else "ANY"
        if self._target != "accounts":
            message = f"{word} asks the users of an account; it is only for definitions about accounts"
            self._error(node, "no_account", message)
        elif place.users:
            self._error(
                node, "users_of_users", f"{word} stands inside ANY or ALL: a user has no users; leave it out"
            )
        elif place.events or place.entity or place.item:
            message = (
                f"{word} cannot stand inside where(), any() or all(); put it in front of the whole condition"
            )
            self._error(node, "users_inside", message)

    def _reference(self, node: Property | Context | Trait, place: _Place) -> None:
        said = shown(node)
        if isinstance(node, Context) and not place.events:
            self._error(node, "no_event", f"{said} is of an event; put it inside where() of event(…)")
        elif isinstance(node, Property) and node.scope == "parent" and len(place.events) < 2:
            message = (
                f"{said} is of the event that is followed; put it inside where() of an event(…) that itself"
                " stands inside where() of another"
            )
            self._error(node, "no_parent", message)
        elif isinstance(node, Property) and not (place.events or place.entity or place.item):
            message = (
                f"{said} is of an event; put it inside where() or a reducer such as sum(), or ask for a trait"
            )
            self._error(node, "no_event", message)
        if isinstance(node, Trait):
            self.findings += of_trait(node, self._known_at(place))
        elif isinstance(node, Property):
            asked = self._asked(node, place)
            if asked is not None:
                self.findings += of_property(node, self._known_at(place), asked)

    def _asked(self, node: Property, place: _Place) -> Events | Entities | None:
        """Return whose property is meant, None inside of an array and where there is none."""
        if node.scope == "item":
            return None
        if node.scope == "parent":
            return place.events[-2] if len(place.events) > 1 else None
        return place.entity or (place.events[-1] if place.events else None)

    def _known_at(self, place: _Place) -> Known:
        """Return what is known of the traits that a place asks for: those of the account, or of its users."""
        if place.users and self._target == "accounts":
            return self._known.users or NOTHING_KNOWN
        return self._known

    def _reduction(self, node: Reduce, place: _Place) -> None:
        of = node.of
        self._stream(of, place)
        if isinstance(of, Entities):
            inside = replace(place, entity=of, item=False)
        else:
            inside = replace(place, events=(*place.events, of), item=False)
        if of.where is not None:
            self.visit(of.where, inside)
        if node.value is not None:
            self.visit(node.value, inside)
            if node.value.scope != "event":
                self._error(node.value, "no_event", f"{node.how}() reduces a property of its own event")
        if (node.value is None) != (node.how == "count"):
            said = "takes no property" if node.how == "count" else "needs a property"
            self._error(node, "no_value", f"{node.how}() {said}")
        if node.least < 1:
            message = "mode() asks for a value that occurs at least so often; write 1 or more"
            self._error(node, "least", message)

    def _stream(self, of: Events | Entities, place: _Place) -> None:
        said = shown(replace(of, where=None, span=None))
        if place.item or place.entity:
            around = "any() or all()" if place.item else "where() of an entity"
            message = f"{said} cannot stand inside {around}; ask for it beside, joined by AND"
            self._error(of, "events_inside", message)
        elif isinstance(of, Entities) and place.events:
            message = f"{said} cannot stand inside where() of an event; ask for it beside, joined by AND"
            self._error(of, "events_inside", message)
        if isinstance(of, Entities):
            self.findings += of_entity(of, self._known_at(place))
        else:
            self.findings += of_events(of, self._known)
            self._window(of, of.window, place)

    def _window(self, of: Events, window: Window | None, place: _Place) -> None:
        parent = isinstance(window, Within) and window.parent
        if parent and not place.events:
            message = (
                "within(parent: …) follows an event; it is only for an event(…) inside where() of another"
            )
            self._error(window or of, "no_parent", message)
        elif place.events and not parent:
            message = (
                f"event('{of.name}') inside where() is asked at any time, also before the event around it; for what"
                " follows it add .within(parent: 5 days)"
            )
            self._warn(of, "not_following", message)
        if window is None:
            return
        if isinstance(window, Between):
            if window.far <= window.near:
                near, far = written_duration(window.near), written_duration(window.far)
                message = (
                    f"between({near}, {far}) is empty; write the nearer time first: between(7 days, 10 days)"
                )
                self._error(window, "empty_window", message)
        elif window.micros < 1:
            self._error(window, "empty_window", "a window of no length holds nothing; write 1 hour or more")
        elif parent and window.micros > FUNNEL_MAX:
            message = f"following within {written_duration(window.micros)} waits longer than 3 years; was this meant?"
            self._warn(window, "long_window", message)

    def _error(self, node: Node, code: str, message: str) -> None:
        self._add("error", node, code, message)

    def _warn(self, node: Node, code: str, message: str) -> None:
        self._add("warning", node, code, message)

    def _add(self, severity: Severity, node: Node, code: str, message: str) -> None:
        self.findings.append(Finding(severity, code, message, node.span))
