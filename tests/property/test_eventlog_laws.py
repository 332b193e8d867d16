"""Laws of the event log, for any history of appends, rolls, kills, reader restarts and flipped bits."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog_puppet import Puppet, entry, make_reader, position, read_all, write_log
from profilelake.eventlog import LogEnd, Record, Vector
from profilelake.eventlog._format import FOOTER_BYTES, HEADER_BYTES
from profilelake.eventlog.embedded import Limits

LOG_IDS = ["0a" * 8, "0b" * 8, "0c" * 8]

# What may happen to one of three writers: an append of so many events, a new segment, showing
# what is durable, and the end, clean or not. "read" is a read of the given size by the pipeline,
# "restart" one by a new reader.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(0, 5), st.integers(0, 400)),
        st.tuples(st.sampled_from(["roll", "publish", "finish", "kill"]), st.integers(0, 2)),
        st.tuples(st.sampled_from(["read", "restart"]), st.integers(1, 12), st.integers(1, 2000)),
    ),
    max_size=60,
)


class History:
    """Three writers led by the steps, and all that they wrote."""

    def __init__(self, root: Path) -> None:
        self.puppets = [Puppet(root, log_id) for log_id in LOG_IDS]
        self.living = dict(enumerate(self.puppets))
        self.written: list[bytes] = []

    def step(self, now: int, what: str, index: int, events: int = 0, size: int = 0) -> None:
        puppet = self.living.get(index)
        if puppet is None:
            return
        if what == "append":
            self.written.append(b"%d " % now + b"x" * size)
            puppet.add(now, self.written[-1], events)
        elif what == "publish":
            puppet.publish(now)
        elif what == "roll" and puppet.end.offset > puppet.base:
            puppet.seal(closed=False)
            puppet.roll()
            puppet.publish(now)
        elif what == "finish":
            puppet.watermark = now
            puppet.finish()
            del self.living[index]
        elif what == "kill":
            puppet.die()
            del self.living[index]

    def finish(self, now: int) -> None:
        for index in list(self.living):
            self.step(now, "finish", index)


@settings(max_examples=80)
@given(steps=steps)
def test_every_record_is_read_exactly_once_and_in_order(steps: list[tuple[str, int, int, int]]) -> None:
    root = Path(tempfile.mkdtemp(prefix="eventlog-law-"))
    reader = make_reader(root)
    history = History(root)
    vector: Vector = {}
    read: list[Record] = []
    try:
        for now, (what, *numbers) in enumerate(steps, 1):
            if what not in ("read", "restart"):
                history.step(now, what, *numbers)
                continue
            if what == "restart":
                reader.close()
                reader = make_reader(root)
            events_max, bytes_max = numbers
            part = reader.read(vector, bytes_max=bytes_max, events_max=events_max, wait_max_seconds=0)
            assert not part.damage
            assert all(record.received_at <= part.watermark for record in part.records)
            read += part.records
            vector = part.ends
        history.finish(len(steps) + 1)
        rest, vector, damage = read_all(root, vector, bytes_max=700, events_max=9)
        read += rest
        assert not damage
        assert sorted(record.body for record in read) == sorted(history.written)
        # A killed writer's unpublished records are late; all others keep to the one order.
        for log_id in LOG_IDS:
            offsets = [record.offset for record in read if record.log_id == log_id]
            assert offsets == sorted(offsets)
        if not any(step[0] == "kill" for step in steps):
            assert [position(record) for record in read] == sorted(position(record) for record in read)
        ends = {puppet.identity.log_id: puppet.end for puppet in history.puppets if puppet.end.offset}
        assert vector == ends
    finally:
        reader.close()
        shutil.rmtree(root)


@settings(max_examples=30)
@given(data=st.data())
def test_a_flipped_byte_harms_one_record_at_most_and_is_reported(data: st.DataObject) -> None:
    root = Path(tempfile.mkdtemp(prefix="eventlog-flip-"))
    try:
        bodies = data.draw(st.lists(st.binary(max_size=60), min_size=1, max_size=8))
        size = data.draw(st.sampled_from([1, 150, 10_000]))
        entries = [entry(b"%d:" % n + body, events=n % 3) for n, body in enumerate(bodies)]
        log_id = write_log(root, entries, limits=Limits(segment_bytes_max=size))
        before, vector, _ = read_all(root)
        segments = sorted((root / log_id).glob("*.seg"))
        path = data.draw(st.sampled_from(segments))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        if data.draw(st.booleans()):
            # After a power cut what was published is lost, so the reader has to find the end itself.
            watermark = root / log_id / "watermark"
            watermark.write_bytes(watermark.read_bytes()[:1024].ljust(4096, b"\0"))

        after, vector_after, damage = read_all(root)
        offset = int(path.stem) + place - HEADER_BYTES
        in_record = HEADER_BYTES <= place < len(content) - FOOTER_BYTES
        harmed = [record for record in before if in_record and record.offset <= offset < record.next_offset]
        assert after == [record for record in before if record not in harmed]
        assert vector_after == vector
        assert damage
        assert all(Path(each.path) == path for each in damage)
        assert sum(each.events for each in damage) == sum(record.events for record in harmed)
        for record in harmed:
            assert any(each.offset == record.offset for each in damage)
            assert all(each.next_offset <= record.next_offset for each in damage)
    finally:
        shutil.rmtree(root)


@settings(max_examples=60)
@given(
    bodies=st.lists(st.binary(max_size=80), min_size=1, max_size=8),
    cut=st.integers(0, 1000),
    garbage=st.binary(max_size=200),
)
def test_any_torn_tail_leaves_an_exact_prefix(bodies: list[bytes], cut: int, garbage: bytes) -> None:
    root = Path(tempfile.mkdtemp(prefix="eventlog-torn-"))
    try:
        puppet = Puppet(root, LOG_IDS[0])
        ends = [LogEnd(0, 0)]
        for at, body in enumerate(bodies, 1):
            puppet.add(at, body)
            ends.append(puppet.end)
        content = puppet.path.read_bytes()
        keep = max(HEADER_BYTES, len(content) - cut)
        puppet.path.write_bytes(content[:keep] + garbage)
        puppet.die()
        whole = [end for end in ends if HEADER_BYTES + end.offset <= keep]
        records, vector, damage = read_all(root)
        # Garbage that happens to repeat the cut bytes makes a record whole again.
        assert [record.body for record in records] == bodies[: len(records)]
        assert len(records) >= len(whole) - 1
        assert vector == ({puppet.identity.log_id: ends[len(records)]} if records else {})
        assert sum(each.events for each in damage) == 0
        assert read_all(root) == (records, vector, [])
    finally:
        shutil.rmtree(root)
