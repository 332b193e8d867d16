"""The laws of the past, run with few examples in the fast suite and with many in the slow one."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import event, note
from hypothesis import strategies as st

from pipeline_arrivals import IDENTIFIERS, UNTRUSTED, Arrival, deliver, first_events, late, set_of
from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder
from pipeline_laws import desk
from profilelake.eventlog import Record
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.serve._answer import Refused
from profilelake.serve._past import Past
from profilelake.serve._profile import Found, find
from profilelake.serve._request import Query
from profilelake.serve.as_of import AsOf, Reading, activity_then, find_then
from profilelake.serve.event_history import event_history
from profilelake.state import activity
from profilelake.state.recent import RunReader
from profilelake.state.store import Tx

NOT_FOUND = 404
STEPS_MAX = 1
STEPS: dict[str, Callable[[Desk], object]] = {
    "publish": lambda lived: lived.publish(),
    "publish some": lambda lived: lived.publish(whole=False),
    "tend": lambda lived: lived.publisher.tend_runs(),
    "rebuild": Desk.rebuild,
}


def then_is_what_was_known_then(records: list[Record], data: st.DataObject) -> None:
    """`as_of=T` shows what a pipeline shows that was fed with the facts received until T only.

    Whatever came late, was published or rebuilt meanwhile, and whatever was decided since.
    """
    if not records:
        return
    times = sorted({record.received_at for record in records})
    at = data.draw(st.sampled_from(times)) + data.draw(st.sampled_from([0, 0, -1, 1]))
    known = [record for record in records if record.received_at <= at]
    with desk() as prompt, desk() as lived:
        if known:
            deliver(prompt, Arrival([known]))
        else:
            prompt.apply([LogBuilder("00000000000000dd").record(START - SECOND, [])])
        for batch in data.draw(late(records)).batches:
            lived.apply(batch)
            for step in data.draw(st.lists(st.sampled_from(sorted(STEPS)), max_size=STEPS_MAX)):
                note(step)
                STEPS[step](lived)
        was, told = shown_now(prompt), shown_then(lived, at)
        assert told == was
        event(f"profiles then: {len(set(map(str, was.values())) - {'None'})}")


def every_event_is_told_once(records: list[Record], data: st.DataObject) -> None:
    """All pages of a profile's history together are its events, each once and in order, in both directions."""
    with desk() as lived:
        for batch in data.draw(late(records)).batches:
            lived.apply(batch)
            for step in data.draw(st.lists(st.sampled_from(sorted(STEPS)), max_size=STEPS_MAX)):
                note(step)
                STEPS[step](lived)
        past = Past(lived._open_lake, lambda _: lived.setup.recent_directory, lived.directory / "spill")
        events = first_events(records)
        with closing(past), lived.state.read(WORKSPACE) as tx:
            for collection in COLLECTIONS:
                shown = {
                    (event.message_id, collection): event for event in events if getattr(event, collection)
                }
                for name in IDENTIFIERS[collection]:
                    found = _looked_for(tx, lived, collection, str(name))
                    if found is None:
                        continue
                    mine = sorted(
                        (event.timestamp, id)
                        for (id, _), event in shown.items()
                        if set_of(collection, getattr(event, collection)) in found.record.sets
                    )
                    assert _told(found, past, "asc") == [id for _, id in mine]
                    assert _told(found, past, "desc") == [id for _, id in reversed(mine)]


def _told(found: Found, past: Past, sort: str) -> list[str]:
    ids: list[str] = []
    following = ""
    while True:
        query = Query(f"sort={sort}&limit=3&next={following}".encode())
        page = event_history(found, query, past)
        ids += [event.message_id for event in page.data]
        following = page.cursor.next
        if not following:
            return ids


def _looked_for(tx: Tx, made: Desk, collection: Collection, id: str) -> Found | None:
    try:
        return find(tx, WORKSPACE, collection, id, KEY, made.rules())
    except Refused:
        return None


def shown_now(made: Desk) -> dict[Any, Any]:
    """Return what every identifier leads to today."""
    reader = RunReader(made.setup.recent_directory)
    with made.state.read(WORKSPACE) as tx:

        def shown(collection: Collection, id: str) -> object:
            found = find(tx, WORKSPACE, collection, id, KEY, made.rules())
            seen = activity.read(tx, WORKSPACE, reader, found.record.sets).values()
            return _profile(found, sum(one.count for one in seen))

        return _everybody(shown)


def shown_then(made: Desk, at: int) -> dict[Any, Any]:
    """Return what every identifier led to at a time."""
    past = Past(made._open_lake, lambda _: made.setup.recent_directory, Path(made.directory / "spill"))
    reading = Reading(past, KEY, made.setup.rules, UNTRUSTED)
    with closing(past), made.state.read(WORKSPACE) as tx:

        def shown(collection: Collection, id: str) -> object:
            found = find_then(tx, WORKSPACE, collection, id, AsOf(at, rules_now=False), reading)
            return _profile(found, activity_then(found, at, past)[0])

        answers = _everybody(shown)
        ids = {answer[0] for answer in answers.values() if answer is not None}
        for collection in COLLECTIONS:
            for id in ids:
                by_its_own = _tried(shown, collection, id)
                assert by_its_own is None or by_its_own[0] == id
    return answers


def _everybody(shown: Callable[[Collection, str], object]) -> dict[Any, Any]:
    return {
        (collection, str(name)): _tried(shown, collection, str(name))
        for collection in COLLECTIONS
        for name in IDENTIFIERS[collection]
    }


def _tried(shown: Callable[[Collection, str], Any], collection: Collection, id: str) -> Any:
    try:
        return shown(collection, id)
    except Refused as refused:
        if refused.status != NOT_FOUND:
            raise
        return None


def _profile(found: Found, events: int) -> tuple[Any, ...]:
    traits = {name: write.value for name, write in found.traits().items() if write.value is not None}
    return found.segment_id, sorted(found.record.idents), sorted(found.record.sets), traits, events
