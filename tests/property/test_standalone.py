"""An event taken out of its request and sent by itself, later, means what it meant."""

from dataclasses import replace

from hypothesis import example, given, settings
from test_parse_agrees import NASTY, RULES, SEEDS, Writer

from profilelake.landing._documents import envelope_of
from profilelake.landing.requests import Request
from profilelake.semantics import json_text
from profilelake.semantics.events import EVENT_BYTES_MAX, Envelope, Event, Rejected, parse_record
from profilelake.semantics.positions import Position
from profilelake.semantics.standalone import events_of, standalone

LATER = 7_000_000_000
SHAPE = {"not_an_object", "nested_too_deeply", "undecodable_line"}
"""Reasons of events in which nothing can be read."""
SIZE = "event_too_large"


@settings(max_examples=200)
@given(SEEDS, NASTY)
@example(733371, 0.05)
def test_it_means_the_same_by_itself(seed: int, nasty: float) -> None:
    item, body = Writer(seed, nasty).record()
    envelope = envelope_of(item)
    outcomes = parse_record(body, envelope, RULES)
    if not outcomes or any(o.reason == "undecodable_record" for o in outcomes if isinstance(o, Rejected)):
        return
    # What a failed event keeps of its request brings its envelope back.
    position = Position.from_bytes(outcomes[0].position.to_bytes(), item.region)
    kept = Request.decode(Request.of(item, packed=False).encode())
    assert kept.envelope(position, item.source_id, item.events) == envelope
    raws, batch = events_of(body, envelope)
    assert [raw for raw, o in zip(raws, outcomes, strict=True) if isinstance(o, Rejected)] == [
        o.raw for o in outcomes if isinstance(o, Rejected)
    ]
    assert [o.batch for o in outcomes if isinstance(o, Rejected)][:1] in ([], [batch])
    for index, (raw, outcome) in enumerate(zip(raws, outcomes, strict=True)):
        message = standalone(raw, batch, envelope, index)
        if message is None:
            assert isinstance(outcome, Rejected)
            assert outcome.reason in SHAPE or len(raw) > EVENT_BYTES_MAX
            continue
        text = json_text.dump(message)
        again = parse_record(f'{{"batch":[{text}]}}'.encode(), _later(envelope), RULES)[0]
        if isinstance(outcome, Rejected):
            # By itself it may be small enough, and then show what else is wrong.
            assert isinstance(again, Rejected) or outcome.reason == SIZE
            # What is wrong with a batch comes first there, and not where the event carries it itself.
            of_batch = (outcome.detail or "").startswith("batch ")
            if isinstance(again, Rejected) and SIZE not in (outcome.reason, again.reason) and not of_batch:
                assert again.reason == outcome.reason
            continue
        if isinstance(again, Rejected):
            assert again.reason == SIZE
            continue
        assert _content(again) == _content(outcome)


def _later(envelope: Envelope) -> Envelope:
    return Envelope(
        envelope.received_at + LATER, "elsewhere", "ff" * 8, 99, envelope.source_id, None, events=1
    )


def _content(event: Event) -> Event:
    """Return an event without its place and the times of its sending."""
    return replace(
        event, position=Position(0, "", "00", 0, 0), received_at=0, original_timestamp=None, sent_at=None
    )
