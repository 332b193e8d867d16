"""Whether the object store that holds the tables does what they need of it."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from profilelake.doctor.findings import Finding, Patient, fine, problem, warning
from profilelake.errors import Unavailable
from profilelake.lake.files import is_remote
from profilelake.lake.place import LakePlace
from profilelake.lake.storage import Storage, storage_of

FOLDER: Final = "_doctor"
"""Below the warehouse; the names of namespaces begin with `ws_`."""
RETRIES_MAX: Final = 2
RETRY_SECONDS_MAX: Final = 10.0
"""A doctor does not wait for long: what is wrong now is to be told."""
SKEW_SECONDS_WARN: Final = 30
_CONTENT: Final = b"written by profilelake doctor"


def storage(patient: Patient) -> Iterator[Finding]:
    """Can files be written, read, listed and removed where the warehouse is, and does only one writer win?"""
    place = LakePlace.of(patient.layout, os.environ)
    if not is_remote(place.warehouse):
        return
    options = replace(
        place.storage,
        retries_max=min(RETRIES_MAX, place.storage.retries_max),
        retry_seconds=min(RETRY_SECONDS_MAX, place.storage.retry_seconds),
    )
    opened = storage_of(place.warehouse, options)
    probe = f"{opened.root}/{FOLDER}/{uuid.uuid4().hex}"
    try:
        yield from _used(opened, probe, patient.now)
    except Unavailable as error:
        text, _, fix = str(error).partition("; ")
        yield problem("storage", text, fix or "put that right, then run doctor again")


def _used(opened: Storage, probe: str, now: int) -> Iterator[Finding]:
    opened.create(probe, _CONTENT)
    try:
        yield from _held(opened, probe, now)
    finally:
        opened.remove([probe])


def _held(opened: Storage, probe: str, now: int) -> Iterator[Finding]:
    if opened.read(probe) != _CONTENT:
        yield problem(
            "storage",
            f"{probe} was written and reads otherwise",
            "something between here and the store changes what passes; take it out",
        )
        return
    if opened.create(probe, _CONTENT):
        yield problem(
            "storage",
            "the store lets a second writer win who asked to write only what is not there (If-None-Match)",
            "take a store that honours it; without it two processes may overwrite each other's files",
        )
    listed = [file for file in opened.list(f"{opened.root}/{FOLDER}") if file.location == probe]
    if not listed:
        yield problem(
            "storage",
            f"{probe} was written and is not listed",
            "take a store that lists what is there; else the sweep and the tables disagree",
        )
    else:
        yield from _clock(listed[0].modified_at - now // 1_000_000)
    opened.remove([probe])
    if opened.size(probe) is not None:
        yield problem(
            "storage",
            f"{probe} cannot be removed: nothing erased or outdated would ever go",
            "grant s3:DeleteObject below the prefix; where the bucket has a lock on objects, choose another",
        )
        return
    yield fine("storage", f"{opened.root}: files can be written, read, listed and removed")


def _clock(ahead: int) -> Iterator[Finding]:
    if abs(ahead) > SKEW_SECONDS_WARN:
        yield warning(
            "storage clock",
            f"the clock of the store is {abs(ahead):,} s {'ahead of' if ahead > 0 else 'behind'} ours: files look "
            "older or younger than they are to the sweep, and from 15 minutes on requests are refused",
            "set the clock right: chronyc makestep",
        )
    else:
        yield fine("storage clock", "it agrees with the clock of this machine")
