"""A YAML text as sections that know their lines, and everything that is wrong with it.

Of YAML this takes what a person writes by hand: mappings, lists and scalars, no anchors, aliases or tags.
A scalar is the text that was written, so `null` and `-1` in a list of values need no quotes.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

import yaml

from profilelake.errors import Invalid

FILE_BYTES_MAX: Final = 256 * 1024
"""Bytes of one file."""
LEVELS_MAX: Final = 8
"""Levels of mappings and lists in one file."""
PROBLEMS_MAX: Final = 100
"""Problems of one file that are told at once."""
SHOWN_CHARACTERS_MAX: Final = 60

_NUMBER: Final = re.compile(r"0|[1-9][0-9_]{0,17}")
DIGITS_MAX: Final = 400
"""Digits of a number; no number that is stored has more."""
_JSON_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong: its line, the dotted key it stands under, its value, and what to do."""

    line: int
    key: str
    message: str
    value: str = ""

    def __str__(self) -> str:
        place = " = ".join(part for part in (self.key, self.value) if part)
        return f"line {self.line}: {place}: {self.message}" if place else f"line {self.line}: {self.message}"


class InvalidDefinition(Invalid):
    """A file of definitions that cannot be used, and all that is wrong with it."""

    def __init__(self, name: str, problems: Collection[Problem]) -> None:
        found = sorted(problems)
        told = [f"  {problem}" for problem in found[:PROBLEMS_MAX]]
        if len(found) > PROBLEMS_MAX:
            told.append(f"  and {len(found) - PROBLEMS_MAX} more")
        count = "1 error" if len(found) == 1 else f"{len(found)} errors"
        super().__init__("\n".join([f"reading {name}: {count}; nothing was changed", *told]))
        self.name = name
        self.problems = tuple(found)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the file, and where it stands."""

    key: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """Its line in the file, from 1."""
        return int(self.node.start_mark.line) + 1

    def line_of_text(self, number: int) -> int:
        """Return the line in the file on which a line of the text stands, counted from 0 without empty ones before."""
        if not isinstance(self.node, yaml.ScalarNode) or self.node.style != "|":
            return self.line + (
                number if isinstance(self.node, yaml.ScalarNode) and not self.node.style else 0
            )
        before = str(self.node.value)[: len(self.node.value) - len(self.node.value.lstrip())]
        return self.line + 1 + before.count("\n") + number

    @property
    def text(self) -> str | None:
        """A scalar as it was written, None for anything else, and for one that is empty."""
        if isinstance(self.node, yaml.ScalarNode) and (self.node.value or self.node.style):
            return str(self.node.value)
        return None

    @property
    def empty(self) -> bool:
        """Whether nothing stands behind the key."""
        return isinstance(self.node, yaml.ScalarNode) and not self.node.value and not self.node.style

    def number(self) -> int | None:
        """Return a whole number that is not negative, None where it is something else."""
        plain = isinstance(self.node, yaml.ScalarNode) and self.node.style is None
        if not plain or not _NUMBER.fullmatch(self.node.value):
            return None
        return int(self.node.value.replace("_", ""))

    def items(self) -> "list[Value] | None":
        """Return the items of a list, None where it is none."""
        if not isinstance(self.node, yaml.SequenceNode):
            return None
        return [Value(f"{self.key}[{place}]", node) for place, node in enumerate(self.node.value)]

    def shown(self) -> str:
        """Return the value as errors name it: short, on one line."""
        if isinstance(self.node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        text = repr(str(self.node.value))[1:-1]
        return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


@dataclass(slots=True)
class Document:
    """The file that is being read. What is wrong gathers in `problems`; at the end `check` raises."""

    name: str
    problems: list[Problem] = field(default_factory=list)
    levels_max: int = LEVELS_MAX

    def refuse(self, value: Value, message: str, *, named: bool = True) -> None:
        """Note that a value is wrong; `message` says what to do."""
        shown = value.shown() if named and value.key and not value.empty else ""
        self.problems.append(Problem(value.line, value.key, message, shown))

    def refuse_at(self, line: int, key: str, message: str) -> None:
        """Note that something within a value is wrong, on a line of its own."""
        self.problems.append(Problem(line, key, message))

    def check(self) -> None:
        """Raise `InvalidDefinition` if anything was wrong."""
        if self.problems:
            raise InvalidDefinition(self.name, self.problems)

    def root(self, text: str) -> Value | None:
        """Return the root of the text, None where it is empty.

        Raises:
            InvalidDefinition: it is not YAML, or uses more of YAML than is taken.
        """
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > FILE_BYTES_MAX:
            message = f"the file has {size:,} bytes, the most is {FILE_BYTES_MAX:,}; say it in fewer"
            raise InvalidDefinition(self.name, [Problem(1, "", message)])
        try:
            node = _composed(text, self.levels_max)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = 1 if mark is None else mark.line + 1
            said = ": ".join(part for part in (error.context, error.problem) if part)
            raise InvalidDefinition(
                self.name, [Problem(line, "", f"not YAML as taken here: {said}")]
            ) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            message = f"character U+{int(error.character):04X} cannot stand in YAML; remove it"
            raise InvalidDefinition(self.name, [Problem(line, "", message)]) from error
        return None if node is None or Value("", node).empty else Value("", node)

    def entries(self, value: Value, known: Collection[str] | None = None) -> dict[str, Value]:
        """Return the members of a mapping by key; with `known`, keys that are not are refused."""
        if value.empty:
            return {}
        if not isinstance(value.node, yaml.MappingNode):
            self.refuse(value, "write a mapping here: `key: value`")
            return {}
        found: dict[str, Value] = {}
        for key, member in self._members(value.node, value.key):
            name = member.key.removeprefix(f"{value.key}.") if value.key else member.key
            if name in found:
                self.refuse(key, f"line {found[name].line} says it too; keep one of the two", named=False)
            elif known is not None and name not in known:
                near = difflib.get_close_matches(name, known, 1) if len(self.problems) < PROBLEMS_MAX else []
                meant = f"did you mean {near[0]}? " if near else ""
                self.refuse(key, f"unknown key; {meant}known here: {', '.join(known)}", named=False)
            else:
                found[name] = member
        return found

    def json(self, value: Value) -> Any:
        """Return a value as JSON has it: plain words such as `3`, `true` and `null` are what they mean."""
        if isinstance(value.node, yaml.MappingNode):
            return {name: self.json(member) for name, member in self.entries(value).items()}
        items = value.items()
        if items is not None:
            return [self.json(item) for item in items]
        text, kind = str(value.node.value), value.node.tag.rpartition(":")[2]
        if kind == "int" and len(text) > DIGITS_MAX:
            self.refuse(value, f"a number has at most {DIGITS_MAX} digits")
            return None
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int" and _JSON_NUMBER.fullmatch(text):
            return int(text)
        if kind == "float" and _JSON_NUMBER.fullmatch(text) and isfinite(float(text)):
            return float(text)
        return text

    def _members(self, node: Any, path: str) -> Iterator[tuple[Value, Value]]:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                self.refuse(Value(path, key), "a key must be a word")
                continue
            full = f"{path}.{key.value}" if path else str(key.value)
            yield Value(full, key), Value(full, value)


def _composed(text: str, levels_max: int) -> yaml.Node | None:
    loader = _Loader(text, levels_max)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Composes nodes and constructs nothing; what could grow without end is refused on the way."""

    def __init__(self, text: str, levels_max: int) -> None:
        super().__init__(text)
        self._levels_max = levels_max
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not taken; write the value itself",
                problem_mark=event.start_mark,
            )
        if self._level == self._levels_max:
            raise yaml.MarkedYAMLError(
                problem=f"there are more than {self._levels_max} levels; say it flatter",
                problem_mark=event.start_mark,
            )
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is not None and node.tag not in _TAGS:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {node.tag} is not taken; leave it out", problem_mark=node.start_mark
            )
        return node
