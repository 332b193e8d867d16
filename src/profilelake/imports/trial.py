"""Tries an import without importing: reads the first events and tells what would fail, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from profilelake.imports.chunks import cut
from profilelake.imports.files import ImportFile, opened
from profilelake.imports.tables import Reading, read_lines
from profilelake.semantics.events import (
    EVENT_TYPES,
    Envelope,
    Event,
    Lines,
    Rejected,
    event_lines,
    parse_line,
)
from profilelake.semantics.rules import IdentityRules

TRIAL_EVENTS: Final = 10_000
"""Events of each file that are tried."""
_RAW_BYTES_SHOWN: Final = 200


@dataclass(slots=True)
class Failure:
    """One reason for which events of a file would fail, with the first of them."""

    reason: str
    detail: str
    line: int
    raw: str
    events: int = 0


@dataclass(slots=True)
class Trial:
    """What the first events of a file would become; `whole` where these are all."""

    file: str
    events: int = 0
    good: int = 0
    whole: bool = True
    failures: dict[str, Failure] = field(default_factory=dict)


def try_files(
    files: Sequence[ImportFile], reading: Reading, source_id: str, rules: IdentityRules, now: int
) -> list[Trial]:
    """Return what importing the files would bring.

    Raises:
        Invalid: a file cannot be read at all.
    """
    return [_try(file, reading, source_id, rules, now) for file in files]


def _try(file: ImportFile, reading: Reading, source_id: str, rules: IdentityRules, now: int) -> Trial:
    trial = Trial(file.name)
    default = next((kind for kind in EVENT_TYPES if kind == reading.default_type), None)
    with opened(file) as source:
        for chunk in cut(read_lines(source, reading).blocks, lambda _: ()):
            envelope = Envelope(
                received_at=now,
                region="",
                log_id="00" * 8,
                offset=0,
                source_id=source_id,
                type=None,
                events=chunk.events,
                lines=Lines(chunk.name, default),
            )
            lines = event_lines(chunk.body)
            for line in islice(lines, TRIAL_EVENTS - trial.events):
                trial.events += 1
                _count(trial, parse_line(line, envelope, 0, rules))
            if trial.events == TRIAL_EVENTS:
                trial.whole = False
                break
    return trial


def _count(trial: Trial, outcome: Event | Rejected) -> None:
    if isinstance(outcome, Event):
        trial.good += 1
        return
    first = Failure(
        outcome.reason,
        outcome.detail,
        trial.events,
        outcome.raw[:_RAW_BYTES_SHOWN].decode("utf-8", "backslashreplace"),
    )
    trial.failures.setdefault(outcome.reason, first).events += 1
