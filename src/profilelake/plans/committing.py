"""What plans ask before they commit files that tasks wrote, maybe hours ago."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from profilelake.engines.jobs import Job
from profilelake.lake.storage import Storage

T = TypeVar("T")


def with_files(
    begin: Callable[[], Job], run: Callable[[Job], T], locations: Callable[[T], Sequence[str]]
) -> T:
    """Run a job and return what it answers, with all files there that it speaks of.

    What a job remembers may be older than files that nobody committed are kept: then it begins anew.
    """
    job = begin()
    resumed = any(file.location.endswith("/done.msgpack") for file in job.storage.list(job.folder("")))
    answer = run(job)
    if not resumed or keep(job.storage, locations(answer)):
        return answer
    job.finish()
    return run(begin())


def keep(storage: Storage, locations: Iterable[str]) -> bool:
    """Have a sweep spare files that are about to be committed; tell whether all of them are there still."""
    try:
        storage.touch(locations)
    except FileNotFoundError:
        return False
    return True
