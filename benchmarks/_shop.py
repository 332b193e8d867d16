"""A shop's events over three months, written straight into the tables of a lake: very many, in little time.

Everything follows from the seed. Events lie as compaction leaves them: a file or more for each day, sorted by
set and position. Texts are taken from pools, so that making them costs less than writing them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.bulk import public_ids
from profilelake.identity.tables import SET_MAP
from profilelake.kernels import siphash
from profilelake.kernels.slots import slots_of
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENTS
from profilelake.profiles.tables import PROFILES

WORKSPACE: Final = "bench"
DAY: Final = 86_400_000_000
DAYS: Final = 90
END: Final = 20_600 * DAY
"""When the last event was: the time of evaluation."""
BEGIN: Final = END - DAYS * DAY
FILE_ROWS: Final = 1_000_000
NAMES: Final = (
    ("Product Viewed", 30),
    ("Page Viewed", 15),
    ("Product Added", 13),
    ("Email Opened", 12),
    ("Search Performed", 10),
    ("Cart Viewed", 6),
    ("Checkout Started", 5),
    ("Order Completed", 5),
    ("Review Written", 2),
    ("Subscription Renewed", 2),
)
CATEGORIES: Final = ("shoes", "books", "cosmetics", "food", "garden", "music", "toys", "tools")
COUPONS: Final = ("SPRING", "VIP10", "WELCOME")
PLANS: Final = ("free", "pro", "team", "enterprise")
COUNTRIES: Final = ("DE", "FR", "IT", "ES", "PL", "SE", "US", "JP")
_POOL: Final = 1 << 16

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shop:
    """How much there is of it. People have one to three sets; half of the events are those of a busy few."""

    events: int
    profiles: int
    seed: int

    def sets(self) -> tuple[siphash.Words, Ints]:
        """Return the sets and whose they are; the first of each person, in order of people, is the founding one."""
        rng = np.random.default_rng(self.seed)
        more = rng.random(self.profiles)
        second, third = np.flatnonzero(more < 0.3), np.flatnonzero(more < 0.1)
        owners = np.concatenate([np.arange(self.profiles), second, third])
        return rng.integers(0, 1 << 64, (len(owners), 2), dtype=np.uint64), owners

    def days(self, sets: siphash.Words) -> Iterator[pa.Table]:
        """Yield the events of each day as rows of `events`, sorted by set and position."""
        rank = np.empty(len(sets), dtype=np.int64)
        rank[np.lexsort((sets[:, 1].byteswap(), sets[:, 0].byteswap()))] = np.arange(len(sets))
        pools = _pools(np.random.default_rng(self.seed + 1))
        for day in range(DAYS):
            count = self.events * (day + 1) // DAYS - self.events * day // DAYS
            rng = np.random.default_rng((self.seed, day))
            busy = (rng.pareto(1.2, count) * 20).astype(np.int64) % len(sets)
            of = np.where(rng.random(count) < 0.3, busy, rng.integers(0, len(sets), count))
            at = BEGIN + day * DAY + np.sort(rng.integers(0, DAY, count))
            order = np.argsort(rank[of], kind="stable")
            yield _rows(rng, pools, sets[of[order]], at[order], day)

    def write(self, lake: Lake) -> None:
        """Write the tables `events`, `set_map` and `profiles`."""
        sets, owners = self.sets()
        table = lake.table(WORKSPACE, EVENTS)
        for day, rows in enumerate(self.days(sets)):
            parts = (rows.slice(start, FILE_ROWS) for start in range(0, rows.num_rows, FILE_ROWS))
            table.append(parts, Progress("0", day + 1))
        _write_current(lake, SET_MAP, _set_map(sets, owners, self.profiles))
        _write_current(lake, PROFILES, _profiles(sets[: self.profiles], self.seed))


def _rows(
    rng: np.random.Generator, pools: dict[str, pa.Array], sets: siphash.Words, at: Ints, day: int
) -> pa.Table:
    n = len(at)
    share = np.array([share for _, share in NAMES], dtype=np.float64)
    kind = rng.choice(len(NAMES), n, p=share / share.sum()).astype(np.int32)
    page = kind == 1
    positions = np.zeros((n, 32), dtype=np.uint8)
    positions[:, :8] = at.astype(">i8").view(np.uint8).reshape(n, 8)
    positions[:, 20:28] = np.arange(n).astype(">i8").view(np.uint8).reshape(n, 8)
    number = pa.array(np.arange(n) + day * (1 << 32)).cast(pa.string())
    properties = pc.binary_join_element_wise(
        pools["properties"].take(pa.array(rng.integers(0, _POOL, n))), number, '"}', ""
    )
    time_of = pa.array(at, pa.timestamp("us", "UTC"))
    names = pa.array([name for name, _ in NAMES])
    columns: dict[str, Any] = {
        "position": pa.Array.from_buffers(pa.binary(32), n, [None, pa.py_buffer(positions.tobytes())]),
        "received_at": time_of,
        "message_id": pc.binary_join_element_wise("m", number, ""),
        "type": pa.array(["track", "page"]).take(pa.array(page.astype(np.int8))),
        "event": names.take(pa.array(kind, mask=page)),
        "name": pa.array(["Home", "Help", "Product"]).take(pa.array(rng.integers(0, 3, n), mask=~page)),
        "timestamp": time_of,
        "original_timestamp": time_of,
        "sent_at": time_of,
        "source_id": pa.array(["web", "app", "shop"]).take(pa.array(rng.integers(0, 3, n))),
        "library": pa.array(["analytics.js"]).take(pa.array(np.zeros(n, dtype=np.int8))),
        "context": pools["context"].take(pa.array(rng.integers(0, len(pools["context"]), n))),
        "properties": properties,
        "set_id": siphash.to_arrow(sets),
        "region": pa.array(["local"]).take(pa.array(np.zeros(n, dtype=np.int8))),
    }
    schema = EVENTS.schema()
    return pa.table(
        [
            columns[field.name].cast(field.type) if field.name in columns else pa.nulls(n, field.type)
            for field in schema
        ],
        schema=schema,
    )


def _pools(rng: np.random.Generator) -> dict[str, pa.Array]:
    """Return texts of properties, up to the number that makes each different, and of contexts."""

    def some(values: tuple[str, ...], n: int) -> pa.Array:
        return pa.array(values).take(pa.array(rng.integers(0, len(values), n)))

    def number(low: int, high: int, n: int) -> pa.Array:
        return pa.array(rng.integers(low, high, n)).cast(pa.string())

    n = _POOL
    cents = rng.integers(100, 40_000, n)
    price = pc.binary_join_element_wise(
        pa.array(cents // 100).cast(pa.string()), pa.array(cents % 10 + 10).cast(pa.string()), "."
    )
    coupon = pa.array(
        [f',"coupon":"{COUPONS[one]}"' if one < len(COUPONS) else "" for one in rng.integers(0, 12, n)]
    )
    properties = pc.binary_join_element_wise(
        '{"product_id":"p',
        number(0, 5_000, n),
        '","category":"',
        some(CATEGORIES, n),
        '","price":',
        price,
        ',"quantity":',
        number(1, 6, n),
        coupon,
        ',"cart_id":"c',
        "",
    )
    context = pc.binary_join_element_wise(
        '{"library":{"name":"analytics.js","version":"4.1.0"},"locale":"en-US","page":{"path":"/p/',
        number(0, 5_000, 4_096),
        '"},"userAgent":"Mozilla/5.0 (X11; Linux x86_64) Firefox/1',
        number(10, 60, 4_096),
        '.0"}',
        "",
    )
    return {"properties": properties, "context": context}


def _set_map(sets: siphash.Words, owners: Ints, profiles: int) -> pa.Table:
    ids = public_ids("users", sets[:profiles])
    of = ids.take(pa.array(owners))
    return pa.table(
        {
            "set_id": siphash.to_arrow(sets),
            "collection": pa.array(["users"]).take(pa.array(np.zeros(len(sets), dtype=np.int8))),
            "anchor": pa.nulls(len(sets), pa.binary(16)),
            "profile_id": of,
            "first_profile_id": of,
            "slot": slots_of(sets),
        }
    )


def _profiles(founding: siphash.Words, seed: int) -> pa.Table:
    n = len(founding)
    rng = np.random.default_rng(seed + 2)
    number = pa.array(np.arange(n)).cast(pa.string())
    known = pc.binary_join_element_wise(
        '{"email":["u', number, '@example.org"],"user_id":["u', number, '"]}', ""
    )
    unknown = pc.binary_join_element_wise('{"anonymous_id":["a', number, '"]}', "")
    traits = pc.binary_join_element_wise(
        '{"age":',
        pa.array(rng.integers(16, 90, n)).cast(pa.string()),
        ',"country":"',
        pa.array(COUNTRIES).take(pa.array(rng.integers(0, len(COUNTRIES), n))),
        '","plan":"',
        pa.array(PLANS).take(pa.array(rng.integers(0, len(PLANS), n))),
        '"}',
        "",
    )
    time_of = pa.array(np.full(n, BEGIN), pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "profile_id": public_ids("users", founding),
            "collection": pa.array(["users"]).take(pa.array(np.zeros(n, dtype=np.int8))),
            "identifiers": pc.if_else(pa.array(rng.random(n) < 0.9), known, unknown),
            "traits": traits,
            "consent": pa.nulls(n, pa.string()),
            "first_seen_at": time_of,
            "last_seen_at": time_of,
            "event_count": pa.array(np.ones(n, dtype=np.int64)),
            "slot": slots_of(founding),
        }
    )


def _write_current(lake: Lake, definition: TableDef, rows: pa.Table) -> None:
    schema = definition.schema()
    table = pa.table([rows.column(field.name).cast(field.type) for field in schema], schema=schema)
    lake.current_table(WORKSPACE, definition).replace(table, Progress("0", DAYS))
