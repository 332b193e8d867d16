"""What a micro-batch of new sets costs the live path, beside very many identifiers.

    python benchmarks/identity_microbatch.py build --persons 4000000 --directory /tmp/state
    python benchmarks/identity_microbatch.py run   --persons 4000000 --directory /tmp/state

`build` fills an online state as years of events would have: persons with a user id, an e-mail and three
devices in four sets. `run` gives `Resolver.apply` batches of sets it has not seen, most of them of
identifiers it knows: 70 % an e-mail with a device of the same person, 20 % a known user with a new device,
5 % new persons, 5 % a device with a stranger's e-mail, which is refused. The first batch finds nothing in
memory (the file is dropped from the page cache); before the second all of it is read. The transaction is the real one, to
the disk. Traits and the log are not part of it.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from identity_graph import DEVICE, EMAIL, TYPES, USER, columns
from identity_scale import KEY, PREFIXES, peak_gb
from profilelake.identity.resolve import Resolver
from profilelake.kernels import dense, identity, siphash
from profilelake.kernels.siphash import Words
from profilelake.landing.land import SetSightings
from profilelake.semantics.identifiers import set_prefix
from profilelake.semantics.positions import POSITION_BYTES, Position
from profilelake.semantics.rules import segment_defaults
from profilelake.state.records import IdentRecord, ProfileRecord, SetRecord, encode
from profilelake.state.store import Db, State
from profilelake.state.working import Working

WORKSPACE = "bench"
PER_PERSON, SETS_PER_PERSON = 5, 4
AT_ONCE = 250_000
BEGAN = 1_700_000_000_000_000
LAST_INDEX = POSITION_BYTES - 12
KINDS = np.array([USER, EMAIL, DEVICE, DEVICE, DEVICE], dtype=np.int8)
PLACE = Position(BEGAN, "eu", "00" * 8, 0, 0).to_bytes()

Int64s = npt.NDArray[np.int64]


def position(number: int) -> bytes:
    """Return the position of the set with a number, in the order of numbers."""
    return (BEGAN + number).to_bytes(8, "big") + PLACE[8:]


def numbers_of(persons: Int64s, places: Int64s) -> Words:
    """Return the numbers of identifiers: the user's own, an e-mail's, or a device's."""
    devices = persons << 10 | np.maximum(places - 2, 0)
    return np.where(places == 0, persons, np.where(places == 1, persons << 2, devices)).astype(np.uint64)


def identifiers(persons: Int64s, places: Int64s) -> tuple[npt.NDArray[np.int32], pa.Array, Words]:
    """Return type codes, values and ids of identifiers of persons by their place there."""
    codes, values = columns(KINDS[np.minimum(places, 2)], numbers_of(persons, places))
    return codes, values, siphash.hash_typed(KEY, PREFIXES, codes, values)


def all_ids(persons: int) -> tuple[Words, Words]:
    """Return the ids of all identifiers and of all sets, person by person."""
    idents = np.empty((persons * PER_PERSON, 2), dtype=np.uint64)
    sets = np.empty((persons * SETS_PER_PERSON, 2), dtype=np.uint64)
    for start in range(0, persons, AT_ONCE):
        stop = min(start + AT_ONCE, persons)
        who = np.arange(start, stop).repeat(PER_PERSON)
        _, _, ids = identifiers(who, np.tile(np.arange(PER_PERSON), stop - start))
        idents[start * PER_PERSON : stop * PER_PERSON] = ids
        ids = ids.reshape(-1, PER_PERSON, 2)
        pairs = np.stack([ids[:, [0, 0, 0, 0]], ids[:, 1:]], axis=2).reshape(-1, 2)
        offsets = np.arange(0, len(pairs) + 1, 2, dtype=np.int64)
        sets[start * SETS_PER_PERSON : stop * SETS_PER_PERSON] = siphash.set_ids(
            KEY, set_prefix("users"), pairs, offsets
        )
    return idents, sets


