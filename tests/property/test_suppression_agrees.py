"""Collect, landing and the reference agree on whose events are suppressed, whatever a sender writes."""

from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from test_parse_agrees import NASTY, SEEDS
from test_rules_agree import Places, rules_of

from profilelake.collect import bodies
from profilelake.collect.answers import Refused
from profilelake.collect.limits import CollectLimits
from profilelake.collect.suppress import Suppression
from profilelake.eventlog import Entry, Flags, Kind, Record
from profilelake.landing._bodies import unpack
from profilelake.landing._documents import envelope_of
from profilelake.landing.parse import parse
from profilelake.landing.suppress import Suppression as Judge
from profilelake.semantics import json_text
from profilelake.semantics.events import Event, Rejected, parse_record
from profilelake.semantics.identifiers import Identifier, ident_id, normalised
from profilelake.semantics.rules import COLLECTIONS, IdentityRules, segment_defaults
from profilelake.semantics.suppression import (
    PREVIOUS_ID_TYPES,
    Name,
    context_names,
    names_anywhere,
    read,
)
from profilelake.workspaces.suppressions import Digests

ANY_RULES: Final = st.one_of(
    st.just(segment_defaults(custom=("app_id", "email"))), st.builds(rules_of, SEEDS)
)
KEY: Final = b"0123456789abcdef"
LIMITS: Final = CollectLimits()
TRIED: Final = 6
"""People of one body who are suppressed in turn."""
CHOSEN: Final = st.integers(0, 2**32 - 1)


class Contexts(Places):
    """Has batches hand down contexts in which identifiers stand."""

    def plain_context(self) -> Any:
        return self.context()


class Ring:
    """The list as a collecting process has it."""

    def __init__(self, digests: set[bytes]) -> None:
        self._digests = digests

    def digests(self, _workspace: str) -> set[bytes]:
        return self._digests


def collecting(names: set[Name], rules: IdentityRules) -> Suppression:
    digests = Digests(KEY)
    listed = {digests.digest(collection, one.type, one.value) for collection, one in names}
    return Suppression(Ring(listed), lambda _: rules, lambda _: KEY, LIMITS)  # type: ignore[arg-type]


def judging(names: set[Name], rules: IdentityRules) -> Judge:
    listed = {ident_id(KEY, collection, one) for collection, one in names}
    return Judge(KEY, rules, lambda: (1, listed))


def named(event: Event, rules: IdentityRules) -> set[Name]:
    """Return whom an accepted event names."""
    found: set[Name] = {("users", one) for one in event.users} | {("accounts", one) for one in event.accounts}
    if event.previous_id is not None:
        found |= {
            ("users", Identifier(kind, value))
            for kind in PREVIOUS_ID_TYPES
            if (value := normalised(rules, "users", kind, event.previous_id))
        }
    return found


def entry_of(made: Record, checked: bodies.Checked) -> Entry:
    return Entry(
        "default", "shop", made.kind, checked.flags, checked.events, 1, made.ip, made.sent_at, made.body
    )


def written(seed: int, nasty: float) -> tuple[Record, bytes, Entry] | None:
    """Return a body that collect takes; None where it made up another one."""
    writer = Contexts(seed, nasty)
    made, body = writer.record()
    while made.kind is Kind.LINES:
        made, body = writer.record()
    try:
        checked = bodies.check(made.kind, made.body, b"gzip" if made.flags & Flags.GZIP else b"", LIMITS)
    except Refused:
        return None
    if not checked.events:
        return None
    return made._replace(events=checked.events, flags=checked.flags), body, entry_of(made, checked)


