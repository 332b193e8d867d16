"""From what people ask of definitions to facts: checked against what is defined, in an order that holds throughout.

Nothing is changed here. What is defined already, in words or in meaning, comes back as unchanged; what cannot
mean anything is refused with what to do instead. Facts are in such an order that after each of them every
definition finds what it reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import msgspec

from profilelake.audiences.definitions_now import said
from profilelake.audiences.facts import FACT_BYTES_MAX, Define, Drop, Fact, Resync, encode
from profilelake.audiences.sql_contract import ID_COLUMNS
from profilelake.definitions.names import NOTHING, Names
from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.semantics import definitions
from profilelake.semantics.conditions.check import check, cycles, reads, walk
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Entities, Root
from profilelake.semantics.definitions import (
    SQL_KINDS,
    Definition,
    Held,
    fault_of_key,
    last_versions,
    read_first,
    standing,
)
from profilelake.semantics.rules import EXTRACTION_VERSION
from profilelake.state.store import Tx

DEFINITIONS_MAX: Final = 1_000
"""Definitions of a workspace."""
NOTE_CHARACTERS_MAX: Final = 1_000

What: TypeAlias = Literal["new", "changed", "enabled", "disabled", "dropped", "resync"]


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, and why.

    `expected_version`: refuse it where another version holds; 0 means that there is none. `override`: also
    where a file says what is to hold.
    """

    note: str = ""
    expected_version: int | None = None
    override: bool = False


class AskDefine(_Asked, frozen=True, kw_only=True):
    """Let a definition hold for its key."""

    definition: Definition


class AskDrop(_Asked, frozen=True, kw_only=True):
    """Let there be no such definition."""

    key: str


class AskEnable(_Asked, frozen=True, kw_only=True):
    """Let a definition be computed."""

    key: str


class AskDisable(_Asked, frozen=True, kw_only=True):
    """Let a definition stand, but give nobody a value."""

    key: str


class AskResync(_Asked, frozen=True, kw_only=True):
    """Let everything a definition is worth be announced once more, to a destination or to all (empty)."""

    key: str
    destination: str = ""


Asked: TypeAlias = AskDefine | AskDrop | AskEnable | AskDisable | AskResync


