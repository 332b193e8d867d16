"""What plans ask before they commit files that tasks wrote, maybe hours ago."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from profilelake.engines.jobs import Job
from profilelake.lake.storage import Storage

T = TypeVar("T")


@contextmanager
def with_files(
    begin: Callable[[], Job], run: Callable[[Job], T], locations: Callable[[T], Sequence[str]]
) -> Iterator[tuple[Job, T]]:
    """Run a job and give it with what it answers, all files there that this speaks of; left at the end of `with`.

    What a job remembers may be older than files that nobody committed are kept: then it begins anew. Ask
    `Job.check` before each commit.
    """
    with ExitStack() as running:
        job = running.enter_context(begin())
        resumed = any(file.location.endswith("/done.msgpack") for file in job.storage.list(job.folder("")))
        answer = run(job)
        if resumed and not keep(job.storage, locations(answer)):
            job.finish()
            job = running.enter_context(begin())
            answer = run(job)
        yield job, answer


def keep(storage: Storage, locations: Iterable[str]) -> bool:
    """Have a sweep spare files that are about to be committed; tell whether all of them are there still."""
    try:
        storage.touch(locations)
    except FileNotFoundError:
        return False
    return True
