"""A state as the pipeline leaves it, written by hand: definitions, profiles with values, announced changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from profilelake.audiences import facts
from profilelake.pipeline.progress import PROGRESS, Applied
from profilelake.semantics.definitions import Definition, Target
from profilelake.semantics.positions import Position
from profilelake.state.computed import (
    ChangeRecord,
    ComputedRecord,
    DefinitionRecord,
    ValueRecord,
    change_key,
    decode_computed,
)
from profilelake.state.records import (
    ConsentRecord,
    IdentRecord,
    ProfileRecord,
    SetRecord,
    TraitRecord,
    encode,
)
from profilelake.state.store import Db, State, Tx

WORKSPACE: Final = "default"
START: Final = 1_772_359_210_000_000
SECOND: Final = 1_000_000


def profile_key(number: int) -> bytes:
    """Return the founding set of a profile of this world."""
    return number.to_bytes(16, "big")


class World:
    """One state; each method is one transaction of the pipeline, a second after the one before."""

    def __init__(self, directory: Path, epoch: int = 1) -> None:
        self.state = State.open(directory, writable=True)
        self.state.ensure([WORKSPACE])
        self.sequence = 0
        self.at = START
        self._epoch = f"{epoch:020d}"
        self._idents: dict[tuple[str, str], bytes] = {}
        self._numbers: dict[str, int] = {}
        self._kinds: dict[str, tuple[str, Target]] = {}
        self._write(lambda _tx: None)

    def close(self) -> None:
        self.state.close()

    def _write(self, act: object) -> None:
        self.sequence += 1
        self.at += SECOND
        with self.state.write() as tx:
            act(tx)  # type: ignore[operator]
            tx.put_meta(WORKSPACE, PROGRESS, Applied(self._epoch, self.sequence, watermark=self.at))

    def define(self, key: str, kind: str = "audience", target: Target = "users") -> None:
        """Have a definition hold."""
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        self._kinds[key] = (kind, target)
        definition = Definition(key, kind, "event('A').count() >= 1", target)  # type: ignore[arg-type]
        body = facts.encode(facts.Define(by="test", definition=definition))

        def act(tx: Tx) -> None:
            position = Position(self.at, "local", "00" * 8, self.sequence, 0).to_bytes()
            tx.put(WORKSPACE, Db.DEFINITION_FACT, position, body)
            tx.put(WORKSPACE, Db.DEFINITION, key.encode(), encode(DefinitionRecord(number, key, "live", 1)))

        self._write(act)

    def resync(self, key: str, destination: str) -> None:
        """Have somebody decide that a destination is told anew."""
        body = facts.encode(facts.Resync(by="test", key=key, destination=destination))

        def act(tx: Tx) -> None:
            position = Position(self.at, "local", "00" * 8, self.sequence, 0).to_bytes()
            tx.put(WORKSPACE, Db.DEFINITION_FACT, position, body)

        self._write(act)

    def profile(
        self,
        number: int,
        identifiers: Sequence[str],
        *,
        touched: bool = False,
        consent: Mapping[str, bool] | None = None,
        traits: Mapping[str, str] | None = None,
    ) -> bytes:
        """Have a profile with these identifiers, each `type:value`, in the order in which they were added."""
        key = profile_key(number)
        told = [tuple(one.split(":", 1)) for one in identifiers]
        for type, value in told:
            self._idents.setdefault((type, value), len(self._idents).to_bytes(16, "little"))
        collection = 1 if told and told[0][0] == "group_id" else 0

        def act(tx: Tx) -> None:
            pairs = [(self._idents[type, value], type) for type, value in told]
            for order, ((type, value), (ident, _)) in enumerate(zip(told, pairs, strict=True)):
                added = START + order
                record = IdentRecord(
                    collection, type, value, "shop", "m", added, added.to_bytes(32, "big"), key
                )
                tx.put(WORKSPACE, Db.IDENT, ident, encode(record))
            record = ProfileRecord(collection, bytes(32), pairs, [key])
            tx.put(WORKSPACE, Db.PROFILE, key, encode(record))
            idents = b"".join(ident for ident, _ in pairs)
            seen = SetRecord(collection, idents, idents[:16], key, key, bytes(32), "m", "shop")
            tx.put(WORKSPACE, Db.SET, key, encode(seen))
            if consent is not None:
                said = ConsentRecord(self.at, self.at.to_bytes(32, "big"), "shop", "m", dict(consent))
                tx.put(WORKSPACE, Db.CONSENT, key, encode(said))
            if traits is not None:
                written = {
                    name: TraitRecord(value, START, bytes(32), "shop", "m") for name, value in traits.items()
                }
                tx.put(WORKSPACE, Db.TRAITS, key, encode(written))
            if touched and tx.get(WORKSPACE, Db.COMPUTED, key) is not None:
                mark = self.at.to_bytes(8, "big")
                tx.put(WORKSPACE, Db.TOUCHED, self.sequence.to_bytes(8, "big") + key, mark)

        self._write(act)
        return key

    def gone(self, number: int) -> None:
        """Have a profile be merged away."""
        self._write(lambda tx: tx.delete(WORKSPACE, Db.PROFILE, profile_key(number)))

    def change(self, key: str, values: Mapping[int, str | None], *, silent: bool = False) -> None:
        """Have profiles be worth something else; unless `silent`, announce it."""
        kind, target = self._kinds[key]
        number = self._numbers[key]

        def act(tx: Tx) -> None:
            for order, (profile, value) in enumerate(values.items()):
                held = tx.get(WORKSPACE, Db.COMPUTED, profile_key(profile))
                record = ComputedRecord(0, {}) if held is None else decode_computed(held)
                before = record.values.pop(number, None)
                if value is not None:
                    record.values[number] = ValueRecord(value, self.at, 1)
                if record.values:
                    tx.put(WORKSPACE, Db.COMPUTED, profile_key(profile), encode(record))
                else:
                    tx.delete(WORKSPACE, Db.COMPUTED, profile_key(profile))
                if silent:
                    continue
                change = ChangeRecord(
                    key, kind, 1, target, profile_key(profile), value, None if before is None else before.value,
                    self.at, "event", bytes(32), f"{key}-{profile}-{value}-{self.sequence}",
                )  # fmt: skip
                tx.put(WORKSPACE, Db.CHANGE, change_key(self.sequence, order), encode(change))

        self._write(act)
