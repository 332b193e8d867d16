"""How large a definition may be, however it was written."""

from typing import Final

from profilelake.semantics.conditions.tree import (
    And,
    Compare,
    Entities,
    Events,
    Items,
    Node,
    Not,
    Or,
    Reduce,
    Root,
    Users,
)
from profilelake.semantics.conditions.visiting import children

TEXT_BYTES_MAX: Final = 64 * 1024
"""Bytes of the text of a definition."""
PRIMARIES_MAX: Final = 50
"""Comparisons in one definition, those inside of `where` included; a computed trait is one itself."""
LEVELS_MAX: Final = 32
"""Conditions inside of conditions."""


def too_much(root: Root) -> tuple[Node, str] | None:
    """Return the first node that is beyond a limit and what to do, None where a tree keeps the limits."""
    primaries = 0
    waiting: list[tuple[Node, int]] = [(root, 0)]
    while waiting:
        node, level = waiting.pop()
        if isinstance(node, Compare | Items) or (node is root and isinstance(node, Reduce)):
            primaries += 1
            if primaries > PRIMARIES_MAX:
                return (
                    node,
                    f"there are more than {PRIMARIES_MAX} comparisons; split it into several definitions",
                )
        if isinstance(node, And | Or | Not | Users | Items | Events | Entities):
            level += 1
            if level > LEVELS_MAX:
                return node, f"conditions lie more than {LEVELS_MAX} deep; split it into several definitions"
        waiting.extend((below, level) for below in reversed(children(node)))
    return None
