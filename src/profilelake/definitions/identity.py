"""`definitions/identity.yaml`: which identifiers are read, how strong they are, and what may link."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args

from profilelake.definitions._patterns import blocks_everybody, fault_of
from profilelake.definitions._places import PLACES, custom_places, fault_of_path
from profilelake.definitions._written import dump
from profilelake.definitions._yaml import Document, InvalidDefinition, Problem, Value
from profilelake.semantics.identifiers import written
from profilelake.semantics.rules import (
    BLOCKED_EXACT,
    BLOCKED_PATTERNS,
    COLLECTIONS,
    DEGREE_MAX,
    Collection,
    Demotion,
    IdentityRules,
    Normaliser,
    TypeRule,
    segment_defaults,
)

__all__ = ["InvalidDefinition", "Problem", "dump", "load", "parse"]

TYPES_MAX: Final = 100
TYPE_CHARACTERS_MAX: Final = 100
PATHS_MAX: Final = 200
"""Paths of all types together."""
VALUES_MAX: Final = 1_000
"""Blocked values of all types together."""
PATTERNS_MAX: Final = 100
"""Blocked patterns of all types together."""
SOURCES_MAX: Final = 1_000
NUMBER_MAX: Final = 1_000_000
"""The greatest limit, priority, cap or degree."""
WINDOW_DAYS_MAX: Final = 3_660

_DAY_SECONDS: Final = 86_400
_DAYS_OF: Final = {"day": 1, "week": 7, "month": 30, "year": 365}
_DAYS: Final = re.compile(r"([1-9][0-9]{0,5}) days?")
_LIMIT: Final = 5
"""Limit of a type that names none."""
_LIMITS: Final[dict[str, int]] = {"user_id": 1, "group_id": 1}
_STRENGTHS: Final = {"user_id": 1, "email": 2, "group_id": 1}
"""Priorities of types that name none."""
_KEYS: Final = ("defaults", "demotion", "caps", "quarantine", "alias", "blocked", "priority", "types")
_TYPE_KEYS: Final = ("collection", "priority", "limit", "blocked", "custom", "paths", "normaliser")
_Word = TypeVar("_Word", bound=str)
_DEMOTIONS: Final[tuple[Demotion, ...]] = get_args(Demotion)
_NORMALISERS: Final[tuple[Normaliser, ...]] = get_args(Normaliser)
_DEFAULTS: Final[tuple[Literal["segment", "none"], ...]] = ("segment", "none")


def load(path: Path, version: int = 1) -> IdentityRules:
    """Return the rules in a file; where there is none, Segment's defaults.

    Raises:
        InvalidDefinition: it cannot be used; the error names everything that is wrong.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return replace(segment_defaults(), version=version)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem(line, "", f"byte {error.start} is not UTF-8; save the file as UTF-8")
        raise InvalidDefinition(str(path), [problem]) from error
    return parse(text, str(path), version)


def parse(text: str, name: str = "the rules", version: int = 1) -> IdentityRules:
    """Return the rules in a text; `name` is what errors call it. An empty text is Segment's defaults.

    Raises:
        InvalidDefinition: it cannot be used; the error names everything that is wrong.
    """
    document = Document(name)
    root = document.root(text)
    if root is None:
        return replace(segment_defaults(), version=version)
    rules = _Reader(document).rules(root, version)
    document.check()
    return rules


@dataclass(slots=True)
class _Blocked:
    values: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    none: bool = False
    """Nothing is blocked, whatever is blocked for all types."""


@dataclass(slots=True)
class _Type:
    """One type as the file has it; None where it says nothing."""

    name: str
    value: Value | None = None
    collection: Collection = "users"
    priority: int | None = None
    limit: int | None = _LIMIT
    window_days: int | None = None
    blocked: _Blocked = field(default_factory=_Blocked)
    custom: bool = False
    paths: tuple[str, ...] = ()
    normaliser: Normaliser | None = None


