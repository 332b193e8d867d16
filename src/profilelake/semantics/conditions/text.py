"""The tree of a definition as text: one way to write each, which `parse` reads back to an equal tree."""

from typing import Final

from profilelake.semantics.conditions._lexer import NUMBER_MAX
from profilelake.semantics.conditions.paths import written_path
from profilelake.semantics.conditions.spoken_times import written_duration
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
    Node,
    Not,
    Or,
    Property,
    Reduce,
    Root,
    Session,
    Trait,
    Users,
    Window,
    Within,
)
from profilelake.semantics.conditions.vocabulary import SIGNS
from profilelake.semantics.times import format_time

SHOWN_CHARACTERS_MAX: Final = 60
"""Characters of a part of a definition that a message repeats."""

_SIGN_OF: Final = {how: sign for sign, how in SIGNS.items()}
_ESCAPED: Final = str.maketrans({"'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"})


def written(root: Root) -> str:
    """Return the canonical text of a tree, on one line."""
    return written_node(root)


def written_node(node: Node) -> str:
    """Return any part of a tree as it stands in the canonical text."""
    match node:
        case And(parts):
            return " AND ".join(_inside(part, Or, And) for part in parts)
        case Or(parts):
            return " OR ".join(_inside(part, Or) for part in parts)
        case Not(of):
            return f"NOT {_inside(of, Or, And)}"
        case Users(of, every):
            return f"{'ALL' if every else 'ANY'} {_inside(of, Or, And)}"
        case Items(value, of, every):
            return f"{written_node(value)}.{'all' if every else 'any'}({written_node(of)})"
        case Compare():
            return _comparison(node)
        case Reduce():
            return _reduction(node)
        case Events() | Entities():
            return _stream(node)
        case Within() | Between() | Session():
            return _window(node)
        case _:
            return _value(node)


def shown(node: Node) -> str:
    """Return a part of a tree as messages name it: its text, cut off where it is long."""
    text = written_node(node)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


def quoted(text: str) -> str:
    """Return a text in quotes."""
    return f"'{text.translate(_ESCAPED)}'"


def _inside(part: Condition, *bracketed: type[Node]) -> str:
    text = written_node(part)
    return f"({text})" if isinstance(part, bracketed) else text


def _comparison(node: Compare) -> str:
    value = written_node(node.value)
    sign = _SIGN_OF.get(node.how)
    if sign is not None:
        return f"{value} {sign} {written_node(node.operands[0])}"
    return f"{value}.{node.how}({', '.join(map(written_node, node.operands))})"


def _reduction(node: Reduce) -> str:
    of = _stream(node.of)
    if node.value is None:
        return f"{of}.{node.how}()"
    said = written_node(node.value)
    if node.as_type is not None:
        said += f" as {node.as_type}"
    if node.least != 1:
        said += f", {node.least}"
    return f"{of}.{node.how}({said})" + (".count()" if node.counted else "")


def _stream(node: Events | Entities) -> str:
    where = "" if node.where is None else f".where({written_node(node.where)})"
    if isinstance(node, Entities):
        return f"entity({quoted(node.slug)}){where}"
    sources = ", ".join(map(quoted, node.excluded))
    excluded = f".sources({{exclude: {sources}}})" if sources else ""
    window = "" if node.window is None else f".{_window(node.window)}"
    return f"event({quoted(node.name)}){where}{excluded}{window}"


def _window(node: Window) -> str:
    match node:
        case Within(micros, parent):
            return f"within({'parent: ' if parent else ''}{written_duration(micros)})"
        case Between(near, far):
            return f"between({written_duration(near)}, {written_duration(far)})"
        case Session(micros):
            return f"expires_after({written_duration(micros)})"


def _value(node: Node) -> str:
    match node:
        case Constant(value):
            return _constant(value)
        case Instant(at):
            return written_moment(at)
        case Duration(micros):
            return written_duration(micros)
        case Trait(path):
            return f"trait({quoted(written_path(path))})"
        case Context(path):
            return f"context({quoted(written_path(path))})"
        case Property(path, scope):
            parent = "parent: " if scope == "parent" else ""
            return f"property({parent}{quoted(written_path(path))})"
        case _:
            return type(node).__name__


def _constant(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= NUMBER_MAX:
        return str(int(value))
    return repr(value)


def written_moment(at: int) -> str:
    """Return a moment as the language writes it: a date where it is midnight UTC."""
    text = format_time(at)
    day, clock = text[:10], text[11:]
    if clock == "00:00:00.000000Z":
        return day
    return text.replace(".000000Z", "Z")
