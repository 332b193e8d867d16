"""What the guided run tells its reader, in the order in which one would ask."""

import json
import shlex
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from profilelake.demo.questions import REVENUE_BY_WEEK, Counts, Link
from profilelake.demo.sending import Sent
from profilelake.demo.server import SPACE, Credentials
from profilelake.demo.truth import Score
from profilelake.errors import Internal
from profilelake.semantics.identifiers import Identifier
from profilelake.settings import Layout

LINKS_SHOWN_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class Accounts:
    """What became of the calls: the client's account of them and, as increases, the server's."""

    sent: Sent
    accepted: int
    duplicates: int
    failed: int
    status: dict[str, Any]
    commit_seconds: float

    def check(self) -> None:
        """Raise `Internal` when an event is missing or refused, or the server's accounts do not balance."""
        sent = self.sent
        if sent.failed:
            raise Internal(
                f"the client gave up on {sent.failed} of {sent.calls} calls: {'; '.join(sent.errors)}"
            )
        if self.failed:
            raise Internal(
                f"{self.failed} of {sent.calls} events were accepted and then failed; "
                "to see why: profilelake sql 'FROM failed_events LIMIT 10'"
            )
        if not self.status["balanced"]:
            raise Internal(f"the server's accounts do not balance: {json.dumps(self.status)}")
        # A client that got no answer in time sends again, so more may arrive than was sent: as duplicates.
        if not sent.calls <= self.accepted <= sent.calls + self.duplicates:
            raise Internal(
                f"{sent.calls} calls were sent, {self.accepted} accepted, {self.duplicates} of them duplicates"
            )


