"""The words of the language that its text, its YAML form and its checks have in common."""

from typing import Final, get_args

from profilelake.semantics.conditions.tree import RELATIVE, As, Comparison, How

SIGNS: Final[dict[str, Comparison]] = {
    "=": "equals",
    "!=": "differs",
    ">": "greater_than",
    ">=": "at_least",
    "<": "less_than",
    "<=": "at_most",
}
COMPARISONS: Final[tuple[Comparison, ...]] = get_args(Comparison)
REDUCERS: Final[tuple[How, ...]] = get_args(How)
SEVERAL: Final[frozenset[Comparison]] = frozenset({"contains", "omits", "one_of", "none_of"})
"""Comparisons that take several operands."""
DATED: Final[frozenset[Comparison]] = RELATIVE | {"before_date", "after_date"}
"""Comparisons of moments."""
TYPES_OF: Final[dict[How, tuple[As, ...]]] = {
    "min": ("number", "string"),
    "max": ("number", "string"),
    "mode": ("number", "string", "array"),
}
"""What `as` may say in a reducer."""
LEAST_MAX: Final = 1_000_000_000
"""The greatest number of times that `mode` may ask for."""
FILTERS: Final = ("where", "sources", "within", "between", "expires_after")
"""What narrows events down."""
EXTRACTORS: Final = ("event", "entity", "trait", "property", "context", "literal")
"""What a value or a stream of events begins with."""
