"""Asks the process that reads the lake for the result of a query, over its private socket."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from profilelake.errors import Invalid, Unavailable

POLL_SECONDS: Final = 0.25
ANSWER_SECONDS_MAX: Final = 30.0
"""How long one request to the other process may take; the query itself runs as a job."""
ASKER: Final = "definitions"
"""Whose queries these are, to the limits of the other process; no token has such an id."""
AGAIN: Final = frozenset({"worker_ended", "cancelled", "timeout", "byte_limit"})
"""Failures that are not the query's fault, or need not be."""


@dataclass(frozen=True, slots=True)
class QueryProcess:
    """The process that reads the lake, as one of this server's processes sees it."""

    socket: Path

    def result(self, query: str, path: Path, is_stopped: Callable[[], bool]) -> None:
        """Write the result of a query into a Parquet file.

        Raises:
            Invalid: the query cannot have one; the error says why.
            Unavailable: not now, or this process is to stop.
        """
        headers = {"x-profilelake-token": ASKER, "x-profilelake-sql": "whole"}
        transport = httpx.HTTPTransport(uds=str(self.socket))
        try:
            with httpx.Client(
                transport=transport, base_url="http://query", headers=headers, timeout=ANSWER_SECONDS_MAX
            ) as client:
                job = _told(
                    client.post("/api/sql", json={"query": query, "mode": "async", "format": "parquet"})
                )
                place = f"/api/sql/jobs/{job['id']}"
                while job["status"] in ("queued", "running"):
                    if is_stopped():
                        client.delete(place)
                        raise Unavailable("running a query: the server stops; it runs at the next start")
                    time.sleep(POLL_SECONDS)  # the answer is a file somewhere else: nothing can be waited for
                    job = _told(client.get(place), forgotten=True)
                if job["status"] != "done":
                    failure = job["error"]
                    error = Unavailable if failure["code"] in AGAIN else Invalid
                    raise error(f"running a query: {failure['code']}: {failure['message']}")
                with client.stream("GET", f"{place}/result") as answer, path.open("wb") as sink:
                    if answer.status_code != httpx.codes.OK:
                        raise Unavailable(f"reading the result of a query: status {answer.status_code}")
                    for piece in answer.iter_raw():
                        sink.write(piece)
                client.delete(place)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"asking the process that reads the lake: {type(error).__name__}; it is tried again"
            ) from error


def _told(answer: httpx.Response, *, forgotten: bool = False) -> dict[str, Any]:
    """Return what an answer says of a job; one that is `forgotten` was lost with the process that ran it."""
    try:
        document: dict[str, Any] = answer.json()
    except ValueError:
        document = {}  # of a fault there: nobody has put it in words
    if answer.status_code in (httpx.codes.OK, httpx.codes.ACCEPTED):
        data: dict[str, Any] = document.get("data", document)
        return data
    said = f"running a query: {document.get('code', answer.status_code)}: {document.get('detail', '')}"
    status = answer.status_code
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS or forgotten:
        raise Unavailable(said)
    raise Invalid(said)
