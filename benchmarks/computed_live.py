"""What computed traits and audiences cost the live path, per event, beside a pipeline without any.

    python benchmarks/computed_live.py --events 200000 --profiles 20000

Gives `Batcher.apply` the same micro-batches three times: with no definition, with a tenth of the definitions,
with all. A fourth of the events match a definition's name; a definition has windows, sums, last values, funnels.
All transactions are the real ones, to the disk; the lake is not part of it. Printed are processor microseconds per
event of the whole micro-batch and of its stage `computed`, and what the online state takes.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from profilelake.audiences import facts
from profilelake.eventlog import Flags, Kind, LogEnd, Record, Slice
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.semantics.definitions import Definition
from profilelake.semantics.rules import segment_defaults
from profilelake.state.store import Db, State

WORKSPACE = "default"
START = 1_772_359_210_000_000
STEP_MICROS = 100_000
"""A micro-batch has the events of a tenth of a second, of time in the log."""
PER_RECORD = 20
NAMES = [f"Event {number}" for number in range(40)]
TEXTS = (
    "event('{n}').count() >= 3",
    "event('{n}').within(7 days).count() >= 2",
    "event('{n}').where( property('value') >= 50 ).within(1 day).count() >= 1",
    "NOT event('{n}').within(30 days).count() >= 1",
    "event('{n}').sum(property('value'))",
    "event('{n}').last(property('item'))",
    "event('{n}').where( NOT event('{m}').within(parent: 1 days).count() >= 1 ).within(7 days).count() >= 1",
    "event('{n}').within(7 days).unique(property('item')).count()",
    "event('{n}').count() >= 1 AND event('{m}').count() = 0",
    "event('{n}').within(30 days).avg(property('value')) > 40",
)


def definitions(count: int) -> list[Definition]:
    made = []
    for number in range(count):
        text = TEXTS[number % len(TEXTS)].format(n=NAMES[number % 10], m=NAMES[(number + 3) % 10])
        trait = not any(sign in text for sign in (">", "=", "NOT"))
        made.append(Definition(f"d{number}", "trait" if trait else "audience", text, external_ids=()))
    return made


def slices(arguments: argparse.Namespace) -> Iterator[Slice]:
    """Yield micro-batches of track calls of known people, the definitions' facts before them."""
    rng, offset, number, at = Random(arguments.seed), 0, 0, START
    while number < arguments.events:
        records = []
        at += STEP_MICROS
        for place in range(arguments.micro_batch // PER_RECORD):
            messages = []
            for _ in range(PER_RECORD):
                number += 1
                messages.append(
                    {
                        "type": "track",
                        "event": rng.choice(NAMES),
                        "userId": f"u{rng.randrange(arguments.profiles)}",
                        "messageId": f"m{number}",
                        "properties": {"value": rng.randrange(100), "item": f"i{rng.randrange(50)}"},
                    }
                )
            record = record_of(
                at + place, offset, number - PER_RECORD, json.dumps({"batch": messages}).encode()
            )
            records.append(record)
            offset = record.next_offset
        end = LogEnd(offset, number)
        yield Slice(records, {records[0].log_id: end}, records[-1].received_at, (), ())


def record_of(
    at: int, offset: int, before: int, body: bytes, kind: Kind = Kind.BATCH, log: str = "a"
) -> Record:
    return Record(
        received_at=at,
        region="local",
        log_id=log * 16,
        offset=offset,
        next_offset=offset + len(body) + 40,
        events_before=before,
        workspace=WORKSPACE,
        source_id="" if kind is Kind.FACT else "shop",
        kind=kind,
        flags=Flags.NONE,
        events=0 if kind is Kind.FACT else PER_RECORD,
        extraction_version=1,
        ip="",
        sent_at="",
        body=body,
    )


def run(directory: Path, defined: Sequence[Definition], arguments: argparse.Namespace) -> dict[str, float]:
    state = State.open(directory / "state", writable=True)
    setup = WorkspaceSetup(
        name=WORKSPACE,
        rules=segment_defaults(),
        identifier_key=bytes(range(16)),
        recent_directory=directory / "recent",
        dedup_directory=directory / "dedup",
    )
    stages = Stages(CollectorRegistry())
    batcher = Batcher(state, [setup], "local", START, Timer(stages))
    offset = 0
    for one in defined:
        body = facts.encode(facts.Define(by="benchmark", definition=one))
        record = record_of(START, offset, 0, body, Kind.FACT, "b")
        offset = record.next_offset
        batcher.apply(Slice([record], {record.log_id: LogEnd(offset, 0)}, START, (), ()))
    while batcher.tend_computing(START):
        pass
    evaluated = changes = 0
    spent, before = [], stages.seconds["computed"]._value.get()  # noqa: SLF001 - the only way to read it
    for slice in slices(arguments):
        began = time.process_time()
        batcher.apply(slice)
        while batcher.tend_computing(slice.watermark):
            pass
        spent.append(time.process_time() - began)
        done = batcher.computed()
        evaluated, changes = evaluated + done.evaluated, changes + done.changes
    computed = stages.seconds["computed"]._value.get() - before  # noqa: SLF001 - as above
    with state.read(WORKSPACE) as tx:
        held = sum(tx.bytes_used(WORKSPACE, db) for db in Db if db.startswith(("step", "computed", "timer")))
    state.close()
    # The first fifth makes the profiles and compiles what is compiled; the rest is what goes on for ever.
    kept = spent[len(spent) // 5 :]
    events = arguments.micro_batch // PER_RECORD * PER_RECORD
    return {
        "definitions": len(defined),
        "cpu_us_per_event": round(sum(kept) / (len(kept) * events) * 1e6, 2),
        "computed_us_per_event": round(computed / arguments.events * 1e6, 2),
        "p99_micro_batch_ms": round(sorted(kept)[int(len(kept) * 0.99)] * 1e3, 1),
        "evaluated_per_event": round(evaluated / arguments.events, 3),
        "changes": changes,
        "state_mib": round(held / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--profiles", type=int, default=20_000)
    parser.add_argument("--definitions", type=int, default=50)
    parser.add_argument("--micro-batch", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(vars(arguments)), machine(), sep="\n")
    baseline = 0.0
    for count in (0, max(1, arguments.definitions // 10), arguments.definitions):
        with tempfile.TemporaryDirectory() as directory:
            found = run(Path(directory), definitions(count), arguments)
        baseline = baseline or found["cpu_us_per_event"]
        print(json.dumps(found | {"ratio_to_none": round(found["cpu_us_per_event"] / baseline, 2)}))


if __name__ == "__main__":
    main()
