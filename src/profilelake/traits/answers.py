"""Answers of definitions for many subjects at once: trees evaluated as algebra of columns.

The meaning is that of `semantics.conditions`, which is asked itself wherever a value has to be looked into
(once per distinct value). With each answer comes a time before which it
stays the same if nothing happens: it may be early, never late.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import ceil, floor
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.semantics.conditions.tree import (
    And,
    Compare,
    Condition,
    Constant,
    Duration,
    Instant,
    Items,
    Node,
    Not,
    Or,
    Path,
    Reduce,
    Trait,
    Users,
)
from profilelake.semantics.conditions.values import number
from profilelake.semantics.definitions import Target
from profilelake.traits import asked
from profilelake.traits.columns import (
    EXACT,
    NEVER,
    Coded,
    Column,
    Int64s,
    Numbers,
    Subjects,
    Truth,
    all_of,
    any_of,
    as_coded,
    negated,
    never,
    nothing,
)
from profilelake.traits.compared import Side, compared
from profilelake.traits.joined import Joined
from profilelake.traits.ownership import Ownership
from profilelake.traits.partials import Partials
from profilelake.traits.reductions import Reductions
from profilelake.traits.steps import Plan, Planned, nodes

SLICE: Final = 1 << 17
"""Subjects that are evaluated at a time; what is held in between grows with it."""

_TRUTHS: Final = ("false", "true")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a definition is worth for each subject.

    `values` are JSON texts: of an audience `true` for members, of a trait its value; null for everybody else and
    for a count of 0. `changes_at` is a time (microseconds) before which it stays so if nothing happens; it means
    something only where the partials are by day, as those folded as of a time do not know what comes later.
    """

    values: pa.Array
    changes_at: Int64s


def answers(
    plan: Plan, numbers: Mapping[bytes, int], partials: Partials, subjects: Subjects, at: int
) -> Mapping[str, Answers]:
    """Return the answers of the definitions of a plan that are about such subjects, by key.

    `numbers` are those that steps have in the partials, by digest. Each definition sees the others as traits,
    definitions about users in what is asked of an account's users.
    """
    parts = [found for _, found in sliced(plan, numbers, partials, subjects, at)]
    return {
        key: Answers(
            pa.concat_arrays([part[key].values for part in parts]),
            np.concatenate([part[key].changes_at for part in parts]),
        )
        for key in parts[0]
    }


def sliced(
    plan: Plan, numbers: Mapping[bytes, int], partials: Partials, subjects: Subjects, at: int
) -> Iterator[tuple[int, Mapping[str, Answers]]]:
    """Yield the answers for slices of the subjects, each with the number of its first subject."""
    target = _target(subjects)
    ownership = Ownership(partials, subjects)
    for start in range(0, max(subjects.count, 1), SLICE):
        stop = min(start + SLICE, subjects.count)
        world = _World(plan, numbers, ownership, subjects.part(start, stop), at, start)
        yield (
            start,
            {
                planned.held.definition.key: world.answer(planned)
                for planned in plan
                if planned.held.definition.target == target
            },
        )


def _target(subjects: Subjects) -> Target:
    return "users" if subjects.users is None else "accounts"


