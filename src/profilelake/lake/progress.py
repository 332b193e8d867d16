"""How far a table has come: what every snapshot of ours says about the facts behind it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from profilelake.errors import Corrupt

PREFIX: Final = "profilelake."

_EPOCH: Final = PREFIX + "epoch"
_SEQUENCE: Final = PREFIX + "sequence"
_VECTOR: Final = PREFIX + "vector"
_TOTALS: Final = PREFIX + "totals"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a table stands, written into the same snapshot as the rows it speaks of.

    `sequence` grows within an `epoch`; a later epoch sorts after an earlier one as text, so name
    them by a zero-padded number or a time-ordered id. `vector` is, per log id, the next byte offset
    and the events so far; `totals` are cumulative counters such as duplicates or failed.
    """

    epoch: str
    sequence: int
    vector: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)

    def covers(self, other: Self) -> bool:
        """Return whether a table at this progress already has what `other` speaks of."""
        return self.epoch == other.epoch and self.sequence >= other.sequence

    def properties(self) -> dict[str, str]:
        """Return the snapshot summary properties that `from_properties` reads back."""
        return {
            _EPOCH: self.epoch,
            _SEQUENCE: str(self.sequence),
            _VECTOR: json.dumps(dict(self.vector), separators=(",", ":"), sort_keys=True),
            _TOTALS: json.dumps(dict(self.totals), separators=(",", ":"), sort_keys=True),
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Self | None:
        """Read the progress of a snapshot summary; None when a writer other than us made it.

        Raises:
            Corrupt: the properties are there and make no sense.
        """
        epoch, sequence = properties.get(_EPOCH), properties.get(_SEQUENCE)
        if epoch is None or sequence is None:
            return None
        try:
            vector = json.loads(properties.get(_VECTOR) or "{}")
            totals = json.loads(properties.get(_TOTALS) or "{}")
            return cls(
                epoch=epoch,
                sequence=int(sequence),
                vector={str(log): (int(offset), int(events)) for log, (offset, events) in vector.items()},
                totals={str(name): int(total) for name, total in totals.items()},
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise Corrupt(
                f"reading the progress of a snapshot: {epoch!r}/{sequence!r}: {error}; restore the table"
            ) from error
