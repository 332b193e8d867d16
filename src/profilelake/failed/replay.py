"""Sending failed events again: what would become of them, and then into the event log."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from profilelake.eventlog import Entry, Flags, Kind
from profilelake.eventlog.embedded import LogWriter
from profilelake.failed.edits import Edits, NotEditable
from profilelake.failed.find import Failed
from profilelake.failed.journal import Journal, Replay
from profilelake.ops.clock import Clock
from profilelake.semantics import json_text
from profilelake.semantics.events import Envelope, Rejected, parse_record
from profilelake.semantics.reasons import MESSAGE_ID_CONFLICT
from profilelake.semantics.rules import EXTRACTION_VERSION, IdentityRules
from profilelake.semantics.standalone import Message

RECORD_EVENTS_MAX: Final = 500
RECORD_BYTES_MAX: Final = 512 * 1024
"""What one record of the log takes: no more than a request may bring."""
EXAMPLES_MAX: Final = 5
"""Events that are named for each reason."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What would become of a failed event if it was sent as `text`; no `reason`: it would be accepted."""

    failed: Failed
    text: str = ""
    reason: str | None = None
    detail: str = ""


@dataclass(slots=True)
class Outcome:
    """What a replay did: events found, sent (or to be sent), and those that would fail again, by reason."""

    found: int = 0
    sent: int = 0
    replayed_before: int = 0
    failing: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Judged]] = field(default_factory=dict)

    def note(self, judged: Judged) -> None:
        """Count an event that would fail again."""
        if judged.reason is not None:
            self.failing[judged.reason] += 1
            listed = self.examples.setdefault(judged.reason, [])
            if len(listed) < EXAMPLES_MAX:
                listed.append(judged)


@dataclass(frozen=True, slots=True)
class Judge:
    """Says what would become of failed events, by the reference, before anything is sent.

    The reference knows no other events: that a message id is taken shows only when the event lands.
    """

    rules: IdentityRules
    edits: Edits
    new_message_id: bool
    now: int

    def judge(self, failed: Failed, event: Message | None) -> Judged:
        """Judge one event, `event` being what is sent in its place before the edits."""
        if event is None:
            return Judged(
                failed, reason=failed.reason, detail="no event can be read in it; write one with --edit"
            )
        try:
            edited = self.edits.apply(event)
        except NotEditable as error:
            return Judged(failed, reason=failed.reason, detail=str(error))
        if self.new_message_id:
            # Made of the position, so that a second replay brings the same id and is a duplicate.
            edited["messageId"] = f"pl-{failed.position.hex()}"
        text = json_text.dump(edited)
        envelope = Envelope(self.now, failed.region, "0" * 16, 0, failed.source_id, None, 1)
        outcome = parse_record(f'{{"batch":[{text}]}}'.encode(), envelope, self.rules)[0]
        if isinstance(outcome, Rejected):
            return Judged(failed, text, outcome.reason, outcome.detail)
        if failed.reason == MESSAGE_ID_CONFLICT and outcome.message_id == failed.message_id:
            return Judged(failed, text, MESSAGE_ID_CONFLICT, "the messageId is taken; give --new-message-id")
        return Judged(failed, text)


def records(judged: Iterable[Judged]) -> Iterator[list[Judged]]:
    """Gather events into records: of one source each, and of bounded size."""
    held: dict[str, list[Judged]] = {}
    sizes: Counter[str] = Counter()
    for each in judged:
        source, size = each.failed.source_id, len(each.text.encode()) + 1
        gathered = held.setdefault(source, [])
        if gathered and (len(gathered) >= RECORD_EVENTS_MAX or sizes[source] + size > RECORD_BYTES_MAX):
            yield gathered
            held[source] = gathered = []
            sizes[source] = 0
        gathered.append(each)
        sizes[source] += size
    yield from (gathered for gathered in held.values() if gathered)


def send(
    gathered: Iterable[Sequence[Judged]],
    open_writer: Callable[[], LogWriter],
    journal: Journal,
    workspace: str,
    clock: Clock,
) -> int:
    """Append records to the event log, each noted in the journal once it is durable; return the events.

    Works beside a running server, which takes them up at once, and without one, which does at its
    next start. Cut short anywhere, it may be repeated: what was sent is a duplicate then.

    Raises:
        Unavailable: the log cannot be written at the moment.
    """

    async def run() -> int:
        sent = 0
        writer: LogWriter | None = None
        try:
            for record in gathered:
                # Not before there is something to send: every writer leaves a log behind.
                writer = writer or open_writer()
                offset = writer.end.offset
                await writer.append(_entry(record, workspace))
                at = clock()
                journal.add(
                    [
                        Replay(each.failed.position, at, writer.log_id, offset, index)
                        for index, each in enumerate(record)
                    ]
                )
                sent += len(record)
        finally:
            if writer is not None:
                writer.close()
        return sent

    return asyncio.run(run())


def _entry(record: Sequence[Judged], workspace: str) -> Entry:
    body = '{"batch":[' + ",".join(each.text for each in record) + "]}"
    source_id = record[0].failed.source_id
    return Entry(
        workspace, source_id, Kind.BATCH, Flags.NONE, len(record), EXTRACTION_VERSION, "", "", body.encode()
    )
