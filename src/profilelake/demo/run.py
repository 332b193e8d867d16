"""The guided run: start a server, send it a shop, and show what it made of it.

Nothing here is staged. The server is the one `profilelake serve` starts, the client is Segment's
own, every figure is measured in this run, and the run fails when the accounts do not balance.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from profilelake.demo import questions
from profilelake.demo.report import Accounts, Probes, Report
from profilelake.demo.sending import send
from profilelake.demo.server import SPACE, Api, ServerProcess
from profilelake.demo.shop import shop_calls
from profilelake.demo.truth import Truth, score
from profilelake.errors import Conflict, Invalid, ProfilelakeError, Unavailable
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import attach
from profilelake.semantics.identifiers import Identifier
from profilelake.settings import Layout

EVENTS_MAX: Final = 10_000_000
EVENTS_DEFAULT: Final = 20_000
SEED_DEFAULT: Final = 7
PROBES: Final = 20
PROBE_SECONDS_MAX: Final = 10.0
MARKER_FILE: Final = "run/demo.json"
"""Lies where a fresh data directory may hold something before its first start."""

# Well below the 100 requests a second that the Profile API gives one space.
_PROBE_POLL_SECONDS: Final = 0.015
_PLAIN_REPORT_SECONDS: Final = 5.0
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Options:
    """What to run and where. `force` allows a directory that holds something else already."""

    directory: Path
    events: int = EVENTS_DEFAULT
    seed: int = SEED_DEFAULT
    host: str = "127.0.0.1"
    port: int = 0
    once: bool = False
    force: bool = False


def run_demo(options: Options) -> int:
    """Run the demo and return the exit code. Without `once` the server stays up until Ctrl-C."""
    talk = Console(stderr=True)
    finished = False
    try:
        ends_at = _claim(options, datetime.now(UTC))
        with ServerProcess(options.directory, options.host, options.port) as server:
            talk.print(f"server started on {server.url}, process {server.pid}")
            with closing(Api(server.url, server.credentials())) as api:
                report = _guided(options, ends_at, server, api, talk)
            report.print(Console())
            finished = True
            if not options.once:
                talk.print("\nThe server stays up. Ctrl-C ends it.")
                server.wait()
    except KeyboardInterrupt:
        return 0 if finished else _INTERRUPTED
    except ProfilelakeError as error:
        talk.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    return 0


def _claim(options: Options, now: datetime) -> datetime:
    """Make sure that the directory is ours to fill, and return when the shop's data ends.

    The end is kept beside the data: the same demo in the same directory sends the same calls again,
    which a lake that counts every event once takes as duplicates.
    """
    if not 1 <= options.events <= EVENTS_MAX:
        raise Invalid(f"running the demo with {options.events} events: give 1 to {EVENTS_MAX}")
    marker = options.directory / MARKER_FILE
    wanted = {"seed": options.seed, "events": options.events}
    if marker.exists():
        found = json.loads(marker.read_text())
        if {name: found.get(name) for name in wanted} != wanted:
            raise Conflict(
                f"running the demo in {options.directory}: it holds the demo with seed {found.get('seed')} and "
                f"{found.get('events')} events; ask for the same, give another --dir, or delete it"
            )
        return datetime.fromisoformat(found["ends_at"])
    if options.directory.exists() and any(options.directory.iterdir()) and not options.force:
        raise Conflict(
            f"running the demo in {options.directory}: it is not empty and not a demo's; "
            "give another --dir, or --force to add the shop's events to what is there"
        )
    marker.parent.mkdir(parents=True, exist_ok=True)
    ends_at = now.replace(microsecond=0) - timedelta(minutes=1)
    marker.write_text(json.dumps({**wanted, "ends_at": ends_at.isoformat()}) + "\n")
    return ends_at


def _guided(options: Options, ends_at: datetime, server: ServerProcess, api: Api, talk: Console) -> Report:
    truth = Truth()
    before = api.status()
    with _progress(talk, options.events) as progress:
        sent = send(
            shop_calls(options.seed, options.events, ends_at, truth),
            host=server.url,
            write_key=server.credentials().write_key,
            progress=progress,
            check_server=server.check,
        )
    started = time.perf_counter()
    status = api.wait_until_committed(server.check)
    accounts = Accounts(
        sent=sent,
        accepted=status["accepted"] - before["accepted"],
        duplicates=status["duplicates"] - before["duplicates"],
        failed=status["failed"] - before["failed"],
        status=status,
        commit_seconds=time.perf_counter() - started,
    )
    accounts.check()
    talk.print("everything is committed; measuring how soon an event can be seen")
    probes = _probe(api, truth, server.check)
    api.wait_until_committed(server.check)
    return _look(server, api, truth, accounts, probes)


def _look(server: ServerProcess, api: Api, truth: Truth, accounts: Accounts, probes: Probes) -> Report:
    """Read back what the server made: from the lake as any reader would, and one profile over HTTP."""
    layout = Layout(server.directory)
    lake = Lake.of(layout)
    with duckdb.connect() as connection:
        attach(connection, lake, SPACE)
        found = score(truth, questions.profiles_of_identifiers(connection))
        shown = _worth_seeing(truth)
        profile = _profile(api, shown[0]) if shown else None
        report = Report(
            accounts=accounts,
            probes=probes,
            score=found,
            shared=len(truth.shared()),
            junk=len(truth.junk),
            counts=questions.counts(connection),
            shown=shown,
            profile=profile,
            links=questions.links(connection, str(profile["segment_id"])) if profile else [],
            revenue=questions.revenue_by_week(connection),
            layout=layout,
            url=server.url,
            credentials=server.credentials(),
        )
    lake.close()
    return report


def _profile(api: Api, identifier: Identifier) -> dict[str, Any] | None:
    """Return one profile in full, as an application would read it."""
    metadata = api.profile(str(identifier), "metadata")
    traits = api.profile(str(identifier), "traits?limit=200")
    external_ids = api.profile(str(identifier), "external_ids?limit=25")
    if metadata is None or traits is None or external_ids is None:
        return None
    return {
        "segment_id": metadata["segment_id"],
        "traits": traits["traits"],
        "external_ids": sorted(f"{item['type']}:{item['id']}" for item in external_ids["data"]),
    }


def _worth_seeing(truth: Truth) -> list[Identifier]:
    """Return the identifiers of a person on several devices, the best-known one first; empty if there is none."""
    groups: dict[Identifier, list[Identifier]] = {}
    for identifier, group in truth.evident().items():
        groups.setdefault(group, []).append(identifier)
    best: list[Identifier] = []
    best_rank = (0, 0)
    for members in groups.values():
        kinds = [member.type for member in members]
        devices, kinds_seen = kinds.count("anonymous_id"), len(set(kinds))
        if "user_id" in kinds and 2 <= devices <= 4 and (kinds_seen, len(members)) > best_rank:
            best, best_rank = members, (kinds_seen, len(members))
    return sorted(best, key=lambda member: (member.type != "user_id", member))


def _probe(api: Api, truth: Truth, check_server: Callable[[], None]) -> Probes:
    """Measure, on known people, the time until 200 and from 200 until the Profile API shows the new value."""
    users = sorted(identifier.value for identifier in truth.owned() if identifier.type == "user_id")
    answers: list[float] = []
    sights: list[float] = []
    for user_id in users[:PROBES]:
        mark = str(uuid.uuid4())
        started = time.perf_counter()
        api.identify(user_id, {"demo_probe": mark}, f"probe-{mark}")
        answered = time.perf_counter()
        while True:
            page = api.profile(f"user_id:{user_id}", "traits?include=demo_probe")
            now = time.perf_counter()
            if page is not None and page["traits"].get("demo_probe") == mark:
                break
            check_server()
            if now - answered > PROBE_SECONDS_MAX:
                raise Unavailable(
                    f"waiting for a trait of user_id:{user_id}: not in the Profile API "
                    f"{PROBE_SECONDS_MAX:.0f} s after its event was accepted"
                )
            time.sleep(_PROBE_POLL_SECONDS)
        answers.append(answered - started)
        sights.append(now - answered)
    return Probes(sorted(answers), sorted(sights))


@contextmanager
def _progress(talk: Console, events: int) -> Iterator[Callable[[int], None]]:
    """Give a function to report answered calls to: a bar on a terminal, a line now and then elsewhere."""
    if talk.is_terminal:
        columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=talk) as bar:
            task = bar.add_task("sending", total=events)
            yield lambda answered: bar.update(task, completed=answered)
        return
    told_at = time.monotonic()

    def tell(answered: int) -> None:
        nonlocal told_at
        if answered == events or time.monotonic() - told_at > _PLAIN_REPORT_SECONDS:
            told_at = time.monotonic()
            talk.print(f"{answered:,} of {events:,} calls answered")

    yield tell
