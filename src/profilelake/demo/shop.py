"""A made-up shop: persons, their devices and visits, as calls of an official SDK.

Everything follows from the seed, so two machines make the same data. What is hard for identity
resolution in real life is in it on purpose: people who clear their cookies, change their address
or never say who they are, families sharing a tablet, a kiosk everybody uses, broken tags.
`_visits.py` says what happens in one visit; here is who comes when.
"""

import heapq
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

from profilelake.demo import catalogue
from profilelake.demo._visits import Call, Device, Organisation, Person, visit
from profilelake.demo.truth import Truth
from profilelake.semantics.identifiers import Identifier

__all__ = ["Call", "shop_calls"]

EVENTS_PER_PERSON: Final = 12
EVENTS_PER_VISIT: Final = 6
EVENTS_PER_VISIT_MAX: Final = 24
PERSONS_PER_KIOSK: Final = 1500
WEEKS: Final = 6

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_WINDOW_MS: Final = WEEKS * 7 * _DAY_MS
# Visits per hour of the day: a lunch hump and a larger evening one.
_HOUR_WEIGHTS: Final = tuple(
    accumulate((2, 1, 1, 1, 1, 2, 4, 8, 11, 12, 13, 14, 17, 15, 12, 12, 13, 15, 19, 24, 27, 24, 15, 6))
)
_HOURS: Final = range(24)


def shop_calls(seed: int, events: int, ends_at: datetime, truth: Truth) -> Iterator[Call]:
    """Yield exactly `events` calls in the order of their timestamps, the last ones just before `ends_at`.

    `truth` is filled along the way and complete when the iterator is exhausted. Message ids follow
    from the arguments, so sending the same data twice changes nothing in a lake.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable data, nothing secret
    starts_at = ends_at - timedelta(milliseconds=_WINDOW_MS)
    people = _people(rng, max(1, events // EVENTS_PER_PERSON), truth)
    kiosks = [_kiosk(rng, number) for number in range(1 + len(people) // PERSONS_PER_KIOSK)]

    queue: list[tuple[int, int, Call]] = []
    queued = 0
    sent = 0
    for start, number, length in [*_visits_planned(rng, len(people), events), (_WINDOW_MS + _DAY_MS, -1, 0)]:
        while queue and queue[0][0] <= start:
            at, _, call = heapq.heappop(queue)
            call.arguments["timestamp"] = starts_at + timedelta(milliseconds=at)
            call.arguments["message_id"] = f"shop-{seed}-{events}-{sent:07d}"
            sent += 1
            yield call
        if number < 0:
            return
        for at, call in visit(rng, people[number], rng.choice(kiosks), start, length, truth):
            # No visit runs past the end of the window: a future timestamp would be corrected on arrival.
            heapq.heappush(queue, (min(at, _WINDOW_MS), queued, call))
            queued += 1


@dataclass(frozen=True, slots=True)
class _Habits:
    """Shares of people; named here so that the shop can be read as a table."""

    second_device: float = 0.55
    third_device: float = 0.15
    household: float = 0.06
    registers: float = 0.55
    guest: float = 0.20
    second_email: float = 0.08
    private_windows: float = 0.04
    business: float = 0.08
    broken_tag: float = 0.01
    zeroed_advertising_id: float = 0.25


_HABITS: Final = _Habits()


def _people(rng: random.Random, count: int, truth: Truth) -> list[Person]:
    people: list[Person] = []
    organisations: list[Organisation] = []
    for number in range(count):
        devices = [_device(rng, truth)]
        if rng.random() < _HABITS.second_device:
            devices.append(_device(rng, truth))
        if rng.random() < _HABITS.third_device:
            devices.append(_device(rng, truth))
        if people and rng.random() < _HABITS.household:
            devices.append(people[-1].devices[0])
        draw = rng.random()
        registers = draw < _HABITS.registers
        person = Person(
            number=number,
            devices=devices,
            registers=registers,
            leaves_email=registers or draw < _HABITS.registers + _HABITS.guest,
            changes_email=rng.random() < _HABITS.second_email,
            private_windows=rng.random() < _HABITS.private_windows,
            city=rng.choice(catalogue.CITIES),
        )
        if registers and rng.random() < _HABITS.business:
            if not organisations or rng.random() < 0.3:
                organisations.append(
                    Organisation(len(organisations), rng.choice(catalogue.INDUSTRIES), rng.randint(3, 400))
                )
            person.organisation = rng.choice(organisations)
        people.append(person)
    return people


def _device(rng: random.Random, truth: Truth) -> Device:
    kind = rng.choices(("web", "ios", "android"), (60, 22, 18))[0]
    device = Device(kind=kind, anonymous_id=_uuid(rng), user_agent=rng.choice(catalogue.BROWSERS))
    if kind == "web":
        if rng.random() < _HABITS.broken_tag:
            device.anonymous_id = rng.choice(("null", "anonymous"))
            truth.junk.add(Identifier("anonymous_id", device.anonymous_id))
        return device
    device.device_id = _uuid(rng).upper() if kind == "ios" else f"{rng.getrandbits(64):016x}"
    device.push_token = f"{rng.getrandbits(256):064x}" if rng.random() < 0.5 else None
    device.app_version = rng.choice(catalogue.APP_VERSIONS)
    if rng.random() < 0.6:
        device.advertising_id = _uuid(rng).upper() if kind == "ios" else _uuid(rng)
        # An app that forgets to ask for permission gets zeroes, the same for all its users.
        if kind == "ios" and rng.random() < _HABITS.zeroed_advertising_id:
            device.advertising_id = str(uuid.UUID(int=0))
            truth.junk.add(Identifier("ios.idfa", device.advertising_id))
    return device


def _kiosk(rng: random.Random, number: int) -> Device:
    return Device(
        kind="web",
        anonymous_id=f"kiosk-{number:02d}-{rng.getrandbits(32):08x}",
        user_agent=catalogue.BROWSERS[0],
        kiosk=True,
    )


def _visits_planned(rng: random.Random, persons: int, events: int) -> list[tuple[int, int, int]]:
    """Return (start, person, events) of every visit in time order; the events add up exactly."""
    planned: list[tuple[int, int, int]] = []
    loyalty = list(accumulate(rng.paretovariate(1.6) for _ in range(persons)))
    everyone = range(persons)
    left = events
    visits = 0
    while left:
        length = min(left, EVENTS_PER_VISIT_MAX, 1 + int(rng.expovariate(1 / (EVENTS_PER_VISIT - 0.5))))
        number = visits if visits < persons else rng.choices(everyone, cum_weights=loyalty)[0]
        hour = rng.choices(_HOURS, cum_weights=_HOUR_WEIGHTS)[0]
        start = rng.randrange(WEEKS * 7) * _DAY_MS + hour * _HOUR_MS + rng.randrange(_HOUR_MS)
        planned.append((start, number, length))
        visits += 1
        left -= length
    planned.sort()
    return planned


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
