"""What plans are told in: documents that commands print and HTTP answers hold."""

from typing import Final, Literal

import msgspec

EXAMPLES_MAX: Final = 1_000
EXAMPLES: Final = 20
"""Examples that are shown when nobody says how many."""
PROFILES_SHOWN_MAX: Final = 10
"""Profiles of one example that are shown on each side."""
IDENTIFIERS_SHOWN_MAX: Final = 20
"""Identifiers that are shown of a profile."""


class Shown(msgspec.Struct, frozen=True):
    """A profile as it is shown: some of its identifiers, and how many it has."""

    profile_id: str
    identifiers: list[str]
    identifier_count: int


class Example(msgspec.Struct, frozen=True):
    """Profiles that depend on each other's change, before and after.

    `merge`: several become one. `split`: one becomes several. `move`: anything else, such as an
    identifier that leaves its profile.
    """

    change: Literal["merge", "split", "move"]
    identifiers_moved: int
    sets_moved: int
    profiles_before: int
    profiles_after: int
    before: list[Shown]
    after: list[Shown]


class Largest(msgspec.Struct, frozen=True):
    """The largest of the profiles that change."""

    profile_id: str
    identifier_count: int


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """What decisions would change. Counts are exact; examples are the largest changes.

    `as_of` is the position (hex) of the last event that was taken into account, and `method` where
    it came from: the `component` in the online state, or the whole `history` in the lake.
    """

    changed: bool
    method: Literal["component", "history"]
    as_of: str | None
    as_of_at: int
    profiles_before: int
    profiles_after: int
    profiles_merging: int
    profiles_splitting: int
    identifiers_moved: int
    sets_moved: int
    refusals_appearing: int
    refusals_vanishing: int
    largest_before: Largest | None
    largest_after: Largest | None
    examples: list[Example]