class _World:
    """Some subjects at a time, with everything that was already found out about them."""

    def __init__(
        self,
        plan: Plan,
        numbers: Mapping[bytes, int],
        ownership: Ownership,
        subjects: Subjects,
        at: int,
        start: int = 0,
    ) -> None:
        """`subjects` are those from `start` on of those whose partials `ownership` knows."""
        self._subjects = subjects
        self._at = at
        self._plan, self._numbers, self._partials = plan, numbers, ownership.partials
        target = _target(subjects)
        self._computed = {
            planned.held.definition.key: planned
            for planned in plan
            if planned.held.definition.target == target
        }
        steps = {step.digest for planned in plan for step in planned.steps.values()}
        mine = np.array([numbers[digest] for digest in steps if digest in numbers], dtype=np.int64)
        joined = Joined(ownership, mine, start, start + subjects.count)
        self._reductions = Reductions(
            numbers, joined, ownership.partials.texts, subjects, self._traits_in, at
        )
        self._traits: dict[Path, Column] = {}
        self._people: _World | None = None

    # ---- definitions ---------------------------------------------------------------------------

    def answer(self, planned: Planned) -> Answers:
        """Return what is given back of a definition."""
        column = self._trait((planned.held.definition.key,))
        if planned.held.definition.kind == "audience":
            members = pa.array(as_coded(column).codes == _TRUTHS.index("true"))
            return Answers(pc.if_else(members, "true", pa.scalar(None, pa.string())), column.changes)
        if isinstance(column, Numbers) and isinstance(planned.root, Reduce) and asked.counts(planned.root):
            column = replace(column, valid=column.valid & (column.values != 0))
        return Answers(column.json(), column.changes)

    def _trait(self, path: Path) -> Column:
        """Return a trait, computed or written; a definition hides what was written under its key."""
        known = self._traits.get(path)
        if known is None:
            known = self._traits[path] = self._found(path)
        return known

    def _found(self, path: Path) -> Column:
        if len(path) > 1:
            return as_coded(self._trait(path[:1])).at(path[1:])
        planned = self._computed.get(path[0])
        if planned is not None:
            return self._defined(planned)
        written = self._subjects.traits.get(path[0])
        return nothing(self._subjects.count) if written is None else Coded.of(written)

    def _defined(self, planned: Planned) -> Column:
        definition = planned.held.definition
        count = self._subjects.count
        if isinstance(planned.root, Reduce):
            return self._reductions.worth(planned, planned.root) if definition.enabled else nothing(count)
        if definition.enabled:
            truth = self.truth(planned, planned.root)
        else:
            truth = Truth(np.zeros(count, dtype=np.bool_), never(count))
        if definition.target == "users" and definition.external_ids:
            has = self._subjects.identifier_types
            reachable = np.logical_or.reduce(
                [
                    np.zeros(count, dtype=np.bool_),
                    *(has[kind] for kind in definition.external_ids if kind in has),
                ]
            )
            truth = Truth(truth.holds & reachable, np.where(reachable, truth.changes, NEVER))
        return Coded(truth.holds.astype(np.int32), pa.array(_TRUTHS), truth.changes)

    # ---- conditions ----------------------------------------------------------------------------

    def truth(self, planned: Planned, condition: Condition) -> Truth:
        """Return where a condition of a definition holds, and until when."""
        match condition:
            case Not(of=inner):
                return negated(self.truth(planned, inner))
            case And(parts=parts):
                return all_of([self.truth(planned, part) for part in parts])
            case Or(parts=parts):
                return any_of([self.truth(planned, part) for part in parts])
            case Users(of=inner, every=every):
                return self._of_users(planned, inner, every=every)
            case Items():
                return self._of_items(planned, condition)
            case Compare():
                return self._of_comparison(planned, condition)

    def _of_comparison(self, planned: Planned, condition: Compare) -> Truth:
        value = self._side(planned, condition.value)
        operands = [self._side(planned, operand) for operand in condition.operands]
        truth = compared(condition.how, value, operands, self._at, self._subjects.count)
        least = _threshold(condition)
        if least is None or not isinstance(condition.value, Reduce):
            return truth
        falls = self._reductions.falls_below(planned, condition.value, least)
        return truth if falls is None else Truth(truth.holds, falls)

    def _side(self, planned: Planned, node: Any) -> Side:
        match node:
            case Constant() | Instant() | Duration():
                return node
            case Trait(path=path):
                return self._trait(path)
            case Reduce():
                return self._reductions.worth(planned, node)
            case _:
                # Outside of an event there are no properties.
                return nothing(self._subjects.count)

    def _of_users(self, planned: Planned, condition: Condition, *, every: bool) -> Truth:
        """Return whether any (every) linked user meets a condition."""
        count, users = self._subjects.count, self._subjects.users
        if users is None:
            return Truth(np.zeros(count, dtype=np.bool_), never(count))
        if self._people is None:
            self._people = _World(
                self._plan, self._numbers, Ownership(self._partials, users), users, self._at
            )
        theirs = self._people.truth(planned, condition)
        if every:
            theirs = negated(theirs)
        account, user = self._subjects.user_accounts.T
        holds, changes = theirs.holds[user], theirs.changes[user]
        any_holds = np.zeros(count, dtype=np.bool_)
        any_holds[account[holds]] = True
        # As in `any_of`: while somebody meets it, it is over at the earliest when the last of these does not.
        longest = np.zeros(count, dtype=np.int64)
        np.maximum.at(longest, account[holds], changes[holds])
        first = never(count)
        np.minimum.at(first, account, changes)
        truth = Truth(any_holds, np.where(any_holds, longest, first))
        if not every:
            return truth
        peopled = np.zeros(count, dtype=np.bool_)
        peopled[account] = True
        return Truth(peopled & ~truth.holds, truth.changes)

    def _of_items(self, planned: Planned, condition: Items) -> Truth:
        """Ask the reference about each distinct array, with the traits and reductions it is compared with."""
        columns: dict[str, Coded] = {}
        told = self._with_placeholders(planned, condition, columns)
        return asked.of_condition(told, columns, self._at, self._subjects.count)

    def _with_placeholders(self, planned: Planned, node: Any, columns: dict[str, Coded]) -> Any:
        """Return a tree that asks for nothing but traits, and the columns of these by their first key.

        Reductions become traits of names that nobody can write: they begin with a NUL.
        """
        if isinstance(node, Trait):
            columns[node.path[0]] = as_coded(self._trait(node.path[:1]))
            return node
        if isinstance(node, Reduce):
            name = f"\0{len(columns)}"
            columns[name] = as_coded(self._reductions.worth(planned, node))
            return Trait((name,))
        if isinstance(node, tuple):
            return tuple(self._with_placeholders(planned, part, columns) for part in node)
        if not isinstance(node, Node):
            return node
        return replace(
            node,
            **{
                field.name: self._with_placeholders(planned, getattr(node, field.name), columns)
                for field in fields(node)
            },
        )

    def _traits_in(self, node: Node) -> dict[str, Coded]:
        """Return the traits that a part of a definition asks for, by first key."""
        return {
            one.path[0]: as_coded(self._trait(one.path[:1])) for one in nodes(node) if isinstance(one, Trait)
        }


def _threshold(condition: Compare) -> int | None:
    """Return the number of events above and below which a comparison of their count has different answers."""
    operand = condition.operands[0] if len(condition.operands) == 1 else None
    given = number(operand.value) if isinstance(operand, Constant) else None
    if given is None:
        return None
    match condition.how:
        case "at_least" | "less_than":
            return ceil(min(given, EXACT))
        case "greater_than" | "at_most":
            return floor(min(given, EXACT)) + 1
        case _:
            return None
