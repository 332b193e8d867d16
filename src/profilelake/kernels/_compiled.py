"""How the loops over arrays are compiled."""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

_Function = TypeVar("_Function", bound=Callable[..., Any])
# The published types of numba leave `_nrt` out.
_jit: Final = cast(Callable[..., Any], numba.njit)


def compiled(function: _Function) -> _Function:
    """Compile a loop that allocates nothing, at its first call; kept on disk under NUMBA_CACHE_DIR.

    Without reference counts (`_nrt`), which the compiler cannot remove from calls inside loops: the
    constrained union-find ran 3 to 6 times slower with them. Hence results are written into arrays
    that the caller made. Threads may run it in parallel (`nogil`).
    """
    return cast(
        _Function, _jit(cache=True, nogil=True, _nrt=False, forceinline=True, error_model="numpy")(function)
    )


def read_only(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return a contiguous read-only view: arrays of any origin then have one type, compiled once."""
    view = np.ascontiguousarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view
