"""Identity of a workspace as one transaction shows it, and how what is found there is shown.

What explanations have in common; the explanations themselves are in `identity.explain` and `identity.history`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.identity import facts, standing
from profilelake.identity._evidence import Entry, entries
from profilelake.identity.decisions import Decision, idents_of, shown
from profilelake.identity.facts import Fact, Standing
from profilelake.identity.told import Evidence, Node, Refused
from profilelake.semantics.identifiers import Identifier, ident_id, normalised, parse_public_id, public_id
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.semantics.times import format_time
from profilelake.state.records import (
    NOBODY,
    IdentRecord,
    QuarantineRecord,
    RefusalRecord,
    SetRecord,
    decode_quarantine,
    received_at,
)
from profilelake.state.store import Db, State, Tx

PAGE_ROWS_MAX: Final = 1_000
"""Rows of a page, whoever asks."""
ATTEMPTS_MAX: Final = 5
SHOWN_CHARACTERS_MAX: Final = 80

_Answer = TypeVar("_Answer")
_Shown = TypeVar("_Shown")


@dataclass(frozen=True, slots=True)
class View:
    """Identity of one workspace as one transaction shows it, and the decisions that stand in it.

    `key` hashes identifiers; `default` are the rules where nobody has set any. `in_force` are the
    positions of the decisions that hold.
    """

    tx: Tx
    workspace: str
    key: bytes
    default: IdentityRules
    decisions: list[tuple[bytes, Fact]] = field(init=False)
    held: Standing = field(init=False)
    in_force: frozenset[bytes] = field(init=False)

    def __post_init__(self) -> None:
        decided = list(standing.decisions(self.tx, self.workspace))
        object.__setattr__(self, "decisions", decided)
        held = facts.standing(decided, self.default)
        object.__setattr__(self, "held", held)
        object.__setattr__(self, "in_force", frozenset(held.decided.values()))

    def ident(self, collection: Collection | None, text: str) -> tuple[bytes, IdentRecord]:
        """Return the identifier that is written `TYPE:VALUE`; its type says the collection where none is given.

        Raises:
            Invalid: it is not written like that.
            NotFound: no event has shown it.
        """
        type, colon, value = text.partition(":")
        if not (type and colon and value) or "\0" in type:
            raise Invalid(f"reading {quoted(text)}: write an identifier as TYPE:VALUE, such as user_id:42")
        rules = self.held.rules
        places = COLLECTIONS if collection is None else (collection,)
        for place in [place for place in places if rules.rule(place, type) is not None] or places:
            try:
                key = ident_id(self.key, place, Identifier(type, normalised(rules, place, type, value)))
            except UnicodeEncodeError as error:
                raise Invalid(f"reading {quoted(text)}: it is not valid text") from error
            record = self.tx.ident(self.workspace, key)
            if record is not None:
                return key, record
        raise NotFound(
            f"looking for {quoted(text)}: no event that was applied has it; check type and value, or see what"
            " could not be accepted: profilelake failed list"
        )

    def profile_of(self, collection: Collection | None, text: str) -> bytes:
        """Return the founding set of the profile that `text` means: its id, an earlier one, or an identifier.

        Raises:
            Invalid: `text` is neither.
            NotFound: there is none today.
        """
        public = parse_public_id(text)
        if public is None:
            key = self.ident(collection, text)[1].profile
        else:
            key = public[1]
            if self.tx.profile(self.workspace, key) is None:
                # It founded a profile once, or could have; it lives on in the profile it leads to.
                known = self.tx.set(self.workspace, key)
                key = NOBODY if known is None else known.profile
        if key == NOBODY:
            raise NotFound(
                f"looking for the profile of {quoted(text)}: it has none today; see why:"
                " profilelake identity refusals TYPE:VALUE, or identity quarantine"
            )
        return key

    def public(self, collection: int, profile: bytes) -> str | None:
        """Return the id that users see, None for nobody."""
        return None if profile == NOBODY else public_id(COLLECTIONS[collection], profile)

    def nodes(self, idents: Iterable[bytes]) -> dict[bytes, Node]:
        """Return what is shown of identifiers; of one whose value is gone, only its id."""
        asked = list(dict.fromkeys(idents))
        records = self.tx.idents(self.workspace, asked)
        return {
            key: Node(key.hex(), records[key].type, records[key].value)
            if key in records
            else Node(key.hex(), "", "")
            for key in asked
        }

    def by_degree(self) -> dict[bytes, QuarantineRecord]:
        """Return the identifiers that are quarantined because they met too many others."""
        found = self.tx.items(self.workspace, Db.QUARANTINE)
        records = ((ident, decode_quarantine(value)) for ident, value in found)
        return {
            ident: record for ident, record in records if record.active and ident not in self.held.released
        }

    def is_quarantined(self, ident: bytes) -> bool:
        """Tell whether an identifier links nobody, by decision or by its degree."""
        if ident in self.held.quarantined or ident in self.held.released:
            return ident in self.held.quarantined
        value = self.tx.get(self.workspace, Db.QUARANTINE, ident)
        return value is not None and decode_quarantine(value).active

    def entries(self, sets: Mapping[bytes, SetRecord]) -> dict[bytes, list[Entry]]:
        """Return the events through which each set counts."""
        return entries(self.tx, self.workspace, self.held, sets)

    def refused(self, refusals: Sequence[tuple[Entry, RefusalRecord]]) -> list[Refused]:
        """Return what is shown of refusals."""
        asked = {refusal.ident for _, refusal in refusals}
        idents = self.tx.idents(self.workspace, asked)
        nodes = self.nodes(asked)
        return [
            self._refused(entry, refusal, nodes[refusal.ident], idents.get(refusal.ident))
            for entry, refusal in refusals
        ]

    def _refused(
        self, entry: Entry, refusal: RefusalRecord, node: Node, ident: IdentRecord | None
    ) -> Refused:
        collection = entry.record.collection
        limit, window = self._limit(COLLECTIONS[collection], refusal)
        return Refused(
            identifier=node,
            cause=refusal.cause,
            limit_type=refusal.limit_type or None,
            limit=limit,
            window_seconds=window,
            profile_id=self.public(collection, entry.record.profile),
            against_profile_id=self.public(collection, refusal.against_profile),
            owner_profile_id=None if ident is None else self.public(collection, ident.profile),
            evidence=evidence(entry),
        )

    def _limit(self, collection: Collection, refusal: RefusalRecord) -> tuple[int | None, int | None]:
        rules = self.held.rules
        if refusal.cause == "identifiers_max":
            return rules.identifiers_max, None
        if refusal.cause == "merges_max":
            return rules.merges_max, None
        rule = rules.rule(collection, refusal.limit_type)
        return (None, None) if rule is None else (rule.limit, rule.window_seconds)

    def outcome(self, collection: Collection, ident: bytes, record: IdentRecord) -> str | None:
        """Return why an identifier can link nobody, whatever the set; None where it can."""
        rule = self.held.rules.rule(collection, record.type)
        if rule is None:
            return "no_rule"
        if self.is_quarantined(ident):
            return "quarantined"
        return "blocked" if rule.blocks(record.value) else None


def evidence(entry: Entry) -> Evidence:
    """Return what is shown of a set and the event through which it counts."""
    return Evidence(
        entry.key.hex(),
        format_time(received_at(entry.position)),
        entry.position.hex(),
        entry.source_id,
        entry.message_id,
    )


class Page(NamedTuple, Generic[_Shown]):
    """One page of an explanation; the next one begins after `following`, None on the last one."""

    shown: _Shown
    following: str | None


def explained(
    state: State, workspace: str, key: bytes, rules: IdentityRules, ask: Callable[[View], _Answer]
) -> _Answer:
    """Return what `ask` reads in one view of the state; `rules` hold where nobody has set any.

    Raises:
        NotFound: the workspace has no state yet.
        Unavailable: run files went away faster than they could be read.
    """
    for _ in range(ATTEMPTS_MAX):
        try:
            with state.read(workspace) as tx:
                return ask(View(tx, workspace, key, rules))
        except FileNotFoundError:
            continue  # a run of recent events was merged away since the transaction began
    raise Unavailable("explaining identity: run files go away faster than they are read; try again")


def decided(view: View, position: bytes, fact: Fact) -> Decision:
    """Return what is shown of a decision."""
    known = view.tx.idents(view.workspace, idents_of(fact))
    return shown(position, fact, known, in_force=position in view.in_force)


def position_of(text: str) -> bytes:
    """Return the place that a page begins behind. Raises Invalid where `text` is not one of ours."""
    try:
        place = bytes.fromhex(text)
    except ValueError:
        place = b""
    if not place:
        raise Invalid(f"reading the cursor {quoted(text)}: take it from the page before")
    return place


def quoted(text: str) -> str:
    """Return what somebody asked for, as an error shows it."""
    return repr(text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…")
