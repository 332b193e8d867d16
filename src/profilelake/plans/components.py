"""Which sets of identifiers belong to one component, over more sets than one machine holds.

Files of sets are taken in units. What hangs together inside a unit is one *node* (`contract`). Identifiers meet
by their ids: one met in one unit only says nothing more, one met in several joins their nodes (`meet`). What a
part joined becomes a star: each node beside the one that stands for it. Stars are joined by their nodes again
(`join-…`), each time over fewer nodes, until what is left fits one task (`finish`); then each level tells the one
below what it found (`tell-…`, `settle`). No step holds more of a component than its own unit or part, and none
sees an identifier more than once from each unit, however many events named it.

Nodes have numbers: those of unit u are `bases[u]` and up. A component is the node that stands for all of its
nodes, -1 where nothing in a set links. Which sets share one depends on the sets alone; which number it is also on
how files were put into units, and on nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile
from profilelake.engines.keys import power_of_two
from profilelake.kernels.contraction import BYTES_PER_NODE, BYTES_PER_NUMBER
from profilelake.plans._contraction import (
    MEETING,
    STAR,
    Contract,
    Contracted,
    CutByIdentifier,
    CutByNode,
    CutByUnit,
    Divide,
    Finish,
    Given,
    Join,
    Level,
    Links,
    Meet,
    Met,
    Nodes,
    Settle,
    Tell,
    Weigh,
)
from profilelake.plans.found import Found, FoundFile
from profilelake.plans.parts import PartOf


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a task takes at once."""

    unit_sets: int = 1 << 23
    """Sets that are contracted in one task, unless one file alone has more: 50 to 150 bytes of memory each."""
    part_rows: int = 1 << 22
    """Rows that meet in one part, about."""
    finish_bytes: int = 1 << 31
    """Memory in which what is left of the graph is finished by one task."""
    sample_sets: int = 1 << 22
    """Sets from which the sizes of components are told, for parts of like size."""


def find_components(
    engine: Engine,
    job: Job,
    files: Sequence[KeptFile],
    links: Links,
    columns: Sequence[str] | None = None,
    *,
    sets_per_part: int = 1 << 20,
    limits: Limits | None = None,
) -> Found:
    """Return which sets of `files` belong together, by the identifiers that `links` tells of their rows.

    `links` is a value that can be pickled; it is given rows with `columns` of the files. Steps that the job
    remembers are not run again. The parts have about `sets_per_part` sets each; a component with more than that is
    a part by itself.
    """
    limits = limits or Limits()
    storage = job.storage
    units = _units(files, limits.unit_sets, engine.tasks)
    contract = Contract(storage, job.folder("contract"), links, None if columns is None else tuple(columns))
    contracted = [
        msgspec.msgpack.decode(answer, type=Contracted)
        for answer in job.step("contract", lambda: engine.each("contract", units, contract)).values()
    ]
    nodes = Nodes([0, *accumulate(unit.nodes for unit in contracted)])
    labels, rounds = _labels(engine, job, contracted, nodes, limits)
    settled: dict[int, bytes] = {}
    if labels:
        settle = Settle(storage, job.folder("settle"), nodes)
        settled = job.step(
            "settle",
            lambda: engine.spread(
                "settle",
                labels,
                CutByUnit(storage, nodes),
                {"labels": STAR},
                len(contracted),
                settle,
            ),
        )
    by_unit = [
        [
            FoundFile(file, roots, nodes.bases[number], unit.nodes, _kept_or_none(settled.get(number)))
            for file, roots in zip(unit.files, unit.roots, strict=True)
        ]
        for number, unit in enumerate(contracted)
    ]
    sets = sum(unit.sets for unit in contracted)
    return Found(
        files=_in_order([file for unit in by_unit for file in unit], files),
        part_of=_parts(engine, job, by_unit, sets, sets_per_part, limits),
        sets=sets,
        components=nodes.count - sum(file.rows for file in labels),
        rounds=rounds,
    )


