"""What a read token may read: the words of its scope.

    collection:users resource:traits trait:email trait:first%20name rate:200

Each kind of word narrows by itself, and several of a kind add up; a kind that is not named is not
narrowed. Where a scope is enforced belongs to those who answer requests.
"""

from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias
from urllib.parse import unquote

from profilelake.errors import Invalid
from profilelake.semantics.rules import COLLECTIONS

RESOURCES: Final = (
    "traits",
    "external_ids",
    "events",
    "metadata",
    "links",
    "consent",
    "profiles",
    "history",
    "export",
)
"""What can be read of profiles; `profiles` is the list of them."""
SCOPE_CHARACTERS_MAX: Final = 4_096
"""Characters of a scope."""
WORDS_MAX: Final = 256
"""Words of a scope."""
RATE_MAX: Final = 100_000
"""The greatest rate of a token; a token without one has that of its space."""

SqlAccess: TypeAlias = Literal["no", "masked", "whole"]

_SQL: Final[dict[str, SqlAccess]] = {"sql": "masked", "sql:personal": "whole"}
_FEED: Final = "feed"
_KINDS: Final = ("collection", "resource", "trait")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a token may read. None stands for all there are.

    `sql` says whether it may ask in SQL, and with personal columns as null (`masked`) or as they are.
    SQL reaches all tables, whatever the other words say. `feed` says whether it may read the feed of changes of
    computed traits and audiences. `rate` is how many requests per second the
    whole server takes from this token, None for what its space may send.
    """

    collections: frozenset[str] | None = None
    resources: frozenset[str] | None = None
    traits: frozenset[str] | None = None
    sql: SqlAccess = "whole"
    rate: int | None = None
    feed: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a scope says; an empty one is everything a read token may.

        One of SQL words and `feed` alone opens nothing else, and one without them neither. One that names traits and
        no resource opens `traits` alone, because the other resources show more. `rate` narrows nothing.

        Raises:
            Invalid: it has a word that means nothing, or too many.
        """
        words = text.split()
        if len(text) > SCOPE_CHARACTERS_MAX or len(words) > WORDS_MAX:
            raise Invalid(
                f"reading a scope: it has {len(words)} words of {len(text)} characters; give at most"
                f" {WORDS_MAX} of {SCOPE_CHARACTERS_MAX:,}"
            )
        named: dict[str, set[str]] = {kind: set() for kind in _KINDS}
        sql: SqlAccess = "no"
        rate: int | None = None
        feed = False
        for word in words:
            kind, colon, value = word.partition(":")
            if word in _SQL:
                sql = "whole" if sql == "whole" else _SQL[word]
            elif word == _FEED:
                feed = True
            elif kind in named and value:
                named[kind].add(_name(kind, value))
            elif kind == "rate" and colon and rate is None:
                rate = _rate(value)
            else:
                raise Invalid(
                    f"reading a scope: {word[:80]!r} means nothing here; its words are collection:NAME,"
                    " resource:NAME, trait:NAME, sql, sql:personal, feed and at most one rate:NUMBER"
                )
        if not any(named.values()):
            if sql == "no" and not feed:
                return cls(rate=rate)
            return cls(_NONE, _NONE, _NONE, sql, rate, feed)
        if named["trait"] and not named["resource"]:
            named["resource"].add("traits")
        collections, resources, traits = (frozenset(named[kind]) or None for kind in _KINDS)
        return cls(collections, resources, traits, sql, rate, feed)


_NONE: Final[frozenset[str]] = frozenset()
_KNOWN: Final = {"collection": frozenset(COLLECTIONS), "resource": frozenset(RESOURCES)}


def _name(kind: str, text: str) -> str:
    known = _KNOWN.get(kind)
    if known is None:
        try:
            return unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise Invalid(f"reading a scope: {kind}:{text[:80]} is not UTF-8, percent-encoded") from None
    if text not in known:
        raise Invalid(
            f"reading a scope: there is no {kind} {text[:80]!r}; it is one of {', '.join(sorted(known))}"
        )
    return text


def _rate(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not 1 <= number <= RATE_MAX:
        raise Invalid(
            f"reading a scope: rate:{text[:20]} is no rate; give 1 to {RATE_MAX:,} requests per second"
        )
    return number