@dataclass(frozen=True, slots=True)
class Probes:
    """How long single events took on a server with nothing else to do, in seconds, sorted."""

    answered: list[float]
    visible: list[float]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the run found out."""

    accounts: Accounts
    probes: Probes
    score: Score
    shared: int
    junk: int
    counts: Counts
    shown: list[Identifier]
    profile: dict[str, Any] | None
    links: list[Link]
    revenue: tuple[list[str], list[tuple[Any, ...]]]
    layout: Layout
    url: str
    credentials: Credentials

    @property
    def _directory(self) -> str:
        return shlex.quote(str(self.layout.directory))

    def print(self, out: Console) -> None:
        """Print the report."""
        for section in (
            self._sending,
            self._identity,
            self._person,
            self._answer,
            self._whereabouts,
        ):
            out.print()
            section(out)

    def _sending(self, out: Console) -> None:
        accounts, sent, status = self.accounts, self.accounts.sent, self.accounts.status
        _title(out, "Every call is accounted for")
        _say(
            out,
            f"Segment's Python client sent {sent.calls:,} calls in {sent.seconds:.1f} s, {sent.per_second:,.0f} a second; "
            f"{sent.failed:,} failed.",
            f"The client's own work allows one process of it {sent.client_bound_per_second:,.0f} calls a second here, "
            "whatever the server; benchmarks/ loads the server harder.",
            f"Accepted {accounts.accepted:,}; in the lake {status['in_lake']:,}, duplicates {status['duplicates']:,}, "
            f"failed {status['failed']:,}, in flight {status['in_flight']:,}; "
            f"accounts {'balanced' if status['balanced'] else 'NOT BALANCED'}.",
            f"Everything was in state and lake {accounts.commit_seconds:.2f} s after the last answer.",
        )
        if self.probes.visible:
            answered, visible = (
                [seconds * 1000 for seconds in column]
                for column in (self.probes.answered, self.probes.visible)
            )
            middle = len(visible) // 2
            _say(
                out,
                f"A single event, {len(visible)} tries on the idle server: accepted (on disk) after "
                f"{answered[middle]:.1f} ms, seen in the Profile API {visible[middle]:.0f} ms later "
                f"(medians; slowest {visible[-1]:.0f} ms).",
            )

    def _identity(self, out: Console) -> None:
        found = self.score
        _title(out, "Who is who, against the truth")
        table = Table("", "", box=None, show_header=False, pad_edge=False)
        table.add_row("persons who left a trace of their own", f"{found.persons:,}")
        table.add_row("groups of identifiers that events link", f"{found.groups:,}")
        table.add_row("profiles found for them", f"{found.profiles:,}")
        table.add_row("identifiers of exactly one person", f"{found.identifiers:,}")
        table.add_row("identifiers shared by several persons (not scored)", f"{self.shared:,}")
        table.add_row("junk such as zeroes and null (not scored)", f"{self.junk:,}")
        table.add_row("precision of pairs", f"{found.precision:.4f}")
        table.add_row("recall of pairs that events link", f"{found.recall_evident:.4f}")
        table.add_row("recall of all pairs of one person", f"{found.recall:.4f}")
        out.print(table)
        _say(
            out,
            "A pair is two identifiers in one profile. Precision falls where people share a device, recall where",
            "somebody never says who they are (no evidence) or clears cookies beyond the limit of five per profile.",
        )

    def _person(self, out: Console) -> None:
        if self.profile is None:
            return
        _title(out, f"One profile, asked for by {self.shown[0]}")
        _say(
            out,
            f"id      {self.profile['segment_id']}",
            f"traits  {json.dumps(self.profile['traits'], sort_keys=True)}",
        )
        _say(out, *(f"        {identifier}" for identifier in self.profile["external_ids"]))
        _say(out, "", "What links them, in the order of arrival:")
        for link in self.links[:LINKS_SHOWN_MAX]:
            _say(
                out,
                f"{link.happened_at or '?'}  {link.call} ({link.message_id}) {link.cause}",
                *(f"        {name}" for name in link.moved),
            )
        if len(self.links) > LINKS_SHOWN_MAX:
            _say(out, f"and {len(self.links) - LINKS_SHOWN_MAX} more")

    def _answer(self, out: Console) -> None:
        names, rows = self.revenue
        _title(out, "A question to all of them: revenue by week")
        table = Table(*names, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in row))
        out.print(table)
        _say(out, "", f'profilelake sql --dir {self._directory} "{" ".join(REVENUE_BY_WEEK.split())}"')

    def _whereabouts(self, out: Console) -> None:
        counts = self.counts
        _title(out, "It is all yours")
        _say(
            out,
            f"Iceberg tables in {self.layout.warehouse}: {counts.events:,} events, {counts.profiles:,} profiles, "
            f"{counts.organisations:,} organisations.",
            "",
            "With DuckDB:",
            *(f"    {line}" for line in duckdb_lines(self.layout)),
            "With Polars:",
            *(f"    {line}" for line in polars_lines(self.layout)),
            "",
            "Send your own events with any Segment client:",
            "    from segment.analytics import Client",
            f'    client = Client("{self.credentials.write_key}", host="{self.url}")',
            '    client.identify("u-1", {"email": "u-1@example.org"}); client.flush()',
            f"    profilelake profile get --dir {self._directory} user_id:u-1",
            f"The tokens for reading and administration are in {self.layout.credentials}.",
        )


def duckdb_lines(layout: Layout) -> list[str]:
    """Return Python lines that count the events by name with DuckDB, without profilelake."""
    return [
        *_table_lines(layout),
        'events.scan().to_duckdb("events").sql("SELECT event, count(*) FROM events GROUP BY 1 ORDER BY 2 DESC").show()',
    ]


def polars_lines(layout: Layout) -> list[str]:
    """Return Python lines that count the events by name with Polars, without profilelake."""
    return [
        "import polars",
        *_table_lines(layout),
        'print(polars.scan_iceberg(events).group_by("event").len().sort("len", descending=True).collect())',
    ]


def _table_lines(layout: Layout) -> list[str]:
    return [
        "from pyiceberg.catalog.sql import SqlCatalog",
        f'events = SqlCatalog("profilelake", uri="{layout.catalog_uri}").load_table("ws_{SPACE}.events")',
    ]


def _title(out: Console, text: str) -> None:
    out.print(text, style="bold", highlight=False)


def _say(out: Console, *lines: str) -> None:
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
