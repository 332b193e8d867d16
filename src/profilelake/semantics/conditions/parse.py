"""The text of a definition as a tree: Segment's query language, by recursive descent.

    either := both (OR both)*          both := one (AND one)*          one := (NOT | ANY | ALL) one | compared
    compared := chain (sign operand)?  chain := first (.name(...))*    first := ( either ) | extractor | literal

Anything may be any text: what is no condition is a `ParseError` that points at the place, and nothing else.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeAlias

from profilelake.semantics.conditions._lexer import Kind, Token
from profilelake.semantics.conditions._parts import Parts
from profilelake.semantics.conditions.bounds import LEVELS_MAX, TEXT_BYTES_MAX, too_much
from profilelake.semantics.conditions.pointing import ParseError
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    Compare,
    Comparison,
    Condition,
    Constant,
    Context,
    Entities,
    Events,
    How,
    Instant,
    Items,
    Not,
    Operand,
    Or,
    Property,
    Reduce,
    Root,
    Scope,
    Span,
    Trait,
    Users,
    Value,
)
from profilelake.semantics.conditions.values import instant
from profilelake.semantics.conditions.vocabulary import (
    COMPARISONS,
    DATED,
    EXTRACTORS,
    FILTERS,
    LEAST_MAX,
    REDUCERS,
    SEVERAL,
    SIGNS,
)

__all__ = ["ParseError", "parse"]

_Part: TypeAlias = Condition | Value | Events | Entities
_TEXT_LEVELS_MAX: Final = LEVELS_MAX + 8
"""Brackets, `NOT` and operands inside of each other: a few more than a tree has levels."""


def parse(text: str) -> Root:
    """Return the tree of a definition: a condition for an audience, a reduction for a computed trait.

    Whether it makes sense for a profile, and for what there is in the lake, is asked by `check`.

    Raises:
        ParseError: the text is no definition, or larger than one may be.
    """
    return _read(text, "event")


def parse_element(text: str) -> Root:
    """Return the tree of a condition on the elements of an array, whose properties are those of the element."""
    return _read(text, "item")


def _read(text: str, scope: Scope) -> Root:
    if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES_MAX:
        problem = f"the definition is longer than {TEXT_BYTES_MAX:,} bytes; split it into several"
        raise ParseError(text[:TEXT_BYTES_MAX], (0, 1), problem)
    return _Parser(text, scope).everything()


class _Parser(Parts):
    """The grammar. A method reads what it is named after and leaves the next word to its caller."""

    def __init__(self, text: str, scope: Scope) -> None:
        super().__init__(text)
        self._scope: Scope = scope
        self._level = 0

    def everything(self) -> Root:
        if self.at_end():
            raise self.missing("a condition or a reduction, such as trait('plan') = 'pro'")
        found = self._either()
        if not self.at_end():
            raise self.missing("AND, OR or the end", expected=("AND", "OR", "."))
        root = found if isinstance(found, Reduce) else self._condition(found)
        beyond = too_much(root)
        if beyond is not None:
            raise self.wrong(*beyond)
        return root

    # Conditions

    def _either(self) -> _Part:
        with self._deeper():
            first = self._both()
            parts = [first]
            while self.took(Kind.NAME, "or"):
                parts.append(self._both())
            if len(parts) == 1:
                return first
            return Or(tuple(map(self._condition, parts)), span=self._since(first))

    def _both(self) -> _Part:
        first = self._one()
        parts = [first]
        while self.took(Kind.NAME, "and"):
            parts.append(self._one())
        if len(parts) == 1:
            return first
        return And(tuple(map(self._condition, parts)), span=self._since(first))

    def _one(self) -> _Part:
        start = self.now.span[0]
        for word in ("not", "any", "all"):
            if self.took(Kind.NAME, word):
                with self._deeper():
                    of = self._condition(self._one())
                span = (start, self.end)
                return Not(of, span=span) if word == "not" else Users(of, word == "all", span=span)
        return self._compared()

    def _compared(self) -> _Part:
        left = self._chain()
        if self.now.kind is not Kind.SIGN or self.now.text not in SIGNS:
            return left
        sign = self.take()
        how = SIGNS[sign.text]
        value = self._value(left, sign.span)
        return self._comparison(value, how, (self._operand(),))

    def _condition(self, part: _Part) -> Condition:
        """Return a part as a condition, or say what makes one of it."""
        if isinstance(part, Compare | Items | Not | And | Or | Users):
            return part
        if isinstance(part, Events | Entities):
            raise self.wrong(
                part, f"{self._of(part)} is no condition yet; add .count() >= 1", (".count() >= 1",)
            )
        if isinstance(part, Reduce):
            raise self.wrong(part, "this is a value, no condition; compare it: add >= 1", (">= 1",))
        if isinstance(part, Constant | Instant):
            raise self.wrong(part, "a value alone is no condition; compare it with something", ("=",))
        hint = "for an audience add = true, else compare it or add .exists()"
        if not isinstance(part, Trait):
            hint = "compare it, or add .exists()"
        raise self.wrong(part, f"this is a value, no condition; {hint}", ("= true", ".exists()"))

    # Values

    def _chain(self) -> _Part:
        part = self._first()
        while self.took(Kind.SIGN, "."):
            name = self.kind(Kind.NAME, "the name of a function, such as count()")
            self.sign("(", why=f" behind {name.raw}")
            part = self._called(part, name)
        return part

    def _first(self) -> _Part:
        token = self.now
        if self.took(Kind.SIGN, "("):
            inner = self._either()
            self.sign(")", why=" to close the bracket")
            return inner
        if token.kind in (Kind.TEXT, Kind.NUMBER, Kind.DATE):
            return self.literal()
        if token.kind is not Kind.NAME:
            raise self.missing("event(…), trait(…), property(…) or a value")
        if self.follows(Kind.SIGN, "(", after=1):
            return self._extractor(self.take())
        if token.text in ("true", "false"):
            return self.literal()
        raise self.wrong(token.span, self._bare(token), EXTRACTORS)

    def _bare(self, token: Token) -> str:
        """Return what to say of a name that is no extractor."""
        if token.text in EXTRACTORS:
            return f"expected ( behind {token.raw}: write {token.text}('name')"
        if token.text in ("null", "none", "undefined"):
            return "there is no null; ask with .exists() or .absent()"
        if token.text in ("and", "or"):
            return f"expected a condition before {token.raw.upper()}"
        return f"{token.shown()} is no value; put texts in quotes: '{token.shown()}'"

    def _extractor(self, name: Token) -> _Part:
        if name.text not in EXTRACTORS:
            near = _nearest(name.text, EXTRACTORS)
            raise self.wrong(name.span, f"unknown function {name.shown()}(){near}", EXTRACTORS)
        self.sign("(")
        part: _Part
        match name.text:
            case "event":
                part = Events(self.named("the name of an event in quotes"))
            case "entity":
                part = Entities(self.named("the slug of an entity in quotes"))
            case "trait":
                part = Trait(self.path("trait"))
            case "context":
                part = Context(self.path("context"))
            case "property":
                parent = self.took_parent()
                part = Property(self.path("property"), "parent" if parent else self._scope)
            case _:
                part = self.literal()
        self.sign(")", why=f" to close {name.text}(")
        return replace(part, span=(name.span[0], self.end))

    # Functions in a chain

    def _called(self, part: _Part, name: Token) -> _Part:
        """Read the arguments of a function of a chain, the opening bracket taken, and the closing one."""
        function = self._function(part, name)
        start = part.span[0] if part.span else name.span[0]
        found = function()
        self.sign(")", why=f" to close {name.text}(")
        return replace(found, span=(start, self.end))

    def _function(self, part: _Part, name: Token) -> Callable[[], _Part]:
        """Return the reader of a function's arguments, or say why it cannot stand behind a part."""
        word = name.text
        if isinstance(part, Events | Entities):
            return self._function_of_events(part, name)
        if isinstance(part, Compare | Items | Not | And | Or | Users):
            raise self.wrong(
                name.span, f".{word}() stands behind a condition, which is complete", ("AND", "OR")
            )
        if word in COMPARISONS:
            return lambda: self._comparison_called(part, word)
        if isinstance(part, Reduce):
            if word == "count" and part.how == "unique" and not part.counted:
                return lambda: replace(part, counted=True)
            if word in FILTERS:
                raise self.wrong(name.span, f".{word}() must stand before .{part.how}()", ("=",))
        elif word in ("any", "all") and isinstance(part, Property | Context | Trait):
            return lambda: self._items(part, word == "all")
        elif word in (*FILTERS, *REDUCERS):
            raise self.wrong(name.span, f".{word}() is for event(…) and entity(…)", COMPARISONS)
        raise self._unknown(name, COMPARISONS)

    def _function_of_events(self, part: Events | Entities, name: Token) -> Callable[[], _Part]:
        word = name.text
        if word in REDUCERS:
            return lambda: self._reduced(part, word)
        if word == "where":
            return lambda: self._filtered(part)
        if word in FILTERS and isinstance(part, Events):
            return lambda: self._narrowed(part, word, name.span)
        if word in COMPARISONS:
            problem = f".{word}() compares one value, {self._of(part)} gives many; count first: .count() >= 1"
            raise self.wrong(name.span, problem, REDUCERS)
        raise self._unknown(name, (*FILTERS, *REDUCERS) if isinstance(part, Events) else ("where", *REDUCERS))

    def _unknown(self, name: Token, known: tuple[str, ...]) -> ParseError:
        return self.wrong(name.span, f"unknown function .{name.shown()}(){_nearest(name.text, known)}", known)

    def _filtered(self, of: Events | Entities) -> Events | Entities:
        with self._inside("event"):
            more = self._condition(self._either())
        if of.where is None:
            return replace(of, where=more)
        # A further `where` asks for more of the same events.
        before = of.where.parts if isinstance(of.where, And) else (of.where,)
        after = more.parts if isinstance(more, And) else (more,)
        return replace(of, where=And((*before, *after), span=of.where.span))

    def _narrowed(self, of: Events, word: str, place: Span) -> Events:
        if word == "sources":
            return replace(of, excluded=tuple(sorted({*of.excluded, *self.sources()})))
        if of.window is not None:
            raise self.wrong(place, "these events have a window already; keep one of the two", (".count()",))
        return replace(of, window=self.window(word))

    def _reduced(self, of: Events | Entities, how: How) -> Reduce:
        if how == "count":
            return Reduce(of, "count")
        with self._inside("event"):
            value = self._extractor(self.take()) if self.follows(Kind.NAME, "property") else None
        if not isinstance(value, Property):
            raise self.missing(f"a property, as in {how}(property('price'))", expected=("property(",))
        as_type, least = None, 1
        if self.took(Kind.NAME, "as"):
            as_type = self.as_type(how)
        if how == "mode" and self.took(Kind.SIGN, ","):
            token = self.kind(Kind.NUMBER, "how often the value occurs at least, such as 2")
            if not isinstance(token.number, int) or not 0 <= token.number <= LEAST_MAX:
                raise self.wrong(token.span, f"expected a whole number up to {LEAST_MAX:,}", ("2",))
            least = token.number
        return Reduce(of, how, value, as_type, least)

    def _items(self, value: Property | Context | Trait, every: bool) -> Items:
        with self._inside("item"):
            return Items(value, self._condition(self._either()), every)

    # Comparisons

    def _comparison_called(self, value: Value, how: Comparison) -> Compare:
        if how in ("exists", "absent"):
            return self._comparison(value, how, ())
        if how in RELATIVE:
            return self._comparison(value, how, (self.duration(),))
        if self.follows(Kind.SIGN, ")"):
            raise self.missing(f"a value in {how}()")
        listed = how in SEVERAL and self.took(Kind.SIGN, "[")
        operands: list[Operand] = [self._operand()]
        while how in SEVERAL and self.took(Kind.SIGN, ","):
            operands.append(self._operand())
        if listed:
            self.sign("]")
        return self._comparison(value, how, tuple(operands))

    def _operand(self) -> Operand:
        place = self.now.span
        with self._deeper():
            return self._value(self._chain(), place)

    def _value(self, part: _Part, place: Span) -> Value:
        """Return a part as a value that can be compared, or say what makes one of it."""
        if isinstance(part, Events | Entities):
            raise self.wrong(place, f"{self._of(part)} is no value yet; count first: .count()", (".count()",))
        if isinstance(part, Compare | Items | Not | And | Or | Users):
            raise self.wrong(
                place, "a condition cannot be compared with a value; join conditions by AND or OR"
            )
        return part

    def _comparison(self, value: Value, how: Comparison, operands: tuple[Operand, ...]) -> Compare:
        if how in DATED:
            operands = tuple(map(_moment, operands))
            value = _moment(value)
        else:
            # Elsewhere a date is the text it was written as: a date has no other form to be equal to.
            operands = tuple(map(_as_text, operands))
            value = _as_text(value)
        return Compare(value, how, operands, span=self._since(value))

    # Places

    def _of(self, part: Events | Entities) -> str:
        return "event(…)" if isinstance(part, Events) else "entity(…)"

    def _since(self, first: _Part) -> Span:
        return (first.span[0] if first.span else 0, self.end)

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._level += 1
        if self._level > _TEXT_LEVELS_MAX:
            problem = f"brackets lie more than {_TEXT_LEVELS_MAX} deep; split it into several definitions"
            raise self.wrong(self.now.span, problem)
        yield
        self._level -= 1

    @contextmanager
    def _inside(self, scope: Scope) -> Iterator[None]:
        before, self._scope = self._scope, scope
        yield
        self._scope = before


def _moment(operand: Any) -> Any:
    """Return a text that is a moment as one; other texts are left to `check` to refuse."""
    if isinstance(operand, Constant) and isinstance(operand.value, str):
        at = instant(operand.value)
        return operand if at is None else Instant(at, operand.value, span=operand.span)
    return operand


def _as_text(operand: Any) -> Any:
    return Constant(operand.text, span=operand.span) if isinstance(operand, Instant) else operand


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word.lower(), known, 1)
    return f"; did you mean {near[0]}()?" if near else f"; known here: {', '.join(known)}"