def in_order(ids: Words) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of ids in the order of their bytes, some at a time."""
    order = np.argsort(ids[:, 0].byteswap())
    for start in range(0, len(order), AT_ONCE):
        yield order[start : start + AT_ONCE]


def build(directory: Path, persons: int) -> None:
    """Fill a state."""
    began, cpu = time.perf_counter(), time.process_time()
    idents, sets = all_ids(persons)
    state = State.open(directory, writable=True)
    state.ensure([WORKSPACE])

    def store(db: Db, items: list[tuple[bytes, bytes]]) -> None:
        with state.write() as tx:
            if db is Db.LINKS:
                tx.put_links(WORKSPACE, items)
            else:
                tx.put_many(WORKSPACE, db, items)

    for rows in in_order(idents):
        who, places = np.divmod(rows, PER_PERSON)
        codes, values, _ = identifiers(who, places)
        keys, owners = siphash.to_bytes(idents[rows]), siphash.to_bytes(sets[who * SETS_PER_PERSON])
        first = (who * SETS_PER_PERSON + np.maximum(places - 1, 0)).tolist()
        store(
            Db.IDENT,
            [
                (
                    key,
                    encode(
                        IdentRecord(
                            0, TYPES[code], value, "website", f"m-{n:032x}", BEGAN + n, position(n), owner
                        )
                    ),
                )
                for key, code, value, owner, n in zip(
                    keys, codes.tolist(), values.to_pylist(), owners, first, strict=True
                )
            ],
        )
    print(f"identifiers: {time.perf_counter() - began:.0f} s, {state.bytes_used() / 1e9:.2f} GB", flush=True)
    for rows in in_order(sets):
        who, places = np.divmod(rows, SETS_PER_PERSON)
        users, others = idents[who * PER_PERSON], idents[who * PER_PERSON + places + 1]
        store(
            Db.SET,
            [
                (
                    key,
                    encode(
                        SetRecord(0, user + other, user, owner, owner, position(n), f"m-{n:032x}", "website")
                    ),
                )
                for key, user, other, owner, n in zip(
                    siphash.to_bytes(sets[rows]),
                    siphash.to_bytes(users),
                    siphash.to_bytes(others),
                    siphash.to_bytes(sets[who * SETS_PER_PERSON]),
                    rows.tolist(),
                    strict=True,
                )
            ],
        )
    print(f"sets: {time.perf_counter() - began:.0f} s, {state.bytes_used() / 1e9:.2f} GB", flush=True)
    for who in in_order(sets[::SETS_PER_PERSON]):
        members = siphash.to_bytes(idents.reshape(persons, PER_PERSON, 2)[who].reshape(-1, 2))
        held = siphash.to_bytes(sets.reshape(persons, SETS_PER_PERSON, 2)[who].reshape(-1, 2))
        types = ["user_id", "email", *["anonymous_id"] * 3]
        store(
            Db.PROFILE,
            [
                (
                    held[at * SETS_PER_PERSON],
                    encode(
                        ProfileRecord(
                            0,
                            position(number * SETS_PER_PERSON),
                            list(zip(members[at * PER_PERSON : (at + 1) * PER_PERSON], types, strict=True)),
                            held[at * SETS_PER_PERSON : (at + 1) * SETS_PER_PERSON],
                        )
                    ),
                )
                for at, number in enumerate(who.tolist())
            ],
        )
    for rows in in_order(idents):
        who, places = np.divmod(rows, PER_PERSON)
        items = []
        for key, person, place in zip(
            siphash.to_bytes(idents[rows]), who.tolist(), places.tolist(), strict=True
        ):
            first = person * SETS_PER_PERSON
            theirs = (
                sets[first : first + SETS_PER_PERSON]
                if place == 0
                else sets[first + place - 1 : first + place]
            )
            items += [(key, value) for value in siphash.to_bytes(theirs)]
        store(Db.LINKS, items)
    size = state.bytes_used()
    print(
        f"{persons * PER_PERSON:,} identifiers, {persons * SETS_PER_PERSON:,} sets, {persons:,} profiles: "
        f"{size / 1e9:.2f} GB, {time.process_time() - cpu:.0f} CPU s, {time.perf_counter() - began:.0f} s"
    )
    state.close()


def batch(persons: int, size: int, seed: int) -> tuple[SetSightings, pa.Table]:
    """Return sets nobody has seen, and the events that show them."""
    rng = np.random.default_rng([seed, persons])
    who = rng.choice(persons, size, replace=False)
    kind = rng.choice(4, size, p=[0.7, 0.2, 0.05, 0.05])
    new_device = 3 + seed % 500
    fresh = persons + seed * size + np.arange(size)
    # An e-mail with a device, a user with a new device, a new user with a device, a stranger's e-mail.
    one = np.where(kind == 2, fresh, np.where(kind == 3, (who + persons // 2) % persons, who))
    other = np.where(kind == 2, fresh, who)
    places_one = np.where((kind == 0) | (kind == 3), 1, 0)
    places_other = np.where(kind == 1, 2 + new_device, np.where(kind == 2, 2, 2 + rng.integers(0, 3, size)))
    persons_of = np.stack([one, other], axis=1).ravel()
    codes, values, ids = identifiers(persons_of, np.stack([places_one, places_other], axis=1).ravel())
    offsets = np.arange(0, 2 * size + 1, 2, dtype=np.int64)
    set_ids = siphash.set_ids(KEY, set_prefix("users"), ids, offsets)
    _, first = np.unique(set_ids, axis=0, return_index=True)
    first = np.sort(first)
    at = BEGAN + 10**12 * (seed + 1) + np.arange(size)
    positions = [int(time_at).to_bytes(8, "big") + PLACE[8:] for time_at in at]
    events = pa.table(
        {
            "position": pa.array(positions, pa.binary(POSITION_BYTES)),
            "message_id": pa.array([f"b-{seed}-{row:028x}" for row in range(size)]),
            "source_id": pa.repeat("website", size),
        }
    )
    types = pa.array(TYPES).take(pa.array(codes))
    sightings = SetSightings(
        collection="users",
        set_ids=set_ids[first],
        first=first,
        last=first,
        counts=np.ones(len(first), dtype=np.int64),
        start=2 * first,
        stop=2 * first + 2,
        ident_ids=ids,
        types=types,
        values=values,
    )
    return sightings, events


def run(directory: Path, persons: int, size: int, batches: int) -> None:
    """Apply batches and print what each took."""
    for module in (siphash, dense, identity):
        module.warm()
    state = State.open(directory, writable=True)
    state.ensure([WORKSPACE])
    resolver = Resolver(segment_defaults())
    with state.read(WORKSPACE) as tx:
        print(
            f"{tx.count(WORKSPACE, Db.IDENT):,} identifiers, {tx.count(WORKSPACE, Db.SET):,} sets, "
            f"{state.bytes_used() / 1e9:.2f} GB"
        )
        resolver.load(tx, WORKSPACE)
    applied = position(persons * SETS_PER_PERSON)
    began = time.time_ns() // 1000 % 10**9
    for turn in range(batches):
        if turn < 2:
            _cache(directory / "data.mdb", keep=turn > 0)
        sightings, events = batch(persons, size, began % 10**6 + turn)
        marks = [(time.perf_counter(), time.process_time())]
        with state.write() as tx:
            work = Working(tx, WORKSPACE, turn + 1)
            resolver.apply(work, [sightings], events, applied)
            marks.append((time.perf_counter(), time.process_time()))
            work.flush()
            marks.append((time.perf_counter(), time.process_time()))
        marks.append((time.perf_counter(), time.process_time()))
        applied = events.column("position")[-1].as_py()
        steps = ", ".join(
            f"{name} {after[0] - before[0]:.2f} s ({after[1] - before[1]:.2f} CPU)"
            for name, before, after in zip(("apply", "flush", "commit"), marks, marks[1:], strict=False)
        )
        wall, cpu = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]
        print(
            f"batch {turn + 1} {'cold' if turn == 0 else 'warm'}: {len(sightings.set_ids):,} new sets in "
            f"{wall:.2f} s ({cpu:.2f} CPU s): {steps}",
            flush=True,
        )
    print(f"peak RSS {peak_gb():.2f} GB (pages of the map included)")
    state.close()


def _cache(path: Path, *, keep: bool) -> None:
    """Read all of a file into the page cache, or drop it from there."""
    with path.open("rb", buffering=0) as file:
        if not keep:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while keep and file.read(1 << 24):
            pass


def main() -> None:
    """Run one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("job", choices=("build", "run"))
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--persons", type=int, default=100_000)
    parser.add_argument("--sets", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=5)
    given = parser.parse_args()
    print(f"machine: {machine(given.directory.parent).line()}")
    if given.job == "build":
        build(given.directory, given.persons)
    else:
        run(given.directory, given.persons, given.sets, given.batches)


if __name__ == "__main__":
    main()