@settings(max_examples=200)
@given(SEEDS, NASTY, CHOSEN, ANY_RULES)
def test_collect_takes_out_every_event_that_names_somebody_suppressed(
    seed: int, nasty: float, chosen: int, rules: IdentityRules
) -> None:
    found = written(seed, nasty)
    if found is None:
        return
    made, body, entry = found
    outcomes = parse_record(body, envelope_of(made), rules)
    context = _member(body, "context") if made.kind is Kind.BATCH else None
    inherited = context if isinstance(context, dict) else None
    # Not only whom the events name: who stands in a second place must not count as named.
    everybody = {name for one in outcomes if isinstance(one, Event) for name in named(one, rules)}
    everybody |= {name for one in _messages(made, body) for name in names_anywhere(one, inherited, rules)}
    listed = sorted(everybody)
    for number in range(min(len(listed), TRIED)):
        suppressed = {listed[(chosen + number) % len(listed)]}
        stored, taken = collecting(suppressed, rules).withhold(entry)
        hits = [isinstance(one, Event) and bool(named(one, rules) & suppressed) for one in outcomes]
        if not taken:
            assert stored is entry
            assert not any(hits)
            continue
        assert stored.flags & Flags.SUPPRESSED
        assert stored.events == entry.events
        parsed = parse([made._replace(body=stored.body, flags=stored.flags)], rules)
        assert parsed.suppressed >= taken
        assert parsed.events.num_rows + parsed.failed.num_rows + parsed.suppressed == made.events
        # Of accepted events exactly those are gone, and the others are what they would have been.
        shortened = context_names(inherited, rules) & suppressed
        if shortened and any(
            isinstance(one, Rejected) and one.reason == "event_too_large" for one in outcomes
        ):
            continue  # without what was taken out, what they share may no longer be too large
        without = ["context", "consent", "library"] if shortened else []
        kept = parsed.events.drop_columns(without).to_pylist()
        whole = parse([made], rules).events.drop_columns(without).to_pylist()
        good = [place for place, one in enumerate(outcomes) if isinstance(one, Event)]
        assert kept == [row for row, place in zip(whole, good, strict=True) if not hits[place]]


def _messages(made: Record, body: bytes) -> list[Any]:
    found = _member(body, "batch") if made.kind is Kind.BATCH else [read(body)]
    return found if isinstance(found, list) else []


def _member(body: bytes, name: str) -> Any:
    text = json_text.decode_bytes(body)
    found = dict(json_text.members(text, json_text.whole(text))).get(name)
    return None if found is None else read(text[found.start : found.end].encode())


@settings(max_examples=120)
@given(st.lists(SEEDS, min_size=1, max_size=3), NASTY, CHOSEN, ANY_RULES)
def test_nothing_that_lands_names_somebody_suppressed(
    seeds: list[int], nasty: float, chosen: int, rules: IdentityRules
) -> None:
    made = [Contexts(seed, nasty).record() for seed in seeds]
    records = [item._replace(offset=at) for at, (item, _) in enumerate(made)]
    whole = parse(records, rules)
    everybody = sorted({name for names in _named_in(records, rules) for name in names})
    if not everybody:
        return
    suppressed = {everybody[chosen % len(everybody)], everybody[chosen // 7 % len(everybody)]}
    judged = judging(suppressed, rules).judge(whole)
    before = whole.events.num_rows + whole.failed.num_rows
    assert judged.events.num_rows + judged.failed.num_rows + judged.suppressed == before
    assert judged.suppressed >= sum(bool(names & suppressed) for names in _named_in(records, rules))
    rows = judged.identifiers.to_pylist()
    assert not [
        row
        for row in rows
        if (COLLECTIONS[row["collection"]], Identifier(row["type"], row["value"])) in suppressed
    ]
    # The identifiers are still those of their events.
    positions = judged.events.column("position").to_pylist()
    place = {position: row for row, position in enumerate(whole.events.column("position").to_pylist())}
    original: dict[int, list[tuple[object, ...]]] = {}
    for row in whole.identifiers.to_pylist():
        original.setdefault(row["row"], []).append((row["collection"], row["type"], row["value"]))
    left: dict[int, list[tuple[object, ...]]] = {}
    for row in rows:
        left.setdefault(row["row"], []).append((row["collection"], row["type"], row["value"]))
    assert [left[row] for row in range(len(positions))] == [
        original[place[position]] for position in positions
    ]
    for row in judged.failed.to_pylist():
        context = read(row["batch"].encode()) if row["batch"] else None
        inherited = context.get("context") if isinstance(context, dict) else None
        found = names_anywhere(
            read(row["raw"] or b""), inherited if isinstance(inherited, dict) else None, rules
        )
        assert not found & suppressed


def _named_in(records: list[Record], rules: IdentityRules) -> list[set[Name]]:
    return [
        named(one, rules)
        for item in records
        for one in parse_record(unpack(item), envelope_of(item), rules)
        if isinstance(one, Event)
    ]
