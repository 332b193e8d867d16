"""The profiles to be judged, as columns, and what is known of them: values, and until when they stand.

A value of many profiles is a column of numbers (`Numbers`) or of JSON (`Coded`, each distinct text once, so
that what is asked of a value is asked once per distinct value). Texts are JSON throughout; null is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels.siphash import Words
from profilelake.semantics.conditions.tree import Path
from profilelake.semantics.conditions.values import canonical, found, instant, is_number, number, text

Bools: TypeAlias = npt.NDArray[np.bool_]
Int64s: TypeAlias = npt.NDArray[np.int64]
Float64s: TypeAlias = npt.NDArray[np.float64]
Int32s: TypeAlias = npt.NDArray[np.int32]

NEVER: Final = 2**63 - 1
"""A time that does not come."""
EXACT: Final = 2**53
"""Up to here every whole number is a float of its own."""

_PLAIN_FROM, _PLAIN_BELOW = 1e-4, 1e9
"""Sizes between which Arrow writes broken numbers as Python does."""
_NO_TEXT: Final = pa.scalar(None, pa.string())
_decode: Final = msgspec.json.Decoder().decode


def no_pairs() -> Int64s:
    """Return no pairs of account and user."""
    return np.zeros((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Profiles of one collection, numbered from 0, with what their answers depend on besides partials.

    Set `set_keys[i]` hangs on subject `set_owner[i]`. Of accounts `users` are the linked people, and
    `user_accounts` pairs an account with each of its users: what these did counts for the account too.
    """

    count: int
    set_keys: Words
    """Sorted as bytes."""
    set_owner: Int64s
    traits: Mapping[str, pa.Array] = field(default_factory=dict)
    """JSON text per subject, by the first key of the trait; null where it is missing."""
    identifier_types: Mapping[str, Bools] = field(default_factory=dict)
    """Whether a subject has an identifier of a type."""
    users: "Subjects | None" = None
    """None of users, who have none."""
    user_accounts: Int64s = field(default_factory=no_pairs)
    entities: Mapping[str, pa.Array] = field(default_factory=dict)
    """The linked rows of an entity, by its slug: JSON text of an array of objects per subject."""

    def part(self, start: int, stop: int) -> "Subjects":
        """Return the subjects from `start` up to `stop`, numbered anew."""
        if start == 0 and stop == self.count:
            return self
        mine = (self.set_owner >= start) & (self.set_owner < stop)
        cut = replace(
            self,
            count=stop - start,
            set_keys=self.set_keys[mine],
            set_owner=self.set_owner[mine] - start,
            traits={key: column.slice(start, stop - start) for key, column in self.traits.items()},
            identifier_types={key: has[start:stop] for key, has in self.identifier_types.items()},
            entities={key: column.slice(start, stop - start) for key, column in self.entities.items()},
        )
        if self.users is None:
            return cut
        linked = self.user_accounts[(self.user_accounts[:, 0] >= start) & (self.user_accounts[:, 0] < stop)]
        people, numbers = np.unique(linked[:, 1], return_inverse=True)
        pairs = np.column_stack([linked[:, 0] - start, numbers.reshape(-1)])
        return replace(cut, users=self.users.chosen(people), user_accounts=pairs)

    def chosen(self, rows: Int64s) -> "Subjects":
        """Return some subjects (ascending), numbered anew. Users only: they have no users of their own."""
        place = np.full(self.count, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        owner = place[self.set_owner]
        taken = pa.array(rows)
        return replace(
            self,
            count=len(rows),
            set_keys=self.set_keys[owner >= 0],
            set_owner=owner[owner >= 0],
            traits={key: column.take(taken) for key, column in self.traits.items()},
            identifier_types={key: has[rows] for key, has in self.identifier_types.items()},
            entities={key: column.take(taken) for key, column in self.entities.items()},
        )


class Truth(NamedTuple):
    """Whether a condition holds of each subject, and until when that cannot change by time alone.

    At any time from the evaluation up to, but without, `changes` the same holds.
    """

    holds: Bools
    changes: Int64s


def negated(part: Truth) -> Truth:
    """Return where a condition does not hold."""
    return Truth(~part.holds, part.changes)


def all_of(parts: Sequence[Truth]) -> Truth:
    """Return where all conditions hold.

    While they do, any of them may end it. While some do not, the one that fails longest decides: as
    long as it fails, what becomes of the others does not matter.
    """
    holds = np.logical_and.reduce([part.holds for part in parts])
    first = np.minimum.reduce([part.changes for part in parts])
    longest: Int64s = np.maximum.reduce([np.where(part.holds, np.int64(0), part.changes) for part in parts])
    return Truth(holds, np.where(holds, first, longest))


def any_of(parts: Sequence[Truth]) -> Truth:
    """Return where at least one condition holds."""
    return negated(all_of([negated(part) for part in parts]))


@dataclass(frozen=True, slots=True)
class Numbers:
    """A number per subject, missing where it is not `valid`."""

    values: Float64s
    valid: Bools
    changes: Int64s

    def json(self) -> pa.Array:
        """Return the text of each subject."""
        texts = number_texts(self.values)
        return texts if self.valid.all() else pc.if_else(pa.array(self.valid), texts, _NO_TEXT)

    def coded(self) -> "Coded":
        """Return the same values as JSON, each once."""
        distinct, codes = np.unique(self.values, return_inverse=True)
        coded = np.where(self.valid, codes.reshape(-1), -1).astype(np.int32)
        return Coded(coded, number_texts(distinct), self.changes)


class Coded:
    """A JSON value per subject: a code into distinct texts, -1 where it is missing."""

    def __init__(self, codes: Int32s, texts: pa.Array, changes: Int64s) -> None:
        self.codes = codes
        self.texts = texts
        self.changes = changes

    @classmethod
    def of(cls, column: pa.Array) -> "Coded":
        """Return a column of JSON texts that time alone never changes."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        coded = column.dictionary_encode()
        codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
        null = pc.index(coded.dictionary, "null").as_py()
        return cls(
            codes if null < 0 else np.where(codes == null, -1, codes), coded.dictionary, never(len(column))
        )

    def until(self, changes: Int64s) -> "Coded":
        """Return the same values, which change at other times."""
        return Coded(self.codes, self.texts, changes)

    def value(self, subject: int) -> Any:
        """Return the value of one subject, None where it is missing."""
        code = int(self.codes[subject])
        return None if code < 0 else self.values[code]

    def json(self) -> pa.Array:
        """Return the text of each subject."""
        return self.texts.take(pa.array(self.codes, mask=self.codes < 0))

    def spread(self, by_code: npt.NDArray[Any], missing: Any = False) -> npt.NDArray[Any]:
        """Return for each subject what was found of its value."""
        if not len(by_code):
            return np.full(len(self.codes), missing, dtype=by_code.dtype)
        return np.where(self.codes >= 0, by_code[self.codes], missing)

    @cached_property
    def values(self) -> list[Any]:
        """The value of each code."""
        return decoded(self.texts)

    @cached_property
    def nested(self) -> Bools:
        """Whether the value of each code is an array or an object."""
        return np.fromiter(
            (isinstance(value, list | dict) for value in self.values), dtype=np.bool_, count=len(self.texts)
        )

    @cached_property
    def numbers(self) -> Float64s:
        """The number each code stands for, NaN for none."""
        known = map(number, self.values)
        return np.fromiter(
            (np.nan if value is None else value for value in known), np.float64, count=len(self.texts)
        )

    @cached_property
    def are_numbers(self) -> Bools:
        """Whether the value of each code is a JSON number, not a text that reads as one."""
        return np.fromiter(map(is_number, self.values), np.bool_, count=len(self.texts))

    @cached_property
    def words(self) -> pa.Array:
        """The text of each code, null for arrays and objects."""
        return pa.array(map(text, self.values), pa.string(), size=len(self.texts))

    @cached_property
    def instants(self) -> tuple[Int64s, Bools]:
        """The moment each code stands for, and whether it stands for one."""
        moments = [instant(value) for value in self.values]
        valid = np.array([moment is not None for moment in moments], dtype=np.bool_)
        return np.array([moment or 0 for moment in moments], dtype=np.int64), valid

    def at(self, path: Path) -> "Coded":
        """Return what is found behind a path in each value."""
        if not path:
            return self
        inner = [found(path, value) for value in self.values]
        missing = np.array([value is None for value in inner], dtype=np.bool_)
        texts = pa.array([canonical(value) for value in inner], pa.string())
        codes = self.codes.copy()
        present = codes >= 0
        codes[present] = np.where(missing[codes[present]], -1, codes[present])
        return Coded(codes, texts, self.changes)


Column: TypeAlias = "Numbers | Coded"


def as_coded(column: Column) -> Coded:
    """Return any column as JSON."""
    return column.coded() if isinstance(column, Numbers) else column


def never(count: int) -> Int64s:
    """Return that nothing changes by time alone."""
    return np.full(count, NEVER, dtype=np.int64)


def nothing(count: int) -> Coded:
    """Return a value that every subject lacks."""
    return Coded(np.full(count, -1, dtype=np.int32), pa.array([], pa.string()), never(count))


def decoded(texts: pa.Array) -> list[Any]:
    """Return the values of JSON texts."""
    values: list[Any] = _decode("[" + ",".join(texts.to_pylist()) + "]")
    return values


def number_texts(values: Float64s) -> pa.Array:
    """Return numbers as JSON: whole ones below 2^53 without a point, others in the fewest digits."""
    size = np.abs(values)
    whole = (size < EXACT) & (values == np.floor(values))
    texts = pc.cast(pa.array(np.where(whole, values, 0).astype(np.int64)), pa.string())
    rows = np.flatnonzero(~whole)
    if not len(rows):
        return texts
    # Arrow writes the same digits as Python, but turns to exponents elsewhere.
    broken, sizes = values[rows], size[rows]
    spelt = pc.cast(pa.array(broken), pa.string())
    odd = np.flatnonzero((sizes >= _PLAIN_BELOW) | (sizes < _PLAIN_FROM))
    if len(odd):
        spelt = _replaced(spelt, odd, pa.array([canonical(value) for value in broken[odd].tolist()]))
    return _replaced(texts, rows, spelt)


def _replaced(texts: pa.Array, rows: Int64s, spelt: pa.Array) -> pa.Array:
    mask = np.zeros(len(texts), dtype=np.bool_)
    mask[rows] = True
    return pc.replace_with_mask(texts, mask, spelt)
