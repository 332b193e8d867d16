"""Log lines: one JSON object per line on stderr, no personal data, no control characters."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final

from profilelake.errors import ProfilelakeError

_TELLING: Final = (ProfilelakeError, OSError)
"""Errors whose text is ours or the system's. Those of libraries repeat the value they failed on."""
_CAUSES_MAX: Final = 10


class _JsonLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "at": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1]:
            line["error"] = _told(record.exc_info[1])
        return json.dumps(line)


def _told(error: BaseException) -> str:
    """Return where an error came from, and its causes first, with the text of those that tell no values."""
    parts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(parts) < _CAUSES_MAX:
        text = f": {link}" if isinstance(link, _TELLING) else ""
        frames = "".join(traceback.format_tb(link.__traceback__))
        parts.append(f"{frames}{type(link).__module__}.{type(link).__qualname__}{text}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\nwhich led to:\n".join(reversed(parts))


def configure(process: str, level: int = logging.INFO) -> None:
    """Send this process's log lines to stderr, marked with its name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("pyiceberg", "uvicorn.access", "uvicorn.error", "numba", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
