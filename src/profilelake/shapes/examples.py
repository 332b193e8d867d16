"""What is shown of a value beside its type: its form, so that nobody's data stand in a list of columns."""

import re
from typing import Final

from profilelake.semantics import json_text
from profilelake.semantics.shapes import JsonType, ShapePart

EXAMPLE_CHARACTERS_MAX: Final = 40
PLAIN: Final = frozenset(
    {
        ("context", "library.name"),
        ("context", "library.version"),
        ("context", "app.name"),
        ("context", "app.version"),
        ("context", "app.build"),
        ("context", "os.name"),
        ("context", "os.version"),
        ("context", "device.type"),
        ("context", "device.manufacturer"),
        ("context", "network.carrier"),
        ("context", "locale"),
        ("context", "timezone"),
        ("properties", "currency"),
    }
)
"""Paths that Segment's specification gives to programs and places, not to people."""

_PLAIN_TEXT: Final = re.compile(r"[\w .,/+-]*", re.ASCII)
_CAPITAL, _SMALL, _DIGIT, _OTHER = (re.compile(mark) for mark in ("[A-Z]", "[a-z]", "[0-9]", r"[^\x00-\x7f]"))


def example(part: ShapePart, path: str, type: JsonType, text: str) -> str:
    """Return the form of a value, given as JSON: `Ana 7` is `Aaa 9`, `12.50` is `99.99`.

    Values are shown as they are only on the few paths that tell about programs, and true and false.
    """
    if type == "object":
        return "{…}"
    if type == "array":
        return "[…]" if text != "[]" else "[]"
    if type == "boolean":
        return text
    try:
        shown = str(json_text.value(text)) if type == "string" else text
    except json_text.NotJson:
        shown = text
    if (part, path) in PLAIN and len(shown) <= EXAMPLE_CHARACTERS_MAX and _PLAIN_TEXT.fullmatch(shown):
        return shown
    form = masked(shown[:EXAMPLE_CHARACTERS_MAX])
    if len(shown) > EXAMPLE_CHARACTERS_MAX:
        form += f"… ({len(shown)} characters)"
    return form


def masked(text: str) -> str:
    """Return a text with `A`, `a`, `9` and `x` in the place of capitals, small letters, digits and all others.

    Spaces, punctuation and symbols of ASCII stay: an address is told from a date by them.
    """
    for mark, instead in ((_CAPITAL, "A"), (_SMALL, "a"), (_DIGIT, "9"), (_OTHER, "x")):
        text = mark.sub(instead, text)
    return "".join(character if character.isprintable() else " " for character in text)
