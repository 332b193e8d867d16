"""What a plan can ask of an engine: work on units, and rows brought together.

Work is cut into units (a few files, a part of a table), which tasks take where there is room. Both
operations end when all of their tasks have; rows too many to be answered lie in files that the tasks wrote
(`engines.kept`), and the answers say where. So a plan is a line of steps each of which can be remembered
(`engines.jobs`), and nothing depends on which engine it was.

Functions given to an engine run in other processes, on other machines, and may run more than once for one
unit when a machine dies: they are values that can be pickled (functions of modules, frozen dataclasses with
`__call__`), they change nothing but files of new names, and only the answer of one run counts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

PartNumbers: TypeAlias = npt.NDArray[np.int32]
Unit = TypeVar("Unit", contravariant=True)

Work = Callable[[Unit], bytes]
"""From a unit to its answer: small, as the driver holds all of them."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows of one input, and for each of them the part it goes to."""

    input: str
    rows: pa.Table
    parts: PartNumbers


CutUp = Callable[[Unit], Iterator[Cut]]
"""From a unit to its rows, some at a time: what is yielded at once must fit into memory several times."""

Gather = Callable[[int, Mapping[str, pa.Table]], bytes]
"""From a part and all rows that go there, by input, in no order, to its answer."""


class Engine(Protocol):
    """Runs the steps of plans."""

    @property
    def name(self) -> str:
        """How it is shown: `embedded`, or the master's URL."""

    @property
    def tasks(self) -> int:
        """How many tasks run at the same time, for plans that choose how finely they cut."""

    def each(self, name: str, units: Sequence[Unit], work: Work[Unit]) -> list[bytes]:
        """Return the answer for each unit, in the order of the units.

        Raises:
            Unavailable: the cluster cannot be reached or lost too many tasks; nothing has been decided.
            ProfilelakeError: what the work itself raised.
        """

    def spread(
        self,
        name: str,
        units: Sequence[Unit],
        cut: CutUp[Unit],
        inputs: Mapping[str, pa.Schema],
        parts: int,
        gather: Gather,
    ) -> dict[int, bytes]:
        """Bring together the rows that `cut` makes of all units, by part, and return the answer for each part.

        `gather` has a table for every one of `inputs`, empty where nothing came; parts with no rows at
        all are not asked. One part is in memory at a time in each task. Raises as `each`.
        """

    def close(self) -> None:
        """Give up what the engine holds."""
