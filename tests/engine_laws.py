"""Work that tests give to engines, and what must come of it."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from profilelake.engines.engine import Cut, Engine
from profilelake.errors import Invalid

INPUTS: Final = {
    "people": pa.schema([("id", pa.int64()), ("name", pa.string()), ("tags", pa.list_(pa.string()))]),
    "numbers": pa.schema([("id", pa.int64()), ("number", pa.float64())]),
    "never": pa.schema([("id", pa.int64())]),
}

Piece = tuple[str, tuple[tuple[int, int], ...]]
"""An input, and (id, part) of its rows."""
Unit = tuple[Piece, ...]


def rows_of(input: str, ids: list[int]) -> pa.Table:
    """Return rows that say which they are, of very different sizes."""
    columns: dict[str, list[object]] = {
        "id": list(ids),
        "name": [None if id % 7 == 0 else f"n{id}" * (id % 5) for id in ids],
        "tags": [[str(id)] * (id % 3) for id in ids],
        "number": [id / 3 for id in ids],
    }
    schema = INPUTS[input]
    return pa.table({name: columns[name] for name in schema.names}, schema)


def cut(unit: Unit) -> Iterator[Cut]:
    """Yield the pieces of a unit."""
    for input, rows in unit:
        yield Cut(
            input, rows_of(input, [id for id, _ in rows]), np.array([part for _, part in rows], np.int32)
        )


def gather(part: int, tables: Mapping[str, pa.Table]) -> bytes:
    """Return all rows that came, in order, after looking at every one of them."""
    found = {}
    for input, table in tables.items():
        assert table.schema == INPUTS[input]
        rows = table.sort_by("id")
        assert rows.equals(rows_of(input, rows["id"].to_pylist()))
        found[input] = rows["id"].to_pylist()
    return msgspec.msgpack.encode((part, found))


def check_spread(engine: Engine, units: list[Unit], parts: int) -> None:
    """Each row of each unit comes to its part, once; parts with no rows are not asked."""
    wanted: dict[int, dict[str, Counter[int]]] = {}
    for unit in units:
        for input, rows in unit:
            for id, part in rows:
                wanted.setdefault(part, {name: Counter() for name in INPUTS})[input][id] += 1
    found = engine.spread("law", units, cut, INPUTS, parts, gather)
    assert list(found) == sorted(wanted)
    for part, answer in found.items():
        number, rows = msgspec.msgpack.decode(answer)
        assert number == part
        assert {input: Counter(ids) for input, ids in rows.items()} == wanted[part]


def doubled(unit: int) -> bytes:
    """Answer with twice the unit."""
    return str(2 * unit).encode()


def refuses(unit: int) -> bytes:
    """Fail as the product does."""
    raise Invalid(f'unit {unit} says "no"\nand ümlauts; give another')


def breaks(unit: int) -> bytes:
    """Fail by mistake, with something that nobody else may read."""
    return {}["ana@example.org"]  # type: ignore[no-any-return]


def no_room(unit: int) -> bytes:
    """Fail for the machine."""
    raise OSError(28, "No space left on device", "spill")


@dataclass(frozen=True)
class KilledOnce:
    """Kills its worker the first time; leaves a file for each time."""

    folder: str

    def __call__(self, unit: int) -> bytes:
        """Answer at the second time."""
        tries = Path(self.folder) / f"{unit}-{os.getpid()}-{os.urandom(4).hex()}"
        first = not any(Path(self.folder).glob(f"{unit}-*"))
        tries.touch()
        if first:
            os._exit(9)
        return doubled(unit)


def always_killed(unit: int) -> bytes:
    """Kill the worker."""
    os._exit(9)


def waits(unit: int) -> bytes:
    """Take a moment."""
    time.sleep(0.5)
    return doubled(unit)
