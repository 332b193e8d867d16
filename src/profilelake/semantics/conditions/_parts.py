"""The small parts of the grammar, which have none of it inside: constants, names, paths, windows, sources."""

from profilelake.semantics.conditions._lexer import Kind
from profilelake.semantics.conditions._words import Words
from profilelake.semantics.conditions.paths import KEYS_MAX, keys
from profilelake.semantics.conditions.spoken_times import DURATION_MAX, UNITS, unit_micros
from profilelake.semantics.conditions.tree import (
    As,
    Between,
    Constant,
    Duration,
    How,
    Instant,
    Path,
    Session,
    Window,
    Within,
)
from profilelake.semantics.conditions.values import instant
from profilelake.semantics.conditions.vocabulary import TYPES_OF


class Parts(Words):
    """Reads the part it is named after and leaves the next word to its caller."""

    def literal(self) -> Constant | Instant:
        token = self.now
        truth = token.kind is Kind.NAME and token.text in ("true", "false")
        if not truth and token.kind not in (Kind.TEXT, Kind.NUMBER, Kind.DATE):
            raise self.missing("a value: a text in quotes, a number, a date, true or false")
        self.take()
        if truth:
            return Constant(token.text == "true", span=token.span)
        if token.kind is Kind.NUMBER:
            return Constant(token.number, span=token.span)
        at = instant(token.text) if token.kind is Kind.DATE else None
        if at is None:
            return Constant(token.text, span=token.span)
        return Instant(at, token.text, span=token.span)

    def named(self, what: str) -> str:
        if self.now.kind is Kind.NAME:
            raise self.wrong(
                self.now.span, f"expected {what}, found {self.now.shown()} without quotes", (what,)
            )
        token = self.kind(Kind.TEXT, what)
        if not token.text.strip():
            raise self.wrong(token.span, f"expected {what}, found an empty text", (what,))
        return token.text

    def path(self, of: str) -> Path:
        what = f"the name of a {of} in quotes"
        start = self.now.span
        path = keys(self.named(what))
        if path is None:
            problem = f"a path has 1 to {KEYS_MAX} keys with single dots between, none of them empty"
            raise self.wrong((start[0], self.end), problem, (what,))
        return path

    def took_parent(self) -> bool:
        if not self.follows(Kind.NAME, "parent"):
            return False
        self.take()
        self.sign(":", why=" behind parent")
        return True

    def window(self, word: str) -> Window:
        start = self.now.span[0]
        parent = self.took_parent()
        if parent and word != "within":
            raise self.wrong((start, self.end), f"{word}() has no parent:, only within() has", ("7 days",))
        first = self.duration().micros
        if word == "within":
            return Within(first, parent, span=(start, self.end))
        if word == "expires_after":
            return Session(first, span=(start, self.end))
        self.sign(",", why=" and how far back it reaches, as in between(7 days, 10 days)")
        return Between(first, self.duration().micros, span=(start, self.end))

    def duration(self) -> Duration:
        what = "an amount of time, such as 7 days"
        token = self.kind(Kind.NUMBER, what)
        unit = self.now
        micros = unit_micros(unit.text) if unit.kind is Kind.NAME else None
        if micros is None:
            raise self.missing("hours or days", expected=tuple(f"{name}s" for name in UNITS))
        self.take()
        span = (token.span[0], unit.span[1])
        if not isinstance(token.number, int) or token.number < 0:
            raise self.wrong(span, "an amount of time is a whole number of hours, days, …", (what,))
        if token.number * micros > DURATION_MAX:
            raise self.wrong(
                span, f"an amount of time is at most {DURATION_MAX // UNITS['day']:,} days", (what,)
            )
        return Duration(token.number * micros, self.text[slice(*span)], span=span)

    def sources(self) -> list[str]:
        braced = self.took(Kind.SIGN, "{")
        if not self.took(Kind.NAME, "exclude"):
            raise self.missing("{exclude: 'id of a source'}", expected=("exclude",))
        self.sign(":", why=" behind exclude")
        listed = self.took(Kind.SIGN, "[")
        found = [self.named("the id of a source in quotes")]
        while self.took(Kind.SIGN, ","):
            found.append(self.named("the id of a source in quotes"))
        if listed:
            self.sign("]")
        if braced:
            self.sign("}")
        return found

    def as_type(self, how: How) -> As:
        allowed = TYPES_OF.get(how, ())
        token = self.now
        if not allowed:
            with_types = ", ".join(TYPES_OF)
            raise self.wrong(token.span, f"{how}() has no `as`; only {with_types} have", (")",))
        if token.kind is not Kind.NAME or token.text not in allowed:
            raise self.missing(" or ".join(allowed), expected=allowed)
        self.take()
        return token.text
