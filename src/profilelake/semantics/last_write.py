"""Last write wins: which value of a trait stands."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TraitWrite:
    """One write of one trait. `value` is JSON text, None where the write removes the trait.

    `timestamp` says when it happened (microseconds, corrected); `position` is the event's, as bytes.
    """

    trait: str
    value: str | None
    timestamp: int
    position: bytes


def winner(a: TraitWrite, b: TraitWrite) -> TraitWrite:
    """Return the write that is kept when both set the same trait.

    The later `timestamp` wins; at equal times the greater `position` does. So the answer depends
    neither on the order nor on the number of calls, and regions may exchange writes in any order.
    """
    return max(a, b, key=lambda write: (write.timestamp, write.position))


def last_writes(writes: Iterable[TraitWrite]) -> dict[str, TraitWrite]:
    """Return the write of each trait that is kept, by name; one that removes its trait is among them."""
    kept: dict[str, TraitWrite] = {}
    for write in writes:
        before = kept.get(write.trait)
        kept[write.trait] = write if before is None else winner(before, write)
    return dict(sorted(kept.items()))


def traits(writes: Iterable[TraitWrite]) -> dict[str, str]:
    """Return the traits that stand after all writes: a removed trait is absent."""
    return {name: write.value for name, write in last_writes(writes).items() if write.value is not None}
