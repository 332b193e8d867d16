"""Identity rules: which identifiers count, how strong they are, how many a profile may hold.

The defaults are Segment's documented ones (identity resolution onboarding): `user_id` first and
at most one, `email` second, all others alphabetical and at most five.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, Literal, TypeAlias

import re2

Collection: TypeAlias = Literal["users", "accounts"]
Demotion: TypeAlias = Literal["minimal", "lowest_priority"]
Normaliser: TypeAlias = Literal["none", "trim", "lower", "email"]

COLLECTIONS: Final[tuple[Collection, ...]] = ("users", "accounts")
EXTRACTION_VERSION: Final = 1
"""Version of *where* identifiers are read from; stamped into every log record."""


@dataclass(frozen=True, slots=True)
class TypeRule:
    """One identifier type: its strength, its limit, its blocked values.

    `priority`: 1 is the strongest; unique inside a collection. `limit`: distinct values a profile
    may hold, None for no limit. `window_seconds`: the limit counts only values linked inside one
    tumbling UTC window of that length (None: for ever), a whole number of days. `blocked_patterns`
    are regular expressions in RE2's language, which takes linear time, found anywhere in a value.
    `custom`: the type is read from the custom paths (`traits.<camel|snake>`, `properties.…`,
    `context.traits.…`). `paths`: further places, such as `context.device.serial`. `normaliser` says how
    a value is written before it is compared; None: as its type always was (`email` for e-mail).
    """

    type: str
    priority: int
    collection: Collection = "users"
    limit: int | None = 5
    window_seconds: int | None = None
    blocked_exact: frozenset[str] = frozenset()
    blocked_patterns: tuple[str, ...] = ()
    custom: bool = False
    paths: tuple[str, ...] = ()
    normaliser: Normaliser | None = None

    def blocks(self, value: str) -> bool:
        """Tell whether `value` must not link anybody (it stays in the event's payload)."""
        if value in self.blocked_exact:
            return True
        return any(compiled(pattern).search(value) for pattern in self.blocked_patterns)


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> Any:
    """Return a regular expression of RE2, which has no input that takes it more than linear time.

    Raises:
        re2.error: the pattern is malformed, or uses what cannot be done in linear time (look-around,
            back references).
    """
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


DEGREE_MAX: Final = 1000
"""Other values of one type that an identifier may meet before it is quarantined."""


@dataclass(frozen=True)
class IdentityRules:
    """One version of all rules.

    `identifiers_max` / `merges_max` guard a profile (None: no cap). `degree_max`: an identifier that is
    seen with more distinct values of any one other type is quarantined (None: never by itself).
    `alias_sources`: sources whose alias calls link `previousId` (as anonymous_id) and `userId`.
    """

    version: int
    types: tuple[TypeRule, ...]
    demotion: Demotion = "minimal"
    identifiers_max: int | None = None
    merges_max: int | None = None
    degree_max: int | None = DEGREE_MAX
    alias_sources: frozenset[str] = frozenset()

    @cached_property
    def _by_type(self) -> dict[tuple[Collection, str], TypeRule]:
        return {(rule.collection, rule.type): rule for rule in self.types}

    def rule(self, collection: Collection, type: str) -> TypeRule | None:
        """Return the rule of an identifier type, None where the type is not configured."""
        return self._by_type.get((collection, type))


BLOCKED_EXACT: Final = frozenset({"-1", "null", "anonymous"})
BLOCKED_PATTERNS: Final = (r"^[0-]*$",)

_OTHER_TYPES: Final = (
    "android.id",
    "android.idfa",
    "android.push_token",
    "anonymous_id",
    "ga_client_id",
    "ios.id",
    "ios.idfa",
    "ios.push_token",
)


def segment_defaults(
    *, demotion: Demotion = "minimal", custom: tuple[str, ...] = (), blocked: bool = True
) -> IdentityRules:
    """Return Segment's default rules, optionally with custom identifier types.

    `blocked` switches the suggested blocked values on (zeroes and dashes, `-1`, `null`,
    `anonymous`). Types without a priority of their own follow alphabetically from 3.
    """
    exact = BLOCKED_EXACT if blocked else frozenset()
    patterns = BLOCKED_PATTERNS if blocked else ()

    def rule(type: str, priority: int, limit: int, *, collection: Collection = "users") -> TypeRule:
        return TypeRule(
            type=type,
            priority=priority,
            collection=collection,
            limit=limit,
            blocked_exact=exact,
            blocked_patterns=patterns,
            custom=type in custom,
        )

    rules = [rule("user_id", 1, 1), rule("email", 2, 5)]
    others = sorted({*_OTHER_TYPES, *custom})
    rules += [rule(name, priority, 5) for priority, name in enumerate(others, start=3)]
    rules.append(rule("group_id", 1, 1, collection="accounts"))
    return IdentityRules(version=1, types=tuple(rules), demotion=demotion)
