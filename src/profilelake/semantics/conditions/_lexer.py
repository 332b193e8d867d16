"""The words of the language: texts in quotes, numbers, dates, names and signs, each with its place."""

import re
import unicodedata
from enum import Enum
from typing import Final, NamedTuple

from profilelake.semantics.conditions.pointing import ParseError
from profilelake.semantics.conditions.tree import Span

NUMBER_MAX: Final = 2**53
"""Whole numbers up to here are exact in every engine; greater ones are kept as the nearest double."""
_DIGITS_MAX: Final = 400
_SHOWN_CHARACTERS_MAX: Final = 40


class Kind(Enum):
    """What a word is."""

    TEXT = "a text"
    NUMBER = "a number"
    DATE = "a date"
    NAME = "a name"
    SIGN = "a sign"
    END = "the end"


class Token(NamedTuple):
    """One word. `text` is what it says: a text without its quotes, a sign in its plain spelling."""

    kind: Kind
    text: str
    span: Span
    raw: str

    @property
    def number(self) -> int | float:
        """The number a NUMBER says."""
        if self.text.removeprefix("-").isdigit() and abs(whole := int(self.text)) <= NUMBER_MAX:
            return whole
        return float(self.text)

    def shown(self) -> str:
        """Return the word as errors name it."""
        if self.kind is Kind.END:
            return "the end"
        raw = " ".join(self.raw.split())
        return raw if len(raw) <= _SHOWN_CHARACTERS_MAX else f"{raw[:_SHOWN_CHARACTERS_MAX]}…"


_WORD: Final = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}
        (?:[Tt][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?(?![0-9]))
  | (?P<number>-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
  | (?P<name>[^\W\d]\w*)
  | (?P<sign>==|=|!=|<>|>=|<=|>|<|[≠≥≤(){}\[\].,:])
    """,
    re.VERBOSE,
)
_CLOSING: Final = {  # texts copied from a document have curly quotes
    "'": "'",
    '"': '"',
    "\u2018": "\u2019",
    "\u201c": "\u201d",
}
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_PLAIN: Final = {"==": "=", "<>": "!=", "≠": "!=", "≥": ">=", "≤": "<="}
_HINTS: Final = {
    "&": "write AND",
    "|": "write OR",
    "!": "write NOT before a condition, or != between two values",
    "\u2019": "a text begins with ' or \"",
    "\u201d": "a text begins with ' or \"",
    "`": "put texts in ' or \"",
    ";": "a definition is one expression; leave it out",
    "+": "write a positive number without a sign",
    "-": "there is no subtraction; a negative number is written -5",
    "*": "there is no arithmetic; compute it where the event is made",
    "/": "there is no arithmetic; compute it where the event is made",
    "$": "paths stand in quotes: property('products.$.price')",
}


def tokens(text: str) -> list[Token]:
    """Return the words of a text, the last of them END.

    Raises:
        ParseError: something is no word of the language.
    """
    found = []
    at = 0
    while at < len(text):
        character = text[at]
        _refuse_unstorable(text, at)
        if character in _CLOSING:
            token = _quoted(text, at)
            found.append(token)
            at = token.span[1]
            continue
        match = _WORD.match(text, at)
        if match is None:
            raise _unexpected(text, at)
        if match.lastgroup != "space":
            found.append(_word(text, match))
        at = match.end()
    found.append(Token(Kind.END, "", (len(text), len(text)), ""))
    return found


def _word(text: str, match: re.Match[str]) -> Token:
    raw = match.group()
    if match.lastgroup == "sign":
        return Token(Kind.SIGN, _PLAIN.get(raw, raw), match.span(), raw)
    if match.lastgroup == "name":
        return Token(Kind.NAME, raw.lower(), match.span(), raw)
    if match.lastgroup == "date":
        return Token(Kind.DATE, raw, match.span(), raw)
    token = Token(Kind.NUMBER, raw, match.span(), raw)
    if len(raw) > _DIGITS_MAX or abs(float(raw)) == float("inf"):
        raise ParseError(text, token.span, "this number is greater than any that can be compared")
    return token


def _quoted(text: str, start: int) -> Token:
    closing = _CLOSING[text[start]]
    said: list[str] = []
    at = start + 1
    while at < len(text):
        character = text[at]
        if character == closing:
            return Token(Kind.TEXT, "".join(said), (start, at + 1), text[start : at + 1])
        if character in "\r\n":
            break
        _refuse_unstorable(text, at)
        following = text[at + 1 : at + 2] or " "
        if character == "\\" and (following in _ESCAPES or following == closing):
            said.append(_ESCAPES.get(following, following))
            at += 2
            continue
        # Any other backslash stands for itself, so `\.` reaches the path, where it means a dot in a key.
        said.append(character)
        at += 1
    problem = f"this text has no end; close it with {closing} on the same line (a line break in it is \\n)"
    raise ParseError(text, (start, start + 1), problem, (closing,))


def _refuse_unstorable(text: str, at: int) -> None:
    character = text[at]
    if character == "\0" or "\ud800" <= character <= "\udfff":
        problem = f"the character U+{ord(character):04X} cannot stand in a definition; remove it"
        raise ParseError(text, (at, at + 1), problem)


def _unexpected(text: str, at: int) -> ParseError:
    character = text[at]
    name = unicodedata.name(character, "")
    code = f"U+{ord(character):04X}"
    if character in _HINTS:
        return ParseError(text, (at, at + 1), f"unexpected {character}; {_HINTS[character]}")
    shown = f"{code} {name}".rstrip()
    return ParseError(text, (at, at + 1), f"unexpected character {shown}; it can stand only in quotes")
