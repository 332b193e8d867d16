"""What a rebuild of 1, 10 and 100 billion events takes, by arithmetic from measured figures; the tables of docs/scale.md.

    python benchmarks/scale_plan.py [--figures benchmarks/scale_figures.toml] [--write docs/scale.md]

Every figure that was measured is in the file of figures, with the command that gave it. Limits are those of the code.
With `--write` the tables in the page are replaced, else they are printed.
"""

import argparse
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from profilelake.kernels.contraction import BYTES_PER_NODE, BYTES_PER_NUMBER
from profilelake.plans.components import Limits
from profilelake.plans.profiles import PROFILES_PER_PART
from profilelake.plans.shapes import UNITS_PER_PART
from profilelake.plans.sizes import Sizes

FIGURES: Final = Path(__file__).parent / "scale_figures.toml"
BILLION: Final = 10**9
EVENTS: Final = (BILLION, 10 * BILLION, 100 * BILLION)
NODES: Final = (1, 4, 20)
"""Machines for each of `EVENTS`."""
LIMITS: Final = Limits()
SIZES: Final = Sizes()
SLOTS: Final = 1 << 16
PARTS_MAX: Final = 1 << 15


@dataclass(frozen=True)
class Plan:
    """One size of a lake, and what follows from the figures."""

    figures: Mapping[str, Any]
    events: int
    machines: int

    def assumed(self, name: str) -> float:
        """Return a parameter."""
        return float(self.figures["assumed"][name]["value"])

    def measured(self, name: str) -> float:
        """Return a figure."""
        return float(self.figures["measured"][name]["value"])

    @property
    def profiles(self) -> float:
        """How many people the events are of."""
        return self.events / self.assumed("events_per_profile")

    @property
    def share(self) -> float:
        """How many times as many profiles as there were when steps were measured."""
        return self.profiles / self.measured("people")

    @property
    def sets(self) -> float:
        """Distinct sets of identifiers."""
        return self.share * self.measured("sets")

    @property
    def members(self) -> float:
        """Identifiers of sets."""
        return self.share * self.measured("members")

    @property
    def identifiers(self) -> float:
        """Distinct identifiers."""
        return self.share * self.measured("identifiers")

    @property
    def facts_growth(self) -> float:
        """How many times as many rows of facts a profile has as when steps were measured: it was seen on more days."""
        rows = self.measured("fact_rows") / self.measured("people")
        sightings = self.measured("sightings") / self.measured("people")
        return (rows - sightings + self.assumed("sightings_per_profile")) / rows

    @property
    def fact_bytes(self) -> float:
        """Files of the tables of facts, without events."""
        return self.share * self.facts_growth * self.measured("fact_megabytes") * 1e6

    @property
    def event_bytes(self) -> float:
        """Files of `events`."""
        return self.events * self.measured("event_bytes")

    @property
    def rounds(self) -> bool:
        """Whether what is left of the graph is too large for one task."""
        return self.sets > nodes_at_once()

    def steps(self) -> "list[Step]":
        """Return the steps that tasks do."""
        found = []
        for name, taken in self.figures["steps"].items():
            times = self.share * self.more(name)
            cpu, moved, kept = (
                times * taken[what] * unit
                for what, unit in (("cpu_seconds", 1), ("moved_megabytes", 1e6), ("kept_megabytes", 1e6))
            )
            found.append(Step(name, cpu, moved, kept, self.parts(name)))
            if name == "meet" and self.rounds:
                rows = self.measured("round_rows_per_member") * self.members
                cpu_per_row = taken["cpu_seconds"] / taken["rows"]
                width = taken["moved_megabytes"] * 1e6 / taken["rows"]
                found.append(
                    Step(
                        "join, tell",
                        rows * cpu_per_row,
                        rows * width,
                        rows * width,
                        parts(rows / LIMITS.part_rows),
                    )
                )
        return [*found, *self.event_steps()]

    def event_steps(self) -> "list[Step]":
        """Return the steps that read all events."""
        found = []
        for name, taken in self.figures["event_steps"].items():
            times = self.events / 1e6 * (self.assumed("recent_share") if name == "recent" else 1.0)
            cpu, moved, kept = (
                times * taken[what] * unit
                for what, unit in (("cpu_seconds", 1), ("moved_megabytes", 1e6), ("kept_megabytes", 1e6))
            )
            shares = math.ceil(self.event_bytes / SIZES.share_bytes)
            found.append(
                Step(
                    name,
                    cpu,
                    moved,
                    kept,
                    {
                        "checked": parts(self.event_bytes / SIZES.part_bytes),
                        "shapes": parts(shares / UNITS_PER_PART),
                        "reach": shares,
                        "ids": parts(self.events / SIZES.ids_per_part),
                        "recent": shares,
                    }[name],
                )
            )
        return found

    def more(self, step: str) -> float:
        """Return how many times as much a step takes for each profile as when it was measured."""
        if step == "facts":
            return self.facts_growth
        if step == "meet":
            # In very many units hardly two sets of a person lie together, so all identifiers of sets are moved.
            return self.measured("members") / float(self.figures["steps"][step]["rows"])
        if step == "finish":
            return min(1.0, nodes_at_once() / self.sets)
        if step == "divide":
            return min(1.0, LIMITS.sample_sets / self.sets)
        return 1.0

    def parts(self, step: str) -> int:
        """Return how many parts a step has."""
        return {
            "facts": parts(self.fact_bytes / SIZES.part_bytes),
            "values": parts(self.members / SIZES.part_members),
            "apart": parts(self.members / SIZES.part_members),
            "contract": math.ceil(self.sets / LIMITS.unit_sets),
            "meet": parts(self.members / LIMITS.part_rows),
            "finish": 1,
            "settle": math.ceil(self.sets / LIMITS.unit_sets),
            "weigh": math.ceil(self.sets / LIMITS.unit_sets),
            "divide": 1,
            "place": parts(self.fact_bytes / SIZES.part_bytes),
            "resolve": min(PARTS_MAX, math.ceil(self.sets / SIZES.sets_per_part)),
            "sets": parts(self.fact_bytes / SIZES.part_bytes),
            "idents": parts(self.members / SIZES.part_members),
            "profiles": parts(self.profiles / PROFILES_PER_PART),
        }[step]

    @property
    def table_bytes(self) -> float:
        """Files of current tables."""
        return self.share * self.measured("table_megabytes") * 1e6

    @property
    def table_files(self) -> int:
        """How many these are: each part writes one of each of its tables."""
        return self.parts("sets") + 2 * self.parts("idents") + self.parts("profiles")

    def alone(self) -> "list[tuple[str, float]]":
        """Return the steps that one process does, in seconds of its processor."""
        return [
            ("commit", self.share * self.measured("commit_cpu_seconds")),
            ("state", self.share * self.measured("state_cpu_seconds")),
            (
                "events",
                self.events / 1e6 * self.measured("ids_cpu_seconds")
                + self.events / 1e6 * self.assumed("recent_share") * self.measured("runs_cpu_seconds"),
            ),
            ("journals", self.profiles / 1e6 * self.measured("journals_cpu_seconds")),
        ]

    @property
    def task_seconds(self) -> float:
        """Processor seconds of all tasks on Spark."""
        return sum(step.cpu for step in self.steps()) * self.measured("spark_factor")

    @property
    def task_hours(self) -> float:
        """Hours that the cluster works."""
        cores = self.machines * self.assumed("cores_per_machine")
        return self.task_seconds / cores / self.assumed("busy") / 3600

    @property
    def alone_hours(self) -> float:
        """Hours in which one process works, and the cluster could be given back."""
        return sum(seconds for _, seconds in self.alone()) / 3600

    @property
    def dollars(self) -> float:
        """What machines cost for the tasks, and one core for what one process does."""
        cores = self.machines * self.assumed("cores_per_machine")
        return (cores * self.task_hours + self.alone_hours) * self.assumed("dollars_per_core_hour")

    @property
    def files_read_and_written(self) -> tuple[float, float]:
        """Return requests that read and that write: a request for each stretch of `bytes_per_request`, and for each file."""
        stretch = self.assumed("bytes_per_request")
        kept = sum(step.kept for step in self.steps())
        files = sum(step.parts * self.assumed("files_per_task") for step in self.steps())
        # Every step of events reads the columns it needs; together they read the files about twice.
        reads = (self.fact_bytes + 2 * self.event_bytes + 2 * kept) / stretch + 2 * files
        return reads, (kept + self.table_bytes) / stretch + files