class _Reader:
    """Reads one document; whatever is wrong is noted there, and reading goes on."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._refuse = document.refuse
        self._values = self._patterns = self._paths = 0

    def rules(self, root: Value, version: int) -> IdentityRules:
        """Return the rules; they are good only if the document has no problems."""
        found = self._document.entries(root, _KEYS)
        defaults = self._one_of(found.get("defaults"), _DEFAULTS) or "segment"
        caps = self._section(found.get("caps"), ("identifiers", "merges"))
        quarantine = self._section(found.get("quarantine"), ("degree",))
        alias = self._section(found.get("alias"), ("sources",))
        blocked = _Blocked(BLOCKED_EXACT, BLOCKED_PATTERNS) if defaults == "segment" else _Blocked()
        if "blocked" in found:
            blocked = self._blocked(found["blocked"])
        names = [rule.type for rule in segment_defaults().types] if defaults == "segment" else []
        types = {name: _Type(name, limit=_LIMITS.get(name, _LIMIT)) for name in names}
        given = self._section(found.get("types"), None)
        if len(given) > TYPES_MAX:
            self._refuse(found["types"], f"{len(given)} types, the most is {TYPES_MAX}; keep those that link")
            given = {}
        types |= {name: self._type(name, value) for name, value in given.items()}
        for one in types.values():
            if one.name == "group_id":
                one.collection = "accounts"
        if not types:
            self._refuse(
                root, "no type is configured, so nobody is linked; name some under types", named=False
            )
        self._check_places(types)
        self._check_blocked(types, blocked)
        ordered = self._by_strength(types, found.get("priority"))
        return IdentityRules(
            version=version,
            types=tuple(_rule(one, place, blocked) for place, one in ordered),
            demotion=self._one_of(found.get("demotion"), _DEMOTIONS) or "minimal",
            identifiers_max=self._count(caps.get("identifiers")),
            merges_max=self._count(caps.get("merges")),
            degree_max=self._count(quarantine["degree"]) if "degree" in quarantine else DEGREE_MAX,
            alias_sources=frozenset(self._texts(alias.get("sources"), SOURCES_MAX)),
        )

    # ---- one type ----------------------------------------------------------------------------

    def _type(self, name: str, value: Value) -> _Type:
        one = _Type(name, value, limit=_LIMITS.get(name, _LIMIT))
        if len(name) > TYPE_CHARACTERS_MAX or not name.isprintable() or re.search(r"[\s:]", name):
            message = f"a type has 1 to {TYPE_CHARACTERS_MAX} printable characters, no spaces and no colon"
            self._refuse(value, message, named=False)
        found = self._section(value, _TYPE_KEYS)
        if "collection" in found:
            one.collection = self._one_of(found["collection"], COLLECTIONS) or "users"
            if name in PLACES and one.collection != _collection(name):
                self._refuse(found["collection"], f"{name} is read for {_collection(name)}; leave this out")
        if "priority" in found:
            one.priority = self._count(found["priority"], none=False)
        if "limit" in found:
            one.limit, one.window_days = self._limit(found["limit"])
        if "blocked" in found:
            one.blocked = self._blocked(found["blocked"])
        if "custom" in found:
            one.custom = self._one_of(found["custom"], ("true", "false")) == "true"
            if one.custom and name in PLACES:
                message = f"{name} is read from places of its own; give further ones as paths"
                self._refuse(found["custom"], message)
            elif one.custom and name != name.lower():
                message = (
                    "a custom type is lower case, as context.externalIds has it; camelCase keys are read too"
                )
                self._refuse(value, message, named=False)
        if "normaliser" in found:
            one.normaliser = self._one_of(found["normaliser"], _NORMALISERS)
        one.paths = tuple(self._type_paths(found.get("paths")))
        self._check_blocked_values(one, found.get("blocked"))
        return one

    def _limit(self, value: Value) -> tuple[int | None, int | None]:
        """Return how many values a profile may hold, and in how many days."""
        if value.text is not None:
            return self._count(value), None
        found = self._section(value, ("values", "per"))
        count = self._count(found["values"]) if "values" in found else None
        if "values" not in found:
            self._refuse(
                value, "a window needs how many values it takes: {values: 5, per: week}", named=False
            )
        elif count is None and "per" in found and found["values"].text == "none":
            self._refuse(
                value, "a window without a limit; write limit: none, or how many values", named=False
            )
        if "per" not in found:
            if "values" in found:
                self._refuse(value, "without `per` write the number alone: limit: 5", named=False)
            return count, None
        return count, self._days(found["per"])

    def _days(self, value: Value) -> int | None:
        text = value.text or ""
        if text in _DAYS_OF:
            return _DAYS_OF[text]
        written_days = _DAYS.fullmatch(text)
        days = int(written_days.group(1)) if written_days else 0
        if 1 <= days <= WINDOW_DAYS_MAX:
            return days
        self._refuse(
            value,
            f"windows are whole days: give {', '.join(_DAYS_OF)}, or 1 to {WINDOW_DAYS_MAX:,} as `14 days`",
        )
        return None

    def _blocked(self, value: Value) -> _Blocked:
        if value.text == "none":
            return _Blocked(none=True)
        found = self._section(value, ("values", "patterns"))
        values = self._texts(found.get("values"), VALUES_MAX - self._values)
        patterns = self._texts(
            found.get("patterns"), PATTERNS_MAX - self._patterns, lambda item: fault_of(item.text or "")
        )
        self._values += len(values)
        self._patterns += len(patterns)
        return _Blocked(frozenset(values), tuple(patterns))

    def _type_paths(self, value: Value | None) -> list[str]:
        paths = self._texts(value, PATHS_MAX - self._paths, lambda item: fault_of_path(item.text or ""))
        self._paths += len(paths)
        return paths

    # ---- what contradicts itself -------------------------------------------------------------

    def _check_blocked_values(self, one: _Type, value: Value | None) -> None:
        """Refuse blocked values that no identifier of the type can have."""
        normaliser = one.normaliser or ("email" if one.name == "email" else "none")
        for blocked in sorted(one.blocked.values):
            compared = written(normaliser, blocked)
            if value is not None and compared != blocked:
                message = f"{blocked!r} is never seen: values of {one.name} are compared as {compared!r}; write that"
                self._refuse(Value(f"{value.key}.values", value.node), message, named=False)

    def _check_blocked(self, types: dict[str, _Type], everywhere: _Blocked) -> None:
        """Refuse a type whose patterns block everybody together; each alone was looked at before."""
        for one in types.values():
            patterns = [*one.blocked.patterns, *(() if one.blocked.none else everywhere.patterns)]
            if one.value is not None and one.blocked.patterns and blocks_everybody(patterns):
                message = "its patterns together block every value, so it would link nobody; leave some out"
                self._refuse(one.value, message, named=False)

    def _check_places(self, types: dict[str, _Type]) -> None:
        """Refuse types that are read from one place: one value would be two identifiers of one person."""
        owner: dict[tuple[Collection, str], str] = {}
        for name, places in PLACES.items():
            owner |= {(_collection(name), place): name for place in places}
        for one in types.values():
            if one.value is None:
                continue
            own = custom_places(one.name) if one.custom and one.name not in PLACES else ()
            for place in (*own, *one.paths):
                other = owner.setdefault((one.collection, place), one.name)
                if other != one.name:
                    message = f"{place} is where {other} is read; one place is of one type"
                    self._refuse(one.value, message, named=False)
            for place in set(one.paths) & {*own, *PLACES.get(one.name, ())}:
                self._refuse(one.value, f"{place} is read already; leave it out", named=False)

    def _by_strength(self, types: dict[str, _Type], listed: Value | None) -> list[tuple[int, _Type]]:
        """Return the types with their priorities, users before accounts, the strongest first."""
        order = self._order(types, listed)
        if listed is None:
            self._check_priorities(types)
        ranked: list[tuple[int, _Type]] = []
        for collection in COLLECTIONS:
            mine = [one for one in types.values() if one.collection == collection]
            mine.sort(key=lambda one: (order.get(one.name, len(order)), _strength(one), one.name))
            ranked += enumerate(mine, start=1)
        return ranked

    def _order(self, types: dict[str, _Type], listed: Value | None) -> dict[str, int]:
        if listed is None:
            return {}
        order: dict[str, int] = {}
        for item in listed.items() or ():
            if item.text is None or item.text not in types:
                self._refuse(item, "no such type; name it under types")
            elif item.text in order:
                self._refuse(item, "named twice; keep one")
            else:
                order[item.text] = len(order)
        if listed.items() is None:
            self._refuse(listed, "write a list of types, the strongest first")
        for one in types.values():
            if one.priority is not None and one.value is not None:
                message = "there is a list `priority` too; order the types by one of both"
                self._refuse(Value(f"{one.value.key}.priority", one.value.node), message, named=False)
        return order

    def _check_priorities(self, types: dict[str, _Type]) -> None:
        taken: dict[tuple[Collection, int], str] = {}
        ordered = sorted(types.values(), key=lambda one: (one.priority is not None, one.name))
        for one in ordered:
            strength = one.priority or _STRENGTHS.get(one.name)
            if strength is None:
                continue
            other = taken.setdefault((one.collection, strength), one.name)
            if other != one.name and one.value is not None:
                default = ", by default," if types[other].priority is None else ""
                message = (
                    f"{other} has priority {strength}{default} too; give each its own,"
                    f" or write the order as a list: priority: [{one.name}, {other}]"
                )
                self._refuse(Value(f"{one.value.key}.priority", one.value.node), message, named=False)

    # ---- single values -----------------------------------------------------------------------

    def _section(self, value: Value | None, known: Iterable[str] | None) -> dict[str, Value]:
        return {} if value is None else self._document.entries(value, None if known is None else tuple(known))

    def _one_of(self, value: Value | None, known: tuple[_Word, ...]) -> _Word | None:
        """Return one of some words."""
        if value is None:
            return None
        for word in known:
            if value.text == word:
                return word
        self._refuse(value, f"give one of: {', '.join(known)}")
        return None

    def _count(self, value: Value | None, *, none: bool = True) -> int | None:
        """Return a number from 1 on, or None for `none`."""
        if value is None or (none and value.text == "none"):
            return None
        number = value.number()
        if number is None or not 1 <= number <= NUMBER_MAX:
            also = ", or none" if none else ""
            self._refuse(value, f"give a whole number from 1 to {NUMBER_MAX:,}{also}")
            return None
        return number

    def _texts(
        self, value: Value | None, most: int, fault: Callable[[Value], str | None] = lambda _: None
    ) -> list[str]:
        """Return the texts of a list, each once; `fault` says what is wrong with one."""
        if value is None or value.empty:
            return []
        items = value.items()
        if items is None:
            self._refuse(value, "write a list: [one, another]")
            return []
        if len(items) > most:
            self._refuse(value, f"{len(items)} entries, there is room for {most}; keep those that matter")
            return []
        found: list[str] = []
        for item in items:
            text = item.text
            wrong = "write a text; quote it where it is empty" if text is None else fault(item)
            if text in found:
                wrong = "it is there twice; keep one"
            if wrong is not None:
                self._refuse(item, wrong)
            elif text is not None:
                found.append(text)
        return found


def _collection(type: str) -> Collection:
    """Return the collection that a built-in type is read for."""
    return "accounts" if type == "group_id" else "users"


def _strength(one: _Type) -> int:
    return one.priority or _STRENGTHS.get(one.name) or NUMBER_MAX + 1


def _rule(one: _Type, priority: int, everywhere: _Blocked) -> TypeRule:
    common = _Blocked() if one.blocked.none else everywhere
    return TypeRule(
        type=one.name,
        priority=priority,
        collection=one.collection,
        limit=one.limit,
        window_seconds=None if one.window_days is None else one.window_days * _DAY_SECONDS,
        blocked_exact=common.values | one.blocked.values,
        blocked_patterns=tuple(dict.fromkeys((*common.patterns, *one.blocked.patterns))),
        custom=one.custom,
        paths=one.paths,
        normaliser=one.normaliser,
    )
