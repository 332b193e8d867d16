"""A lake from a seed in which everything happens that plans have a say in, by the pipeline in this process.

Calls of a shop's servers and of browsers; several types of identifiers, some shared; accounts and consent; calls
that come twice, come again from an earlier time, or say something else under an id that is taken; people's
decisions; computed traits and audiences that were announced.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
from prometheus_client import CollectorRegistry

from profilelake.audiences import facts as defining
from profilelake.audiences import handover
from profilelake.eventlog import Flags, Kind, LogEnd, Record, Slice
from profilelake.identity import facts
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.pipeline.batch import Batcher, WorkspaceSetup
from profilelake.pipeline.history import EventHistory
from profilelake.pipeline.metrics import Stages, Timer
from profilelake.pipeline.publish import Publisher, ensure_tables
from profilelake.semantics.definitions import Definition
from profilelake.semantics.definitions import Kind as DefinitionKind
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.semantics.rules import IdentityRules, segment_defaults
from profilelake.state.store import State

WORKSPACE: Final = "default"
KEY: Final = b"0123456789abcdef"
START: Final = 1_772_359_210_000_000
SECOND: Final = 1_000_000
WEB: Final = "web"
"""A source that strangers can write to."""
RECORD_CALLS: Final = 100
BATCH_CALLS: Final = 20_000
"""Calls of one micro-batch, each of which is published."""
STEP: Final = 20_000
"""Microseconds between two calls."""
SERVERS, BROWSERS, PEOPLE = "00000000000000aa", "00000000000000bb", "00000000000000cc"
"""The logs of two collecting processes, and the one that decisions are in."""
AGAIN_SHARE: Final = 0.03
"""Calls that are sent a second time."""
OTHER_SHARE: Final = 0.0005
"""Calls that say something else under an id that is taken."""
DECISIONS: Final = 40
_EVIDENCE: Final = (
    "SELECT message_id, position, set_id FROM events WHERE type = 'identify' ORDER BY position LIMIT 10"
)
"""Events that somebody says are no evidence."""
DEFINITIONS: Final[tuple[tuple[str, DefinitionKind, str], ...]] = (
    ("orders", "trait", "event('Order').count()"),
    ("spent", "trait", "event('Order').sum(property('price'))"),
    ("last_sku", "trait", "event('Order').last(property('sku'))"),
    ("busy", "audience", "event('Order').within(7 days).count() >= 2"),
    ("from_here", "audience", "trait('country') = 'NO'"),
    ("rich", "audience", "trait('spent') >= 500 AND trait('country') != 'SE'"),
)


def rules() -> IdentityRules:
    """Return the usual rules, with one that a shared device can break."""
    usual = segment_defaults()
    types = tuple(replace(one, limit=3) if one.type == "anonymous_id" else one for one in usual.types)
    return replace(usual, types=types)


@dataclass(frozen=True)
class Place:
    """Where state and lake of one data set lie."""

    directory: Path

    @property
    def state(self) -> Path:
        """The online state."""
        return self.directory / "state"

    def lake(self) -> Lake:
        """Open the lake."""
        return Lake.open(f"sqlite:///{self.directory / 'catalog.sqlite'}", self.directory / "lake")

    def setup(self) -> WorkspaceSetup:
        """Return what the pipeline knows of the workspace."""
        return WorkspaceSetup(
            name=WORKSPACE,
            rules=rules(),
            identifier_key=KEY,
            recent_directory=self.directory / "recent",
            dedup_directory=self.directory / "dedup",
            untrusted=lambda: frozenset({WEB}),
        )


class _Log:
    """Makes the records of one log, as its writer would."""

    def __init__(self, log_id: str) -> None:
        self._id = log_id
        self._end = LogEnd(0, 0)

    def record(
        self, at: int, body: bytes, count: int, source_id: str = "shop", kind: Kind = Kind.BATCH
    ) -> Record:
        """Return the next one."""
        made = Record(
            at, "local", self._id, self._end.offset, self._end.offset + len(body) + 40, self._end.events,
            WORKSPACE, source_id, kind, Flags.NONE, count, 1, "", "", body,
        )  # fmt: skip
        self._end = LogEnd(made.next_offset, made.events_before + count)
        return made


class _Shop:
    """Calls from a seed."""

    def __init__(self, people: int, seed: int) -> None:
        self._people = people
        self._rng = np.random.default_rng(seed)
        self._sent: list[str] = []

    def calls(self, first: int, count: int) -> Iterator[str]:
        """Yield so many calls, some of them as they were sent before."""
        draws = self._rng.random((count, 4)).tolist()
        people = self._rng.integers(0, self._people, count).tolist()
        for number, ((kind, again, told, device), person) in enumerate(
            zip(draws, people, strict=True), first
        ):
            if again < AGAIN_SHARE and self._sent:
                yield self._sent[int(kind * len(self._sent))]
                continue
            taken = again > 1 - OTHER_SHARE and number > 1
            call = self._call(number // 2 if taken else number, kind, told, device, person)
            if number % 10 == 0:
                self._sent.append(call)
            yield call

    def _call(self, number: int, kind: float, told: float, device: float, person: int) -> str:
        # One device in fifty is shared; a tenth of the people never sign in.
        owner = person // 50 if device < 0.02 else person
        head = f'"messageId":"m{number}","anonymousId":"a{owner}-{int(device * 3)}"'
        if person % 10:
            head += f',"userId":"u{person}"'
        at = START // SECOND + number // 20
        head += f',"timestamp":"{np.datetime64(at, "s")}Z"'
        context = '"locale":"nb"'
        if told < 0.1:
            answer = "true" if told < 0.06 else "false"
            context += f',"consent":{{"categoryPreferences":{{"Ads":{answer},"Maps":true}}}}'
        if told > 0.9:
            context += f',"device":{{"id":"d{owner}","type":"ios"}}'
        head += f',"context":{{{context}}}'
        if kind < 0.2:
            country = ("NO", "SE", "DK")[int(told * 3)]
            return (
                f'{{"type":"identify",{head},"traits":{{"email":"P{person}@Example.org","visits":{number % 97},'
                f'"country":"{country}","note":{"null" if told < 0.3 else json.dumps("blåbær €")}}}}}'
            )
        if kind < 0.25:
            return (
                f'{{"type":"group",{head},"groupId":"g{person % 1009}","traits":{{"seats":{number % 31}}}}}'
            )
        if kind < 0.4:
            return f'{{"type":"page",{head},"name":"Shelf","properties":{{"path":"/p/{number % 50}"}}}}'
        price = f"{number % 20_000 / 100}"
        return f'{{"type":"track",{head},"event":"Order","properties":{{"sku":"s{number % 211}","price":{price}}}}}'


def fill(place: Place, events: int, people: int, seed: int) -> None:
    """Fill an empty directory with what became of so many calls."""
    place.directory.mkdir(parents=True)
    for folder in (place.setup().recent_directory, place.setup().dedup_directory):
        folder.mkdir()
    now = START + (events + BATCH_CALLS) * STEP + SECOND
    lake = place.lake()
    ensure_tables(lake, WORKSPACE)
    setup = replace(place.setup(), history=EventHistory(lambda: lake, place.setup().recent_directory))
    state = State.open(place.state, writable=True)
    batcher = Batcher(state, [setup], "local", now, Timer(Stages(CollectorRegistry())))
    publisher = Publisher(
        workspace=WORKSPACE,
        state=state,
        lake=lake,
        recent_directory=setup.recent_directory,
        rules=setup.rules,
        clock=lambda: now,
        publish_age_seconds=0.0,
    )
    decided = _Log(PEOPLE)
    _apply(batcher, _definitions(decided))
    _let_live(state, batcher, START)
    for batch in _batches(events, people, seed):
        _apply(batcher, batch)
        batcher.tend_computing(max(record.received_at for record in batch))
        publisher.publish(whole=True)
    _apply(batcher, _decisions(decided, START + events * STEP, people, lake))
    batcher.tend_computing(now)
    publisher.publish(whole=True)
    state.close()
    lake.close()


def _batches(events: int, people: int, seed: int) -> Iterator[list[Record]]:
    """Yield micro-batches. What browsers send arrives one batch late, so its copies come from an earlier time."""
    shop = _Shop(people, seed)
    logs = {"shop": _Log(SERVERS), WEB: _Log(BROWSERS)}
    late: list[Record] = []
    for begin in range(0, events, BATCH_CALLS):
        made: dict[str, list[Record]] = {"shop": [], WEB: []}
        for first in range(begin, min(begin + BATCH_CALLS, events), RECORD_CALLS):
            calls = list(shop.calls(first, min(RECORD_CALLS, events - first)))
            source = WEB if first // RECORD_CALLS % 4 == 0 else "shop"
            body = f'{{"batch":[{",".join(calls)}]}}'.encode()
            made[source].append(logs[source].record(START + first * STEP, body, len(calls), source))
        yield [*late, *made["shop"]]
        late = made[WEB]
    yield late


def _apply(batcher: Batcher, records: Sequence[Record]) -> None:
    ordered = sorted(records, key=lambda record: (record.received_at, record.log_id, record.offset))
    ends = dict(batcher.vector())
    for record in ordered:
        ends[record.log_id] = LogEnd(record.next_offset, record.events_before + record.events)
    batcher.apply(Slice(ordered, ends, ordered[-1].received_at, (), ()))


def _definitions(log: _Log) -> list[Record]:
    return [
        log.record(
            START + number,
            defining.encode(
                defining.Define(
                    by="somebody", definition=Definition(key, query=query, kind=kind, external_ids=())
                )
            ),
            0,
            "",
            Kind.FACT,
        )
        for number, (key, kind, query) in enumerate(DEFINITIONS)
    ]


def _let_live(state: State, batcher: Batcher, at: int) -> None:
    """Have definitions follow events from here on: there are none before."""
    with state.read(WORKSPACE) as tx:
        steps = handover.incomplete(tx, WORKSPACE)
    if steps:
        handover.begin_attempt(state, WORKSPACE, steps)
        handover.finish(state, WORKSPACE, 1)
    while batcher.tend_computing(at + SECOND):
        pass


def _decisions(log: _Log, at: int, people: int, lake: Lake) -> list[Record]:
    """Return what people decided: who is not who, which device tells nothing, who left, what was no evidence."""
    with duckdb.connect() as connection:
        attach(connection, lake, WORKSPACE)
        known = connection.sql(_EVIDENCE).fetchall()
    made: list[facts.Fact] = [
        facts.Retract(by="somebody", message_id=id, position=position.hex(), sets=[("users", of.hex())])
        for id, position, of in known
    ]
    for number in range(DECISIONS):
        person = number * 7 % people
        user, device = _ident("user_id", f"u{person}"), _ident("anonymous_id", f"a{person}-0")
        account = _ident("group_id", f"g{person % 1009}")
        match number % 3:
            case 0:
                made.append(
                    facts.Unlink(by="somebody", collection="users", one=user.hex(), other=device.hex())
                )
            case 1:
                made.append(facts.Quarantine(by="somebody", collection="users", ident=device.hex()))
            case _:
                made.append(facts.Leave(by="somebody", user=user.hex(), account=account.hex()))
    return [log.record(at + number, facts.encode(fact), 0, "", Kind.FACT) for number, fact in enumerate(made)]


def _ident(type: str, value: str) -> bytes:
    return ident_id(KEY, "accounts" if type == "group_id" else "users", Identifier(type, value))
