"""Runs the cases of definition files on the plain reference: no server, no tables, no clock."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from profilelake.definitions._cases import Case, Expected
from profilelake.definitions.computed import Computed
from profilelake.semantics.conditions.check import reads
from profilelake.semantics.conditions.evaluate import Subject, answers
from profilelake.semantics.conditions.tree import Root
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import Definition, Json, read_first

Known: TypeAlias = Sequence[tuple[Definition, Root]]
Worth: TypeAlias = Callable[[Known, Subject, int, bool], Mapping[str, Json]]
"""What definitions are worth for a subject (an account?) at a time; each stands behind those it reads."""


@dataclass(frozen=True, slots=True)
class Missed:
    """An expectation that does not hold; `fault` says why where there is no value to compare."""

    line: int
    at: int
    key: str
    expected: Json
    got: Json = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case: it is good if nothing was missed."""

    case: Case
    missed: tuple[Missed, ...]


def reference(known: Known, subject: Subject, at: int, accounts: bool) -> Mapping[str, Json]:
    """Return what definitions are worth, by the reference."""
    return answers(((definition, root, b"") for definition, root in known), subject, at, accounts=accounts)


def run(computed: Computed, worth: Worth = reference) -> Iterator[Outcome]:
    """Yield the outcome of each case, in order; `worth` may compute in place of the reference."""
    roots = computed.roots
    read = {key: reads(root) for key, root in roots.items()}
    # Whether one is enabled says nothing of what it means.
    known = [
        (replace(computed.written[key].definition, enabled=True), roots[key])
        for key in read_first(roots, read)
    ]
    for case in computed.cases:
        missed = [each for one in case.expected for each in _missed(case, one, computed, known, worth)]
        yield Outcome(case, tuple(missed))


def _missed(case: Case, one: Expected, computed: Computed, known: Known, worth: Worth) -> Iterator[Missed]:
    testable = {}
    for key, value in one.values.items():
        fault = _fault(key, computed)
        if fault:
            yield Missed(one.line, one.at, key, value, fault=fault)
        else:
            testable[key] = value
    for accounts in (False, True):
        asked = {
            key: value
            for key, value in testable.items()
            if (computed.written[key].definition.target == "accounts") == accounts
        }
        if not asked:
            continue
        found = worth(_needed(known, asked), case.given, one.at, accounts)
        for key, value in asked.items():
            got = found.get(key)
            if canonical(got) != canonical(value):
                yield Missed(one.line, one.at, key, value, got)


def _needed(known: Known, asked: Mapping[str, Json]) -> Known:
    """Return the definitions that are asked for, and those they read."""
    by_key = {definition.key: root for definition, root in known}
    wanted, waiting = set[str](), list(asked)
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting += reads(by_key[key]) & by_key.keys()
    return [(definition, root) for definition, root in known if definition.key in wanted]


def _fault(key: str, computed: Computed) -> str:
    one = computed.written.get(key)
    if one is None:
        return "no file defines it"
    if one.root is None:
        return "it is SQL, which is not run here; give its value among the traits instead"
    return ""
