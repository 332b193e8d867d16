"""What may link, under the rules in force and without what is quarantined; strongest first."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.identity.problem import clean, is_among, rules_by_strength, strongest_first
from profilelake.kernels import identity as kernel
from profilelake.kernels.siphash import Words
from profilelake.semantics.identity import common_window
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules


@dataclass(frozen=True, slots=True)
class Linking:
    """Which identifiers link, and how many of which type a profile may hold.

    `types` lists the types of each collection strongest first; a type's place is its code in the kernel.
    `windows` is, per collection, the length in microseconds in which a set counts once (None: for ever).
    """

    rules: IdentityRules
    quarantined: AbstractSet[bytes] = frozenset()
    types: dict[Collection, list[str]] = field(init=False)
    windows: dict[Collection, int | None] = field(init=False)

    def __post_init__(self) -> None:
        types = {name: [rule.type for rule in rules_by_strength(self.rules, name)] for name in COLLECTIONS}
        windows = {name: common_window(self.rules, name) for name in COLLECTIONS}
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "windows", windows)

    def strongest_first(
        self, collection: Collection, members: Iterable[tuple[bytes, str, str]]
    ) -> list[bytes]:
        """Return which of (id, type, value) may link, strongest first."""
        kept = []
        for ident, type, value in members:
            rule = self.rules.rule(collection, type)
            if rule is not None and value and ident not in self.quarantined and not rule.blocks(value):
                kept.append((rule.priority, type, value, ident))
        kept.sort()
        return [ident for _, _, _, ident in kept]

    def rows(
        self,
        collection: Collection,
        offsets: npt.NDArray[np.int64],
        types: pa.Array,
        values: pa.Array,
        ids: Words,
    ) -> tuple[list[int], list[int]]:
        """The same for many sets at once: return the rows that may link, and where each set's begin."""
        cleaned = clean(types, values, self.rules, collection)
        links = cleaned.links
        if self.quarantined:
            chosen = np.frombuffer(b"".join(sorted(self.quarantined)), dtype=np.uint64).reshape(-1, 2)
            links &= ~is_among(ids, chosen)
        kept = np.flatnonzero(links)
        bounds = np.searchsorted(kept, offsets)
        kept = kept[strongest_first(bounds, cleaned.type_code[kept], values, kept)]
        return kept.tolist(), bounds.tolist()

    def limits(self, collection: Collection) -> tuple[kernel.Int32s, kernel.Int64s]:
        """Return limit and window (microseconds, 0 for ever) of each type, in the order of codes."""
        by_strength = rules_by_strength(self.rules, collection)
        limits = [kernel.NO_LIMIT if rule.limit is None else rule.limit for rule in by_strength]
        windows = [(rule.window_seconds or 0) * 1_000_000 for rule in by_strength]
        return np.array(limits, dtype=np.int32), np.array(windows, dtype=np.int64)
