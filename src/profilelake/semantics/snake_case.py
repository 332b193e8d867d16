"""Names as Segment's warehouses spell them, so that models written there find their tables and columns here."""

import re
from typing import Final

_WORD: Final = re.compile(r"[A-Z0-9]+[a-z0-9]*|[a-z][a-z0-9]*")
_CONTEXT: Final = "context"


def snake_case(name: str) -> str:
    """Return a name in lower case, its words joined by `_`; "" where it has no ASCII letter or digit.

    A word is a run of capitals and digits with the small letters and digits after it, or a run of small
    letters and digits: `CStringRef` is `cstring_ref`. All other characters only separate words.
    """
    return "_".join(_WORD.findall(name)).lower()


def column_name(part: str, path: str) -> str:
    """Return the column in which a warehouse shows the value at `path` of a part of an event.

    `path` is the keys that lead to the value, joined by `.`. Context has its name in front. "" where
    no key has an ASCII letter or digit: such a value has no column.
    """
    name = snake_case(path)
    return f"{_CONTEXT}_{name}" if part == _CONTEXT and name else name