@dataclass(frozen=True)
class Step:
    """What a step takes: processor seconds, bytes from task to task, bytes of kept files, and tasks or parts."""

    name: str
    cpu: float
    moved: float
    kept: float
    parts: int


def parts(wanted: float) -> int:
    """Return how many parts there are, as `engines.keys.power_of_two` has it."""
    return min(SLOTS, 1 << max(0, math.ceil(math.log2(max(1.0, wanted)))))


def nodes_at_once() -> float:
    """Return the nodes with which one task finishes a graph."""
    return LIMITS.finish_bytes / BYTES_PER_NUMBER


# ---- tables ------------------------------------------------------------------------------------


def figures_table(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield what was measured and what is assumed."""
    yield "| figure | value | from |"
    yield "|---|---|---|"
    for kind in ("measured", "assumed"):
        for name, one in plans[0].figures[kind].items():
            yield f"| {name.replace('_', ' ')} | {one['value']:,} {one['unit']} | {one['from']} |"


def steps_measured(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield the steps as they were measured."""
    yield "| step | CPU s | rows moved | MB moved | MB kept |"
    yield "|---|---|---|---|---|"
    for name, one in plans[0].figures["steps"].items():
        yield (
            f"| {name} | {one['cpu_seconds']:.1f} | {one['rows']:,} | {one['moved_megabytes']:,.1f} "
            f"| {one['kept_megabytes']:,.1f} |"
        )


def event_steps_measured(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield the steps that read all events as they were measured."""
    yield "| step, of a million events | CPU s | MB moved | MB kept |"
    yield "|---|---|---|---|"
    for name, one in plans[0].figures["event_steps"].items():
        yield (
            f"| {name} | {one['cpu_seconds']:.2f} | {one['moved_megabytes']:,.1f} | {one['kept_megabytes']:,.1f} |"
        )


def sizes_table(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield how much there is."""
    rows: list[tuple[str, Callable[[Plan], str]]] = [
        ("profiles", lambda plan: count(plan.profiles)),
        ("distinct sets of identifiers", lambda plan: count(plan.sets)),
        ("identifiers", lambda plan: count(plan.identifiers)),
        ("identifiers of sets (edges)", lambda plan: count(plan.members)),
        ("files of `events`", lambda plan: size(plan.event_bytes)),
        ("files of facts, without `events`", lambda plan: size(plan.fact_bytes)),
        ("files of current tables", lambda plan: size(plan.table_bytes)),
        ("online state", lambda plan: size(plan.share * plan.measured("state_megabytes") * 1e6)),
    ]
    yield from table("", rows, plans)


def steps_table(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield what tasks do: processor hours on Spark, bytes moved and kept, and parts."""
    factor = plans[0].measured("spark_factor")
    by_size = [{step.name: step for step in plan.steps()} for plan in plans]
    yield "| step | " + " | ".join(f"{count(plan.events)} events" for plan in plans) + " |"
    yield "|---" * (1 + len(plans)) + "|"
    for name in by_size[-1]:
        cells = [
            f"{hours(found[name].cpu * factor)}, {size(found[name].moved)}, {size(found[name].kept)}, {found[name].parts:,}"
            if name in found
            else "not there"
            for found in by_size
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"
    sums = [
        f"{hours(plan.task_seconds)}, {size(sum(step.moved for step in plan.steps()))}, "
        f"{size(sum(step.kept for step in plan.steps()))}"
        for plan in plans
    ]
    yield "| all | " + " | ".join(sums) + " |"


def alone_table(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield what one process does, after or between the tasks."""
    rows: list[tuple[str, Callable[[Plan], str]]] = []
    for place, (name, _) in enumerate(plans[0].alone()):
        rows.append((f"`{name}`", lambda plan, place=place: hours(plan.alone()[place][1])))  # type: ignore[misc]  # mypy cannot infer a default
    yield from table("one process", rows, plans)


def cluster_table(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield the cluster, its hours, and what they cost."""
    rows: list[tuple[str, Callable[[Plan], str]]] = [
        ("machines", lambda plan: f"{plan.machines:,}"),
        ("time of the cluster", lambda plan: hours(plan.task_hours * 3600)),
        ("time of one process besides", lambda plan: hours(plan.alone_hours * 3600)),
        ("machines' dollars", lambda plan: f"{plan.dollars:,.2f}"),
        ("dollars for a million profiles", lambda plan: f"{plan.dollars / plan.profiles * 1e6:.3f}"),
        ("files of current tables", lambda plan: count(plan.table_files)),
        ("of this size, on average", lambda plan: size(plan.table_bytes / plan.table_files)),
        (
            "requests that read / write",
            lambda plan: " / ".join(count(one) for one in plan.files_read_and_written),
        ),
        ("requests' dollars", lambda plan: f"{requests_dollars(plan):,.2f}"),
    ]
    yield from table("", rows, plans)


def limits_table(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield at how many profiles each limit of the code is reached."""
    plan = plans[-1]
    sets, members = plan.sets / plan.profiles, plan.members / plan.profiles
    yield "| limit | profiles | what happens there |"
    yield "|---|---|---|"
    yield (
        f"| one task finishes the graph: {count(nodes_at_once())} nodes of {BYTES_PER_NUMBER} bytes "
        f"| {count(nodes_at_once() / sets)} | rounds of `join` and `tell`, until {count(LIMITS.finish_bytes / BYTES_PER_NODE)} "
        "rows are left: nothing to do |"
    )
    yield (
        f"| {PARTS_MAX:,} parts of `resolve` with {SIZES.sets_per_part:,} sets | "
        f"{count(PARTS_MAX * SIZES.sets_per_part / sets)} | parts grow |"
    )
    facts = plan.fact_bytes / plan.profiles
    yield (
        f"| {SLOTS:,} parts of facts with {size(SIZES.part_bytes)} of files | "
        f"{count(SLOTS * SIZES.part_bytes / facts)} | parts grow |"
    )
    yield (
        f"| {SLOTS:,} parts by id with {SIZES.part_members:,} identifiers of sets | "
        f"{count(SLOTS * SIZES.part_members / members)} | parts grow |"
    )
    day = 24 * 3600
    for name, seconds in plan.alone():
        yield f"| one process works a day on `{name}` | {count(plan.profiles * day / seconds)} | see above |"


def requests_dollars(plan: Plan) -> float:
    """Return what the requests to the object store cost."""
    reads, writes = plan.files_read_and_written
    return (
        reads * plan.assumed("dollars_per_million_reads")
        + writes * plan.assumed("dollars_per_million_writes")
    ) / 1e6


TABLES: Final[Mapping[str, Callable[[Sequence[Plan]], Iterator[str]]]] = {
    "figures": figures_table,
    "steps measured": steps_measured,
    "steps of events measured": event_steps_measured,
    "sizes": sizes_table,
    "steps": steps_table,
    "one process": alone_table,
    "cluster": cluster_table,
    "limits": limits_table,
}


def table(
    corner: str, rows: Sequence[tuple[str, Callable[[Plan], str]]], plans: Sequence[Plan]
) -> Iterator[str]:
    """Yield a table with a column for each plan."""
    yield f"| {corner} | " + " | ".join(f"{count(plan.events)} events" for plan in plans) + " |"
    yield "|---" * (1 + len(plans)) + "|"
    for name, cell in rows:
        yield f"| {name} | " + " | ".join(cell(plan) for plan in plans) + " |"


def count(number: float) -> str:
    """Return a number as people say it."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= unit:
            return f"{number / unit:,.3g} {name}"
    return f"{float(f'{number:.3g}'):,.0f}"


def size(number: float) -> str:
    """Return bytes as people say them."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB")):
        if number >= unit:
            return f"{number / unit:,.3g} {name}"
    return f"{number / 1e6:,.0f} MB"


def hours(seconds: float) -> str:
    """Return seconds as hours."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 360 else f"{seconds:,.0f} s"


def with_tables(page: str, plans: Sequence[Plan]) -> str:
    """Return a page with its tables as they are now."""
    for name, of_plans in TABLES.items():
        text = "\n".join(of_plans(plans))
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found, after = page.partition(begin)
        if not found or end not in after:
            raise SystemExit(f"the page has no place for the table of {name}")
        page = f"{before}{begin}{text}\n{after[after.index(end) :]}"
    return page


def plans_of(figures: Path) -> list[Plan]:
    """Return the plans for all sizes."""
    told = tomllib.loads(figures.read_text())
    return [Plan(told, events, machines) for events, machines in zip(EVENTS, NODES, strict=True)]


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    plans = plans_of(asked.figures)
    if asked.write:
        asked.write.write_text(with_tables(asked.write.read_text(), plans))
        return
    for name, of_plans in TABLES.items():
        print(f"\n{name}\n")
        print("\n".join(of_plans(plans)))


if __name__ == "__main__":
    main()
