"""Read a pipe from the event loop in large pieces, with one copy and no buffer of our own."""

import asyncio
import os
from collections.abc import AsyncIterator


async def pieces(descriptor: int, bytes_max: int) -> AsyncIterator[bytes]:
    """Yield what comes through a pipe until its last writer has closed it, at most `bytes_max` at a time.

    Nothing is read while the caller is busy with a piece, so whoever writes waits for him.
    """
    os.set_blocking(descriptor, False)
    while True:
        try:
            piece = os.read(descriptor, bytes_max)
        except BlockingIOError:
            await _readable(descriptor)
            continue
        if not piece:
            return
        yield piece


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    # Removed each time: left in place it would be called again and again while nobody reads.
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
