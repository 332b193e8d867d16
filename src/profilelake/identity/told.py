"""What explanations of identity are made of: documents that commands print and HTTP answers hold.

Ids stand in hex, times as ISO 8601, profiles by their public ids.
"""

import msgspec

from profilelake.identity.decisions import Decision


class Node(msgspec.Struct, frozen=True):
    """An identifier."""

    id: str
    type: str
    value: str

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


class Evidence(msgspec.Struct, frozen=True):
    """A set of identifiers, and the first event that counts of those that showed it."""

    set_id: str
    at: str
    position: str
    source_id: str
    message_id: str


class Refused(msgspec.Struct, frozen=True):
    """An identifier that did not join the profile of its set.

    `profile_id` is the profile the set belongs to now, `against_profile_id` what it was called when the
    identifier was refused, `owner_profile_id` whose the identifier is now. `limit` is the number that
    the rules in force allow, of `limit_type` where the cause is a limit of a type.
    """

    identifier: Node
    cause: str
    limit_type: str | None
    limit: int | None
    window_seconds: int | None
    profile_id: str | None
    against_profile_id: str | None
    owner_profile_id: str | None
    evidence: Evidence


class Edge(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """Two identifiers (ids of nodes) that one set links, with the event."""

    source: str
    target: str
    evidence: Evidence


class Side(msgspec.Struct, frozen=True):
    """One of two identifiers that do not share a profile.

    `standing` is `linked`; or, where it belongs to nobody: `quarantined`, `blocked`, `no_rule`,
    `refused` (by every set with it) or `retracted`.
    """

    node: str
    profile_id: str | None
    standing: str


class Apart(msgspec.Struct, frozen=True):
    """What stands between two identifiers; `more` tells that there are refusals beyond these."""

    sides: list[Side]
    refusals: list[Refused]
    decisions: list[Decision]
    more: bool


class Chain(msgspec.Struct, frozen=True):
    """How two identifiers are one person: `nodes` in the order of the chain, an edge between neighbours.

    Where they are not, `profile_id` is null, the nodes are the two, and `apart` says what is between them.
    """

    collection: str
    profile_id: str | None
    nodes: list[Node]
    edges: list[Edge]
    apart: Apart | None = None


class Member(msgspec.Struct, frozen=True):
    """An identifier of an event's set, and what became of it in that set.

    `outcome` is `linked`, `refused`, `quarantined`, `blocked` or `no_rule`; of a set that no event
    counts for, `retracted`.
    """

    identifier: Node
    outcome: str


class SetShown(msgspec.Struct, frozen=True):
    """The set of an event, with what became of each identifier in it."""

    collection: str
    profile_id: str | None
    evidence: Evidence
    members: list[Member]


class Refusals(msgspec.Struct, frozen=True):
    """Refusals, the newest first. `sets` are those of the event that was asked for."""

    refusals: list[Refused]
    sets: list[SetShown] = []


class Quarantined(msgspec.Struct, frozen=True):
    """An identifier that links nobody: by decision, or because it met `degree` values of `degree_type`."""

    identifier: Node
    collection: str
    cause: str
    at: str
    position: str
    degree: int | None = None
    degree_type: str | None = None
    decision: Decision | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a profile. `profile_id` is the one it happened to, as it was called then.

    `what` is one of
    created: by this event, with these identifiers;
    joined: these identifiers, which nobody had;
    merged: the profile `merged_profile_id` became part of it, with so many identifiers (`count`);
    refused: an identifier of this event did not join (`refused` says why);
    quarantined_by_degree: an identifier of this profile's events met too many others;
    decided: `decision`, which holds for everything before and after it.
    """

    at: str
    position: str
    what: str
    profile_id: str | None = None
    identifiers: list[Node] = []
    count: int = 0
    merged_profile_id: str | None = None
    evidence: Evidence | None = None
    refused: Refused | None = None
    decision: Decision | None = None


class Part(msgspec.Struct, frozen=True):
    """A profile as it stood at the end of a history, with the number of its identifiers."""

    profile_id: str
    identifiers: int


class History(msgspec.Struct, frozen=True):
    """How a profile formed. `parts` are the profiles at the end of it: one, unless `as_of` cuts it short."""

    collection: str
    profile_id: str
    asked_for: str
    as_of: str | None
    parts: list[Part]
    parts_more: bool
    steps: list[Step]
