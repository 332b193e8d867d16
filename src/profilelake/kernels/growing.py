"""Arrays that grow where they lie: a large one is never copied, nor there twice."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_ROWS_AT_START: Final = 1 << 12
_SHARE: Final = 8
"""At each growth an array gains at least this part (one eighth) of its rows."""


class Growing:
    """An array whose first axis grows; new rows are zeros.

    `array` is only valid until the next `reserve`, and no view of it may live on by then: growth would
    otherwise pull the memory away from under it, so it is refused.
    """

    __slots__ = ("array",)

    def __init__(self, dtype: type[np.generic], *width: int) -> None:
        self.array: npt.NDArray[Any] = np.zeros((_ROWS_AT_START, *width), dtype=dtype)

    def reserve(self, rows: int) -> None:
        """Make room for so many rows.

        Raises:
            ValueError: a view of the array is still held somewhere.
        """
        held = len(self.array)
        if rows > held:
            # The system moves the pages of a large block to where there is room, without touching them.
            self.array.resize((max(rows, held + held // _SHARE), *self.array.shape[1:]))