@dataclass(frozen=True, slots=True)
class Defined:
    """What is defined in a workspace at one moment; `kinds` and `versions` also know keys that were dropped."""

    held: Mapping[str, Held]
    kinds: Mapping[str, definitions.Kind]
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one definition; `before` or `after` is None where there is none."""

    what: What
    before: Definition | None
    after: Definition | None

    @property
    def key(self) -> str:
        """The key it is about."""
        one = self.after or self.before
        return "" if one is None else one.key


@dataclass(frozen=True, slots=True)
class Decided:
    """What happens, the facts to record for it in their order, and what people should know."""

    changes: tuple[Change, ...]
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...] = ()


def load(tx: Tx, workspace: str) -> Defined:
    """Return what is defined in a workspace."""
    return defined(said(tx, workspace))


def defined(decisions: Sequence[definitions.Fact]) -> Defined:
    """Return what is defined after decisions."""
    kinds = {
        one.decision.definition.key: one.decision.definition.kind
        for one in decisions
        if isinstance(one.decision, definitions.Define)
    }
    return Defined(standing(decisions), kinds, last_versions(decisions))


def decide(asked: Sequence[Asked], known: Defined, by: str, names: Names = NOTHING) -> Decided:
    """Return what requests of `by` change together, and the facts that do it.

    `names` are those that are known in the lake: a key that is the name of a trait is warned of.

    Raises:
        Invalid: a definition cannot mean anything as it is, or several of them.
        NotFound: there is no definition to drop, enable, disable or announce.
        Conflict: another version holds than expected, a file says otherwise, the key is of another kind, or
            what would go is read by another definition.
    """
    before = {key: held.definition for key, held in known.held.items()}
    after, notes, resyncs, seen = dict(before), dict[str, str](), list[AskResync](), set[str]()
    for one in asked:
        key = one.definition.key if isinstance(one, AskDefine) else one.key
        if key in seen:
            raise Invalid(f"defining {key}: it is asked for twice at once; say it once")
        if len(one.note) > NOTE_CHARACTERS_MAX:
            raise Invalid(
                f"defining {key}: the note has {len(one.note):,} characters; {NOTE_CHARACTERS_MAX:,} are kept"
            )
        seen.add(key)
        notes[key] = one.note
        held = known.held.get(key)
        _check_version(key, held, one.expected_version)
        match one:
            case AskDefine():
                after[key] = _kept(_checked(one.definition, known), held, override=one.override)
            case AskDrop():
                _changeable(_of(held, key), "dropping", override=one.override)
                del after[key]
            case AskEnable() | AskDisable():
                enabled = isinstance(one, AskEnable)
                definition = _of(held, key)
                if definition.enabled != enabled:
                    _changeable(definition, "enabling" if enabled else "disabling", override=one.override)
                after[key] = replace(definition, enabled=enabled)
            case AskResync():
                if not _of(held, key).enabled:
                    raise Conflict(
                        f"announcing {key} again: it is disabled and worth nothing; enable it first"
                    )
                resyncs.append(one)
    # What held before may be in words of another program; it must not keep others from being changed.
    roots = {
        key: root_of(definition) if before.get(key) != definition else _readable(definition)
        for key, definition in after.items()
    }
    changes = [
        change
        for key in sorted(after.keys() | before.keys())
        if (change := _change(before.get(key), after.get(key))) is not None
    ]
    read = {
        key: frozenset() if root is None else _named(root) & known_keys(known, after)
        for key, root in roots.items()
    }
    _check_whole(changes, after, roots, read)
    _check_sense(changes, after, roots)
    made = _in_order(changes, before, read, notes, by)
    made += [Resync(by=by, note=one.note, key=one.key, destination=one.destination) for one in resyncs]
    changes += [Change("resync", before[one.key], before[one.key]) for one in resyncs]
    for fact in made:
        if len(encode(fact)) > FACT_BYTES_MAX:
            raise Invalid(f"defining: it takes more than {FACT_BYTES_MAX:,} bytes; say it in fewer words")
    return Decided(tuple(changes), tuple(made), tuple(_warnings(changes, read, names)))


def root_of(definition: Definition) -> Root | None:
    """Return the tree of a definition, None of one that is SQL.

    Raises:
        Invalid: its text cannot be read.
    """
    if definition.kind in SQL_KINDS:
        return None
    try:
        return parse(definition.query)
    except Invalid as error:
        raise Invalid(f"defining {definition.key}: {error}") from error


def same_meaning(one: Definition, other: Definition) -> bool:
    """Tell whether two definitions say the same, however they are written."""
    if one == other:
        return True
    if replace(one, query="") != replace(other, query=""):
        return False
    root = _readable(one)
    return root is not None and root == root_of(other)


def read_by(known: Defined, key: str) -> frozenset[str]:
    """Return the keys of the definitions that read one."""
    return frozenset(reader for reader, held in known.held.items() if key in _reads(held.definition))


def known_keys(known: Defined, after: Mapping[str, Definition]) -> frozenset[str]:
    """Return the keys that are or were those of definitions: reading one of them is reading its value."""
    return frozenset(known.kinds) | frozenset(after)


def entry_of(workspace: str, fact: Fact) -> Entry:
    """Return the entry of the event log that records a fact: no event, of no source."""
    return Entry(workspace, "", Kind.FACT, Flags.NONE, 0, EXTRACTION_VERSION, "", "", encode(fact))


def _check_version(key: str, held: Held | None, expected: int | None) -> None:
    now = 0 if held is None else held.version
    if expected is not None and expected != now:
        there = f"version {now} holds" if now else "there is none"
        raise Conflict(f"defining {key}: version {expected} was expected, {there}; load it again and retry")


def _of(held: Held | None, key: str) -> Definition:
    if held is None:
        raise NotFound(
            f"{key}: there is no such definition; `audience list` and `trait list` show what there is"
        )
    return held.definition


def _changeable(definition: Definition, doing: str, *, override: bool) -> None:
    if definition.managed_by and not override:
        raise Conflict(
            f"{doing} {definition.key}: {definition.managed_by} says what holds; change it there and run"
            " `profilelake apply`, or override it until then"
        )


def _checked(definition: Definition, known: Defined) -> Definition:
    """Return a definition that may be held by its key, whatever the others are."""
    fault = fault_of_key(definition.key)
    if fault is not None:
        raise Invalid(f"defining {definition.key[:100]!r}: {fault}")
    if definition.id_type and definition.id_type not in ID_COLUMNS:
        raise Invalid(
            f"defining {definition.key}: id {definition.id_type[:40]!r} is no column of ids; use one of"
            f" {', '.join(ID_COLUMNS)}"
        )
    kind = known.kinds.get(definition.key, definition.kind)
    if kind != definition.kind:
        raise Conflict(
            f"defining {definition.key}: this key is of a definition of kind {kind}, and a key never changes its"
            f" kind, even after it was dropped; give the new {definition.kind} another key"
        )
    held = known.held.get(definition.key)
    if held is not None and held.definition.target != definition.target:
        raise Conflict(
            f"defining {definition.key}: it is about {held.definition.target}, and that never changes; give what"
            f" is about {definition.target} another key"
        )
    return definition


def _kept(definition: Definition, held: Held | None, *, override: bool) -> Definition:
    """Return a definition as it is to be held, the one that holds already where it says nothing else."""
    if held is None:
        return definition
    before = held.definition
    # What a file manages is the file's until it lets go, also where somebody overrides it meanwhile.
    marked = replace(definition, managed_by=definition.managed_by or before.managed_by)
    moved = replace(marked, managed_by=before.managed_by) if before.managed_by else marked
    if same_meaning(before, moved):
        return before
    if not definition.managed_by:
        _changeable(before, "defining", override=override)
    return marked


def _change(before: Definition | None, after: Definition | None) -> Change | None:
    if before == after:
        return None
    if before is None:
        return Change("new", None, after)
    if after is None:
        return Change("dropped", before, None)
    if replace(before, enabled=after.enabled) == after:
        return Change("enabled" if after.enabled else "disabled", before, after)
    return Change("changed", before, after)


def _check_whole(
    changes: Sequence[Change],
    after: Mapping[str, Definition],
    roots: Mapping[str, Root | None],
    read: Mapping[str, frozenset[str]],
) -> None:
    """Refuse what cannot hold together."""
    if len(after) > DEFINITIONS_MAX:
        raise Conflict(f"defining: that would be {len(after):,} definitions, the most is {DEFINITIONS_MAX:,}")
    going = {change.key for change in changes if change.what == "dropped"}
    changed = {change.key for change in changes}
    for key in sorted(going):
        readers = sorted(reader for reader, keys in read.items() if key in keys and reader not in changed)
        if readers:
            raise Conflict(
                f"dropping {key}: {', '.join(readers)} read{'s' if len(readers) == 1 else ''} it; drop or change"
                " what reads it at the same time"
            )
    for key in sorted(changed - going):
        gone = sorted(read[key] - after.keys())
        if gone:
            raise Invalid(
                f"defining {key}: it reads {', '.join(gone)}, which was dropped; read something else"
            )
    turning = cycles({key: root for key, root in roots.items() if root is not None})
    if turning:
        circle = " -> ".join([*turning[0], turning[0][0]])
        raise Invalid(
            f"defining {turning[0][0]}: definitions read each other in a circle: {circle}; break it"
        )


def _check_sense(
    changes: Sequence[Change], after: Mapping[str, Definition], roots: Mapping[str, Root | None]
) -> None:
    """Refuse definitions that can be read but make no sense, all of them at once."""
    told = []
    for change in changes:
        root = roots.get(change.key)
        if change.after is None or root is None:
            continue
        kind: Literal["audience", "trait"] = "audience" if change.after.kind == "audience" else "trait"
        known = NOTHING.known(change.after.target, after.values())
        told += [
            f"defining {change.key}: {finding.shown(change.after.query)}"
            for finding in check(root, kind=kind, target=change.after.target, known=known)
            if finding.severity == "error"
        ]
    if told:
        raise Invalid("\n".join(told))


def _in_order(
    changes: Sequence[Change],
    before: Mapping[str, Definition],
    read: Mapping[str, frozenset[str]],
    notes: Mapping[str, str],
    by: str,
) -> list[Fact]:
    """Return the facts of changes: what is read is defined before what reads it, and dropped after it.

    So nothing reads what is not there, nor do definitions turn in a circle, after any of the facts: one that is
    new reads only what is as it will be.
    """
    by_key = {change.key: change for change in changes}
    made: list[Fact] = []
    for key in read_first(by_key, read):
        definition = by_key[key].after
        if definition is not None:
            made.append(Define(by=by, note=notes.get(key, ""), definition=definition))
    gone = {key: before[key] for key, change in by_key.items() if change.after is None}
    read_before = {key: _reads(definition) for key, definition in gone.items()}
    made += [Drop(by=by, note=notes.get(key, ""), key=key) for key in reversed(read_first(gone, read_before))]
    return made


def _reads(definition: Definition) -> frozenset[str]:
    root = _readable(definition)
    return frozenset() if root is None else _named(root)


def _named(root: Root) -> frozenset[str]:
    """Return the keys that a definition asks for: traits, and entities."""
    return reads(root) | {node.slug for node in walk(root) if isinstance(node, Entities)}


def _readable(definition: Definition) -> Root | None:
    try:
        return root_of(definition)
    except Invalid:
        return None


def _warnings(changes: Sequence[Change], read: Mapping[str, frozenset[str]], names: Names) -> list[str]:
    told = []
    for change in changes:
        if (
            change.what == "new"
            and change.after is not None
            and change.key in names.traits(change.after.target)
        ):
            told.append(
                f"{change.key}: profiles have a trait of this name already; from now on the definition's value is"
                " shown in its place"
            )
        readers = sorted(reader for reader, keys in read.items() if change.key in keys)
        if change.what == "disabled" and readers:
            told.append(f"{change.key}: {', '.join(readers)} read it, and find nothing while it is disabled")
    return told
