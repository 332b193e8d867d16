"""The words of a text one after the other, and the errors that say what should have come."""

from profilelake.semantics.conditions._lexer import Kind, Token, tokens
from profilelake.semantics.conditions.pointing import ParseError
from profilelake.semantics.conditions.tree import Node, Span


class Words:
    """Where the reading of a text stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens = tokens(text)
        self._at = 0

    @property
    def now(self) -> Token:
        """The word that comes next."""
        return self._tokens[self._at]

    def at_end(self) -> bool:
        """Tell whether no word is left."""
        return self.now.kind is Kind.END

    @property
    def end(self) -> int:
        """Where the word before ends."""
        return self._tokens[self._at - 1].span[1] if self._at else 0

    def take(self) -> Token:
        """Return the next word and go on behind it; nothing is behind the end."""
        token = self.now
        if token.kind is not Kind.END:
            self._at += 1
        return token

    def follows(self, kind: Kind, text: str, *, after: int = 0) -> bool:
        """Tell whether a word comes next, or `after` some others."""
        at = self._at + after
        if at >= len(self._tokens):
            return False
        token = self._tokens[at]
        return token.kind is kind and token.text == text

    def took(self, kind: Kind, text: str) -> bool:
        """Go on behind a word if it comes next, and tell whether it did."""
        if not self.follows(kind, text):
            return False
        self.take()
        return True

    def sign(self, text: str, *, why: str = "") -> Token:
        """Go on behind a sign that must come next."""
        if not self.follows(Kind.SIGN, text):
            raise self.missing(f"{text}{why}", expected=(text,))
        return self.take()

    def kind(self, kind: Kind, what: str) -> Token:
        """Go on behind a word of a kind that must come next."""
        if self.now.kind is not kind:
            raise self.missing(what)
        return self.take()

    def missing(self, what: str, *, expected: tuple[str, ...] = ()) -> ParseError:
        """Return the error that something else had to come next."""
        return self.wrong(self.now.span, f"expected {what}, found {self.now.shown()}", expected or (what,))

    def wrong(self, place: Span | Node, problem: str, expected: tuple[str, ...] = ()) -> ParseError:
        """Return the error that something is wrong at a place of the text."""
        span = place.span or (0, 0) if isinstance(place, Node) else place
        return ParseError(self.text, span, problem, expected)
