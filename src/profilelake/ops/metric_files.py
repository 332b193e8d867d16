"""The files through which the processes of a server share their metrics."""

import contextlib
import os
from pathlib import Path
from typing import Final

METRIC_BYTES: Final = 256 * 1024
"""Room for about 2,500 series of one kind in one process; the server has a few hundred."""

_KINDS: Final = ("counter", "histogram")


def reserve_metric_files(directory: Path, process: int) -> None:
    """Give the metric files of a process their place on the disk before any metric is made.

    The client library writes them through shared memory. Were they made of holes, as it makes them,
    the first count in a new page on a full disk would end the process with a signal. A disk that is
    full already is left to whoever needs it more.
    """
    for kind in _KINDS:
        with contextlib.suppress(OSError):
            descriptor = os.open(
                directory / f"{kind}_{process}.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            try:
                os.posix_fallocate(descriptor, 0, METRIC_BYTES)
            finally:
                os.close(descriptor)