def _labels(
    engine: Engine, job: Job, contracted: "list[Contracted]", nodes: "Nodes", limits: Limits
) -> tuple[list[KeptFile], int]:
    """Return rows (node, component) for all nodes that do not stand for their component, and the rounds it took."""
    if len(contracted) < 2:
        return [], 0
    storage = job.storage
    met = [
        Met(file, nodes.bases[number]) for number, unit in enumerate(contracted) for file in unit.identifiers
    ]
    parts = power_of_two(sum(file.identifiers.rows for file in met) / limits.part_rows)
    levels = [
        _stars(
            job.step(
                "meet",
                lambda: engine.spread(
                    "meet",
                    met,
                    CutByIdentifier(storage, parts),
                    {"met": MEETING},
                    parts,
                    Meet(storage, job.folder("meet")),
                ),
            )
        )
    ]
    while not _fits(nodes.count, levels[-1].rows, limits.finish_bytes):
        levels.append(_join(engine, job, levels[-1].stars, nodes, len(levels), limits))
    labels: list[KeptFile] = []
    if levels[-1].stars:
        dense = _dense_fits(nodes.count, limits.finish_bytes)
        finish = Finish(storage, job.folder("finish"), nodes.count if dense else None)
        (answer,) = job.step("finish", lambda: engine.each("finish", [levels[-1].stars], finish)).values()
        labels = msgspec.msgpack.decode(answer, type=list[KeptFile])
    for number in range(len(levels) - 1, 0, -1):
        labels = _tell(engine, job, levels[number].below, labels, nodes, number, limits)
    return labels, len(levels) - 1


def _join(
    engine: Engine, job: Job, stars: list[KeptFile], nodes: "Nodes", number: int, limits: Limits
) -> "Level":
    name, parts = f"join-{number}", power_of_two(sum(file.rows for file in stars) / limits.part_rows)
    cut = CutByNode(job.storage, nodes.count, parts)
    join = Join(job.storage, job.folder(name))
    units = [Given("stars", file) for file in stars]
    return _stars(job.step(name, lambda: engine.spread(name, units, cut, {"stars": STAR}, parts, join)))


def _tell(
    engine: Engine,
    job: Job,
    below: list[KeptFile],
    labels: list[KeptFile],
    nodes: "Nodes",
    number: int,
    limits: Limits,
) -> list[KeptFile]:
    """Return the labels of the level below, whose nodes hang on those that `labels` are of."""
    name = f"tell-{number}"
    rows = sum(file.rows for file in below) + sum(file.rows for file in labels)
    parts = power_of_two(rows / limits.part_rows)
    cut = CutByNode(job.storage, nodes.count, parts)
    units = [*(Given("below", file) for file in below), *(Given("labels", file) for file in labels)]
    tell = Tell(job.storage, job.folder(name))
    answers = job.step(
        name,
        lambda: engine.spread(name, units, cut, {"below": STAR, "labels": STAR}, parts, tell),
    )
    return [
        file for answer in answers.values() for file in msgspec.msgpack.decode(answer, type=list[KeptFile])
    ]


def _parts(
    engine: Engine, job: Job, found: list[list[FoundFile]], sets: int, sets_per_part: int, limits: Limits
) -> PartOf:
    """Divide the components by how many sets a sample of all sets shows of each."""
    share = max(1, sets // limits.sample_sets)
    weigh = Weigh(job.storage, job.folder("weigh"), share)
    weighed = job.step("weigh", lambda: engine.each("weigh", found, weigh))
    counts = [file for kept in weighed.values() for file in msgspec.msgpack.decode(kept, type=list[KeptFile])]
    divide = Divide(job.storage, share, sets, sets_per_part)
    (answer,) = job.step("divide", lambda: engine.each("divide", [counts], divide)).values()
    return msgspec.msgpack.decode(answer, type=PartOf)


def _units(files: Sequence[KeptFile], sets: int, tasks: int) -> list[list[KeptFile]]:
    """Put files together up to so many sets, though not into fewer units than there are tasks."""
    rows = sum(file.rows for file in files)
    wanted = min(sets, max(1, -(-rows // max(1, tasks))))
    units: list[list[KeptFile]] = []
    held = 0
    for file in files:
        if not units or held + file.rows > wanted:
            units.append([])
            held = 0
        units[-1].append(file)
        held += file.rows
    return units


def _stars(answers: Mapping[int, bytes]) -> Level:
    levels = [msgspec.msgpack.decode(answer, type=Level) for answer in answers.values()]
    return Level(
        [file for one in levels for file in one.stars], [file for one in levels for file in one.below]
    )


def _fits(nodes: int, rows: int, memory: int) -> bool:
    return _dense_fits(nodes, memory) or rows * BYTES_PER_NODE <= memory


def _dense_fits(nodes: int, memory: int) -> bool:
    return nodes * BYTES_PER_NUMBER <= memory


def _kept_or_none(answer: bytes | None) -> KeptFile | None:
    return None if answer is None else msgspec.msgpack.decode(answer, type=KeptFile)


def _in_order(found: list[FoundFile], files: Sequence[KeptFile]) -> list[FoundFile]:
    places = {file.location: place for place, file in enumerate(files)}
    return sorted(found, key=lambda one: places[one.sets.location])
