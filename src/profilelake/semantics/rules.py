"""Identity rules: which identifiers count, how strong they are, how many a profile may hold.

The defaults are Segment's documented ones (identity resolution onboarding): `user_id` first and
at most one, `email` second, all others alphabetical and at most five.
"""

import re
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Collection: TypeAlias = Literal["users", "accounts"]
Demotion: TypeAlias = Literal["minimal", "lowest_priority"]

COLLECTIONS: Final[tuple[Collection, ...]] = ("users", "accounts")
EXTRACTION_VERSION: Final = 1
"""Version of *where* identifiers are read from; stamped into every log record."""


@dataclass(frozen=True, slots=True)
class TypeRule:
    """One identifier type: its strength, its limit, its blocked values.

    `priority`: 1 is the strongest; unique inside a collection. `limit`: distinct values a profile
    may hold, None for no limit. `window_seconds`: the limit counts only values linked inside one
    tumbling UTC window of that length (None: for ever). `custom`: the type is read from the
    custom paths (`traits.<camel|snake>`, `properties.…`, `context.traits.…`).
    """

    type: str
    priority: int
    collection: Collection = "users"
    limit: int | None = 5
    window_seconds: int | None = None
    blocked_exact: frozenset[str] = frozenset()
    blocked_patterns: tuple[str, ...] = ()
    custom: bool = False

    def blocks(self, value: str) -> bool:
        """Tell whether `value` must not link anybody (it stays in the event's payload)."""
        if value in self.blocked_exact:
            return True
        return any(re.search(pattern, value) for pattern in self.blocked_patterns)


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """One version of all rules. `identifiers_max` / `merges_max` guard a profile (None: no cap)."""

    version: int
    types: tuple[TypeRule, ...]
    demotion: Demotion = "minimal"
    identifiers_max: int | None = None
    merges_max: int | None = None
    _by_type: dict[tuple[Collection, str], TypeRule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_type: dict[tuple[Collection, str], TypeRule] = {}
        for rule in self.types:
            by_type[rule.collection, rule.type] = rule
        object.__setattr__(self, "_by_type", by_type)

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
