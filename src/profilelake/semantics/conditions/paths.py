"""Paths as the language writes them: keys with dots between, `\\.` for a dot that belongs to a key."""

import re
from typing import Final

from profilelake.semantics.conditions.tree import Path

KEYS_MAX: Final = 16
"""Keys of one path."""

_SEPARATOR: Final = re.compile(r"(?<!\\)\.")
_ESCAPED: Final = re.compile(r"\\+\.")
EACH: Final = "$"
"""How Segment says `every element of this array`; here a path goes into every element by itself."""


def keys(text: str) -> Path | None:
    """Return the keys of a path, None where one of them is empty.

    Any number of backslashes before a dot make it part of the key, for texts pass through JSON, YAML and shells
    that take some of them away. So a key that has a backslash right before a dot cannot be named.
    """
    parts = [_ESCAPED.sub(".", part) for part in _SEPARATOR.split(text)]
    named = tuple(part for part in parts if part != EACH) or (EACH,) * (parts == [EACH])
    return named if named and all(named) and len(named) <= KEYS_MAX else None


def written_path(path: Path) -> str:
    """Return a path as `keys` reads it back."""
    return ".".join(key.replace(".", "\\.") for key in path)
