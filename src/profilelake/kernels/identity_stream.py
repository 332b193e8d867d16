"""Constrained union-find that takes its sets piece by piece: what `kernels.identity` decides, in bounded memory.

The state stays in place between the pieces and grows as identifiers and profiles come: 5 bytes per
identifier, and 12 + 2 per type (+ 8 per type with a window) per profile ever founded. Pieces follow
each other in canonical order; where a stream is cut makes no difference.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from profilelake.errors import Internal, Invalid
from profilelake.kernels._compiled import compiled, read_only
from profilelake.kernels._joining import (
    LIMIT_MAX,
    NO_LIMIT,
    Found,
    Int32s,
    Int64s,
    Limits,
    State,
    Unlinks,
    flatten,
    resolve_sets,
)
from profilelake.kernels.growing import Growing

Codes = npt.NDArray[np.int8]

TYPES_MAX: Final = 127
PROFILES_MAX: Final = (1 << 31) - 1
NOBODY: Final = -1


class Rules(NamedTuple):
    """The rules as numbers; see `kernels.identity.Problem`."""

    type_limit: Int32s
    type_window: Int64s
    lowest_priority: bool
    identifiers_max: int | None
    merges_max: int | None


class Piece(NamedTuple):
    """What became of the sets of one piece: counts, and which of them founded a profile.

    Profiles from `founded_before` on are new; `founding_set` has the place in the piece of each.
    """

    founded_before: int
    founding_set: Int32s
    merges: int
    refusals: int


class IdentityStream:
    """Profiles of identifiers that are numbered from 0, growing with every piece."""

    def __init__(self, rules: Rules, unlinks: Int32s) -> None:
        """Begin with nobody. Identifiers paired in `unlinks`, int32[U, 2], never share a profile.

        Raises:
            Invalid: a limit is outside 1 to LIMIT_MAX, or there are too many types.
        """
        limits, types = rules.type_limit, len(rules.type_limit)
        if types > TYPES_MAX:
            raise Invalid(f"resolving identities: {types} types; {TYPES_MAX} are possible")
        if ((limits != NO_LIMIT) & ((limits < 1) | (limits > LIMIT_MAX))).any():
            raise Invalid(f"resolving identities: limits {limits.tolist()}; give 1 to {LIMIT_MAX}, or none")
        windowed = np.flatnonzero(rules.type_window)
        column = np.full(types, -1, dtype=np.int32)
        column[windowed] = np.arange(len(windowed))
        self._limits = Limits(
            type_limit=read_only(limits, np.int32),
            window_column=read_only(column, np.int32),
            window_length=read_only(rules.type_window, np.int64),
            identifiers_max=NO_LIMIT if rules.identifiers_max is None else rules.identifiers_max,
            merges_max=NO_LIMIT if rules.merges_max is None else rules.merges_max,
            lowest_priority=bool(rules.lowest_priority),
        )
        self.profiles = 0
        self.identifiers = 0
        self._type = Growing(np.int8)
        self._owner = Growing(np.int32)
        self._parent = Growing(np.int32)
        self._counts = Growing(np.uint16, types)
        self._members = Growing(np.int32)
        self._merges = Growing(np.int32)
        self._windows = Growing(np.int64, len(windowed))
        pairs = unlinks[unlinks[:, 0] != unlinks[:, 1]]
        both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
        self._marked, starts = np.unique(both[:, 0], return_index=True)
        self._partner_offsets = np.append(starts, len(both)).astype(np.int64)
        self._partners = np.ascontiguousarray(both[:, 1], dtype=np.int32)
        self._following = np.full(len(self._marked), -1, dtype=np.int32)
        self._mark = Growing(np.int32)
        self._first = Growing(np.int32)
        self._last = Growing(np.int32)

    def types(self) -> Codes:
        """Return the type of each identifier met so far, -1 for one that links nobody; valid until `meet`."""
        types: Codes = self._type.array[: self.identifiers]
        return types

    def meet(self, types: Codes) -> None:
        """Take in the identifiers with the next numbers; nobody owns them yet."""
        before, after = self.identifiers, self.identifiers + len(types)
        self._type.reserve(after)
        self._type.array[before:after] = types
        self._owner.reserve(after)
        self._owner.array[before:after] = NOBODY
        if len(self._marked):
            self._mark.reserve(after)
            self._mark.array[before:after] = -1
            here = np.searchsorted(self._marked, [before, after])
            self._mark.array[self._marked[here[0] : here[1]]] = np.arange(here[0], here[1])
        self.identifiers = after

    def take(self, set_offsets: Int64s, set_idents: Int32s, set_time: Int64s) -> Piece:
        """Process the next sets; their identifiers must have been met and be those that may link.

        Raises:
            Invalid: more profiles than there are numbers.
            Internal: the arrays contradict each other; nothing has been read past their ends.
        """
        sets, before = len(set_offsets) - 1, self.profiles
        self._check(set_offsets, set_idents, set_time)
        self._make_room(before + sets)
        found = _room_for(sets, len(set_idents))
        after, merges, refusals = resolve_sets(
            read_only(set_offsets, np.int64),
            read_only(set_idents, np.int32),
            read_only(set_time, np.int64),
            self._type.array,
            self._limits,
            self._unlinks(),
            State(
                ident_profile=self._owner.array,
                parent=self._parent.array,
                counts=self._counts.array,
                members=self._members.array,
                merges=self._merges.array,
                windows=self._windows.array,
            ),
            found,
            before,
        )
        self.profiles = int(after)
        return Piece(before, found.founding_set[: self.profiles - before], int(merges), int(refusals))

    def finish(self) -> Int32s:
        """Return the profile of each identifier now, NOBODY for none. The stream ends here."""
        parent, owner = self._parent.array[: self.profiles], self._owner.array[: self.identifiers]
        none = np.empty(0, dtype=np.int32)
        flatten(parent, owner, none, none)
        return owner

    def living(self) -> int:
        """Return how many profiles are not part of another one, after `finish`."""
        parent = self._parent.array[: self.profiles]
        return int((parent == np.arange(self.profiles)).sum())

    def bytes(self) -> int:
        """Return how much memory the state takes."""
        grown = (value for value in vars(self).values() if isinstance(value, Growing))
        return sum(each.array.nbytes for each in grown)

    def _make_room(self, profiles: int) -> None:
        if profiles > PROFILES_MAX:
            raise Invalid(
                f"resolving identities: {profiles} profiles pass 2^31; resolve them by parts of components"
            )
        for rows in (self._parent, self._counts, self._members, self._merges, self._windows):
            rows.reserve(profiles)
        if len(self._marked):
            self._first.reserve(profiles)
            self._last.reserve(profiles)

    def _unlinks(self) -> Unlinks:
        none = np.empty(0, dtype=np.int32)
        if not len(self._marked):
            return Unlinks(none, np.zeros(1, dtype=np.int64), none, none, none, none)
        return Unlinks(
            mark_of=self._mark.array,
            partner_offsets=self._partner_offsets,
            partners=self._partners,
            first=self._first.array,
            last=self._last.array,
            following=self._following,
        )

    def _check(self, offsets: Int64s, idents: Int32s, times: Int64s) -> None:
        """Refuse arrays that would lead the loop out of bounds: compiled code does not look."""
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(idents) or (np.diff(offsets) < 0).any():
            raise Internal(f"resolving identities: set offsets do not divide the {len(idents)} members")
        if len(idents) and (idents.min() < 0 or idents.max() >= self.identifiers):
            raise Internal(f"resolving identities: a set's identifier is not below {self.identifiers}")
        if len(self._marked) and self._partners.max() >= self.identifiers:
            raise Internal("resolving identities: an unlinked identifier has not been met")
        windows = self._windows.array.shape[1]
        if len(times) not in (0, len(offsets) - 1) or (windows and len(times) != len(offsets) - 1):
            raise Internal(f"resolving identities: {len(times)} times for {len(offsets) - 1} sets")


def _room_for(sets: int, members: int) -> Found:
    def numbers(size: int) -> Int32s:
        return np.empty(size, dtype=np.int32)

    return Found(
        set_profile=numbers(sets),
        founding_set=numbers(sets),
        merge_set=numbers(members),
        merge_survivor=numbers(members),
        merge_loser=numbers(members),
        refusal_set=numbers(members),
        refusal_ident=numbers(members),
        refusal_owner=numbers(members),
        refusal_cause=np.empty(members, dtype=np.int8),
        refusal_type=numbers(members),
    )


@compiled
def _order(
    offsets: Int64s,
    rows: Int64s,
    numbers: Int32s,
    types: Codes,
    data: npt.NDArray[np.uint8],
    starts: Int64s,
    kept_offsets: Int64s,
    kept: Int32s,
    kept_rows: Int64s,
) -> int:
    """Write the members of each set that may link, strongest first; see `order_members`."""
    count, at = 0, 0
    kept_offsets[0] = 0
    for index in range(offsets.size - 1):
        first = count
        while at < rows.size and rows[at] < offsets[index + 1]:
            ident, row = numbers[at], rows[at]
            at += 1
            type = types[ident]
            if type < 0:
                continue
            # Insertion, since sets are small.
            place = count
            while place > first:
                other = types[kept[place - 1]]
                if other < type:
                    break
                if other == type and not _less(data, starts, row, kept_rows[place - 1]):
                    break
                kept[place], kept_rows[place] = kept[place - 1], kept_rows[place - 1]
                place -= 1
            kept[place], kept_rows[place] = ident, row
            count += 1
        kept_offsets[index + 1] = count
    return count


@compiled
def _less(data: npt.NDArray[np.uint8], starts: Int64s, one: int, other: int) -> bool:
    here, there = starts[one], starts[other]
    shared = min(starts[one + 1] - here, starts[other + 1] - there)
    for at in range(shared):
        if data[here + at] != data[there + at]:
            return bool(data[here + at] < data[there + at])
    return bool(starts[one + 1] - here < starts[other + 1] - there)


def order_members(
    offsets: Int64s,
    rows: Int64s,
    numbers: Int32s,
    types: Codes,
    data: npt.NDArray[np.uint8],
    starts: Int64s,
) -> tuple[Int64s, Int32s]:
    """Return the offsets and identifiers of sets without those that link nobody, strongest first.

    Set s holds the rows `offsets[s]` to `offsets[s + 1]`. `rows`, ascending, are those with a number;
    `types` says the strength of each number, -1 for none. Within a type the lesser value comes first:
    the value of row r is `data[starts[r] : starts[r + 1]]`.
    """
    kept_offsets = np.empty(len(offsets), dtype=np.int64)
    kept, kept_rows = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.int64)
    count = _order(
        read_only(offsets, np.int64),
        read_only(rows, np.int64),
        numbers,
        types,
        read_only(data, np.uint8),
        read_only(starts, np.int64),
        kept_offsets,
        kept,
        kept_rows,
    )
    return kept_offsets, kept[:count]


def warm() -> None:
    """Compile (or load from the cache) everything here, so that nobody waits for it later."""
    none = np.empty(0, dtype=np.int32)
    rules = Rules(
        none, np.empty(0, dtype=np.int64), lowest_priority=False, identifiers_max=None, merges_max=None
    )
    stream = IdentityStream(rules, np.empty((0, 2), dtype=np.int32))
    offsets = np.zeros(1, dtype=np.int64)
    order_members(offsets, offsets[:0], none, none.astype(np.int8), np.empty(0, dtype=np.uint8), offsets)
    stream.take(offsets, none, offsets[:0])
    stream.finish()
