"""What a check of a definition found."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from profilelake.semantics.conditions.pointing import pointed, position
from profilelake.semantics.conditions.tree import Span
from profilelake.semantics.definitions import Kind

Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a definition (an error), or that hardly was meant so (a warning).

    `code` names the kind of it for programs and never changes; `message` says what to do. `span` is its place in
    the text, None where the tree did not come from one.
    """

    severity: Severity
    code: str
    message: str
    span: Span | None = None

    def shown(self, text: str) -> str:
        """Return it as people read it: line, column, message, and the line itself with carets below the place."""
        if self.span is None:
            return f"{self.severity}: {self.message}"
        line, column = position(text, self.span[0])
        return f"line {line}, column {column}: {self.severity}: {self.message}\n{pointed(text, self.span)}"


@dataclass(frozen=True, slots=True)
class Known:
    """What there is in the lake, so that names nobody has ever sent can be told. None: not known, so not asked.

    `events` has the names of properties by event; `definitions` the kind of what holds, by key.
    """

    events: Mapping[str, Collection[str]] | None = None
    traits: Collection[str] | None = None
    definitions: Mapping[str, Kind] = field(default_factory=dict)
    entities: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Columns by slug. An entity that is not here does not exist."""
    sources: Collection[str] | None = None
    users: "Known | None" = None
    """Of accounts: what is known of their users, which ANY and ALL ask."""


NOTHING_KNOWN = Known()
