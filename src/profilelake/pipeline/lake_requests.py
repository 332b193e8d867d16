"""What commands ask of the lake process, which alone commits to the tables: small files in `run/lake`.

A request is a file that appears whole; its answer another. Whoever asked takes both away. A request that
nobody waits for any more is gone before it is carried out.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import msgspec

from profilelake import errors
from profilelake.errors import Internal, ProfilelakeError, Unavailable

REQUESTS_MAX: Final = 100
"""More are refused: somebody asks in a loop."""
POLL_SECONDS: Final = 0.05
_ASKED: Final = ".ask"
_ANSWERED: Final = ".answer"
_KINDS: Final = ("Invalid", "NotFound", "Conflict", "Unavailable", "Corrupt", "Internal")


class Request(msgspec.Struct, frozen=True):
    """One thing to do to tables; all of them where none are named."""

    action: Literal["compact", "expire"]
    tables: tuple[str, ...] = ()
    dry_run: bool = False
    age_seconds: float = 0.0
    """Of `expire`: snapshots younger than this stay."""
    orphan_seconds: float = 3600.0
    """Of `expire`: files younger than this stay."""
    seconds_max: float = 600.0


class Answer(msgspec.Struct, frozen=True):
    """What was done, a row for each table; or what went wrong."""

    rows: list[dict[str, Any]] = []
    kind: str = ""
    error: str = ""


def ask(
    folder: Path, request: Request, seconds_max: float, alive: Callable[[], bool]
) -> list[dict[str, Any]]:
    """Have the lake process carry out a request; return what it did.

    Raises:
        Unavailable: it did not answer in time, or is gone; the request is withdrawn.
        Errors that it met, as their kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob(f"*{_ASKED}"))) >= REQUESTS_MAX:
        raise Unavailable(f"asking the lake process: {REQUESTS_MAX} requests wait already; retry later")
    asked = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{_ASKED}"
    answered = asked.with_suffix(_ANSWERED)
    unfinished = asked.with_suffix(".new")
    try:
        unfinished.write_bytes(msgspec.json.encode(request))
        unfinished.rename(asked)
        until = time.monotonic() + seconds_max
        while time.monotonic() < until:
            if answered.exists():
                return _rows(msgspec.json.decode(answered.read_bytes(), type=Answer))
            if not alive():
                raise Unavailable("asking the lake process: the server has stopped; run the command again")
            time.sleep(POLL_SECONDS)
        raise Unavailable(
            f"asking the lake process: no answer within {seconds_max:.0f} s, it may be busy; what was done "
            "stays done, run the command again later"
        )
    finally:
        for path in (unfinished, asked, answered):
            path.unlink(missing_ok=True)


def _rows(answer: Answer) -> list[dict[str, Any]]:
    if answer.error:
        _raise(answer)
    return answer.rows


def _raise(answer: Answer) -> NoReturn:
    kind = getattr(errors, answer.kind) if answer.kind in _KINDS else Internal
    raise kind(answer.error)


def carry_out(folder: Path, work: Callable[[Request], list[dict[str, Any]]]) -> int:
    """Do what is asked for now, in the order of asking; return how many requests there were."""
    count = 0
    for path, request in _waiting(folder):
        count += 1
        try:
            answer = Answer(rows=work(request))
        except ProfilelakeError as error:
            answer = Answer(kind=type(error).__name__, error=str(error))
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(msgspec.json.encode(answer))
        if path.exists():
            path.unlink(missing_ok=True)
            unfinished.rename(path.with_suffix(_ANSWERED))
        else:
            unfinished.unlink()  # Nobody waits for it any more.
    return count


def _waiting(folder: Path) -> Iterator[tuple[Path, Request]]:
    for path in sorted(folder.glob(f"*{_ASKED}")):
        try:
            yield path, msgspec.json.decode(path.read_bytes(), type=Request)
        except FileNotFoundError:
            continue
        except msgspec.DecodeError:
            path.unlink(missing_ok=True)  # Not ours: a request appears whole.


def forget(folder: Path) -> None:
    """Take away answers that an earlier process left for somebody who is gone."""
    for path in folder.glob("*"):
        if path.suffix in (_ANSWERED, ".unfinished", ".new"):
            path.unlink(missing_ok=True)
