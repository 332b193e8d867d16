"""How many identifier sets per CPU second identity resolution takes, from nothing.

    python benchmarks/identity_kernel.py [--sizes 1000000 10000000] [--seed 1] [--columns 1000000]

Sets have two identifiers each: a person has one user id, up to three e-mails and eight devices, and 3 %
of the devices are somebody else's. Identifiers are numbered at random, the worst case for caches.
`resolve` is the compiled resolver alone; `from columns` adds hashing the strings, cleaning and numbering.
The baseline is the plain reference, on a small history of the same kind.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from profilelake.identity import problem
from profilelake.kernels import dense, siphash
from profilelake.kernels import identity as kernel
from profilelake.semantics import identity
from profilelake.semantics.identifiers import Identifier, ident_prefix
from profilelake.semantics.identity import Sighting
from profilelake.semantics.rules import segment_defaults

RULES = segment_defaults()
TYPES = [rule.type for rule in problem.rules_by_strength(RULES, "users")]
USER, EMAIL, DEVICE = TYPES.index("user_id"), TYPES.index("email"), TYPES.index("anonymous_id")
EMAILS, DEVICES = 3, 8
EVENTS_PER_PERSON = 4
REFERENCE_SETS = 5_000
KEY = bytes(range(16))

_Answer = TypeVar("_Answer")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--columns", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"machine: {_processor()}, {platform.python_implementation()} {platform.python_version()}")
    for warm in (siphash.warm, dense.warm, kernel.warm):
        warm()

    codes, numbers = generate(REFERENCE_SETS, arguments.seed)
    sightings = [
        Sighting(
            frozenset(Identifier(TYPES[codes[row]], str(numbers[row])) for row in (2 * at, 2 * at + 1)),
            at.to_bytes(8, "big"),
            at,
        )
        for at in range(REFERENCE_SETS)
    ]
    baseline, _ = _rate(REFERENCE_SETS, lambda: identity.resolve(sightings, RULES, key=KEY))
    print(
        f"reference     {REFERENCE_SETS:>11,} sets  {baseline:>12,.0f} sets/CPU s  (baseline)  seed {arguments.seed}"
    )

    for sets in arguments.sizes:
        dense_problem = number(*generate(sets, arguments.seed))
        rate, found = _rate(sets, lambda given=dense_problem: kernel.resolve(given))  # type: ignore[misc]
        print(
            f"resolve       {sets:>11,} sets  {rate:>12,.0f} sets/CPU s  {rate / baseline:>7,.0f} x  "
            f"({len(found.founding_set):,} founded, {len(found.merge_set):,} merged, "
            f"{len(found.refusal_set):,} refused)  peak RSS {_peak_gb():.2f} GB"
        )
    if arguments.columns:
        _from_columns(arguments.columns, arguments.seed, baseline)


def generate(sets: int, seed: int) -> tuple[kernel.Int32s, kernel.Int64s]:
    """Return type code and value (a number) of each of the two members of each set."""
    rng = np.random.default_rng(seed)
    persons = max(1, sets // EVENTS_PER_PERSON)
    person = rng.integers(0, persons, sets)
    email = person * EMAILS + rng.integers(0, EMAILS, sets)
    device = person * DEVICES + rng.integers(0, DEVICES, sets)
    device = np.where(rng.random(sets) < 0.03, rng.integers(0, persons * DEVICES, sets), device)
    kind = rng.integers(0, 10, sets)
    first = np.where((kind >= 2) & (kind < 6), EMAIL, USER)
    second = np.where(kind < 2, EMAIL, DEVICE)
    codes = np.stack([first, second], axis=1).ravel().astype(np.int32)
    values = np.stack(
        [np.where(first == EMAIL, email, person), np.where(second == EMAIL, email, device)], axis=1
    )
    return codes, values.ravel()


def number(codes: kernel.Int32s, values: kernel.Int64s) -> kernel.Problem:
    """Return the problem with identifiers numbered at random."""
    rng = np.random.default_rng(0)
    _, first, inverse = np.unique(values * len(TYPES) + codes, return_index=True, return_inverse=True)
    place = rng.permutation(len(first))
    ident_type = np.empty(len(first), dtype=np.int32)
    ident_type[place] = codes[first]
    limits = [rule.limit or kernel.NO_LIMIT for rule in problem.rules_by_strength(RULES, "users")]
    return kernel.Problem(
        set_offsets=np.arange(0, len(codes) + 1, 2, dtype=np.int64),
        set_idents=place[inverse].astype(np.int32),
        ident_type=ident_type,
        type_limit=np.array(limits, dtype=np.int32),
        type_window=np.zeros(len(TYPES), dtype=np.int64),
    )


def _from_columns(sets: int, seed: int, baseline: float) -> None:
    codes, numbers = generate(sets, seed)
    types = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(TYPES))
    values = pa.array([f"{value:026d}" for value in numbers.tolist()])
    offsets = np.arange(0, len(codes) + 1, 2, dtype=np.int64)
    times = np.arange(sets, dtype=np.int64)
    prefixes = [ident_prefix("users", type) for type in TYPES]
    hashing, ids = _rate(sets, lambda: siphash.hash_typed(KEY, prefixes, codes, values))
    columns = problem.SetColumns(offsets, types, values, ids, times)
    translating, translated = _rate(sets, lambda: problem.problem_of(columns, RULES))
    resolving, _ = _rate(sets, lambda: kernel.resolve(translated.problem))
    whole = 1 / (1 / hashing + 1 / translating + 1 / resolving)
    print(
        f"from columns  {sets:>11,} sets  {whole:>12,.0f} sets/CPU s  {whole / baseline:>7,.0f} x  "
        f"(hash {hashing:,.0f}, clean and number {translating:,.0f}, resolve {resolving:,.0f})"
    )


def _rate(count: int, work: Callable[[], _Answer]) -> tuple[float, _Answer]:
    before = time.process_time()
    answer = work()
    return count / (time.process_time() - before), answer


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
