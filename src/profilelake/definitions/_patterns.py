"""Regular expressions of definitions: small ones, in linear time, that do not block everybody."""

from typing import Final

import re2

from profilelake.semantics.rules import compiled

PATTERN_CHARACTERS_MAX: Final = 500
PATTERN_PROGRAM_MAX: Final = 2_000
"""Instructions of a compiled expression; repetition multiplies them."""

_EVERYDAY: Final = (
    "a",
    "Z",
    "7",
    "42",
    "user-1001",
    "ana@example.org",
    "3f2b8c1e-90ad-4d57-8a61-0c4be27d9f13",
    "Ünïcode 值",
)
"""Values as people have them: whatever blocks all of these blocks everybody."""


def fault_of(pattern: str) -> str | None:
    """Return what is wrong with an expression and what to do, None where nothing is."""
    if not pattern:
        return "an empty expression is found in every value; write what must not link"
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        return f"it has {len(pattern)} characters, the most is {PATTERN_CHARACTERS_MAX}; write several"
    try:
        expression = compiled(pattern)
    except re2.error as error:
        reason = error.args[0]
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        return (
            f"not an expression of RE2: {said}; look-around and back references do not exist there,"
            " repetition goes to 1000"
        )
    if expression.programsize > PATTERN_PROGRAM_MAX:
        return (
            f"it makes a program of {expression.programsize:,} steps, the most is {PATTERN_PROGRAM_MAX:,};"
            " repeat less"
        )
    if blocks_everybody([pattern]):
        return (
            "it is found in every value, so the type would link nobody; write ^…$ around what must not link"
        )
    return None


def blocks_everybody(patterns: list[str]) -> bool:
    """Tell whether expressions together block whatever people are known by."""
    return all(any(compiled(pattern).search(value) for pattern in patterns) for value in _EVERYDAY)
