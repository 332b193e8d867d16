"""How much the plain reference has to look at where each event asks for others, told before it begins."""

from collections import Counter
from typing import Final

from profilelake.semantics.conditions.evaluate import Subject
from profilelake.semantics.conditions.pairing import PAIRED_EVENTS_MAX, paired_in
from profilelake.semantics.conditions.tree import Events, Node, Reduce, Root, Users
from profilelake.semantics.conditions.values import amount
from profilelake.semantics.conditions.visiting import children

EVENTS_LOOKED_AT_MAX: Final = 500_000
"""Events, each as often as another one asks for it, that are looked at while somebody waits: seconds."""


VALUES_AS_ONE: Final = 50
"""Values in arrays and objects of two events that take as long as it does to look at one event for another."""


def effort(root: Root, subject: Subject) -> int:
    """Return about how often the reference looks at an event for another one, for one answer of a definition.

    What is asked of each event alone is not counted: that is as much as there are events. One that holds much, beside
    one that does, counts more than once.
    """
    return _Effort(subject).of(root)


class _Effort:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._names = Counter(event.name for event in subject.events)
        self._holding: dict[str, int] = {}

    def of(self, node: Node) -> int:
        """Return what is looked at for a part that stands in no event."""
        if isinstance(node, Users):
            return sum(_Effort(user).of(node.of) for user in self._subject.users)
        if isinstance(node, Reduce) and isinstance(node.of, Events):
            return self._asked(node.of, newest_only=False) * self._for_one(node.of)
        return sum(map(self.of, children(node)))

    def _asked(self, of: Events, *, newest_only: bool) -> int:
        named = self._names[of.name]
        return min(named, PAIRED_EVENTS_MAX) if newest_only or paired_in(of.where) else named

    def _for_one(self, of: Events) -> int:
        """Return what is looked at for one event that is asked whether it counts."""
        return 0 if of.where is None else self._inside(of.where, paired_in(of.where), self._held(of))

    def _held(self, of: Events) -> int:
        """Return how much an event of those that are looked at holds, on average."""
        known = self._holding.get(of.name)
        if known is None:
            named = [event for event in self._subject.events if event.name == of.name]
            newest = sorted(named, key=lambda event: event.timestamp, reverse=True)[:PAIRED_EVENTS_MAX]
            amounts = [
                amount(value)
                for event in newest
                for value in (*event.properties.values(), *event.context.values())
                if isinstance(value, list | dict)
            ]
            known = self._holding[of.name] = sum(amounts) // max(len(newest), 1)
        return known

    def _inside(self, node: Node, paired: frozenset[Reduce], around: int) -> int:
        if isinstance(node, Reduce) and isinstance(node.of, Events):
            asked = self._asked(node.of, newest_only=node in paired)
            # Whose name it is has to be seen of every event.
            held = 0 if node.of.where is None else (around + self._held(node.of)) // VALUES_AS_ONE
            return len(self._subject.events) + asked * (1 + held + self._for_one(node.of))
        return sum(self._inside(below, paired, around) for below in children(node))
