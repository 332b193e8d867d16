"""What requests about definitions become: facts in an order that holds, or a refusal that says what to do."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from profilelake.audiences import deciding, facts
from profilelake.audiences.deciding import (
    AskDefine,
    AskDisable,
    AskDrop,
    Asked,
    AskEnable,
    AskResync,
    Decided,
    Defined,
    decide,
)
from profilelake.definitions.names import Names
from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.semantics.conditions.check import cycles, reads
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.definitions import Definition, Kind

COUNT = "event('Order Completed').count()"
FILE = "definitions/audiences.yaml"


def audience(key: str, query: str = f"{COUNT} >= 2", **more: object) -> Definition:
    return replace(Definition(key=key, kind="audience", query=query), **more)  # type: ignore[arg-type]


def trait(key: str, query: str = COUNT) -> Definition:
    return Definition(key=key, kind="trait", query=query)


class World:
    """What is defined, fact by fact."""

    def __init__(self, *definitions: Definition) -> None:
        self.said: list[tuple[bytes, facts.Fact]] = []
        for definition in definitions:
            self.ask(AskDefine(definition=definition))

    @property
    def known(self) -> Defined:
        values = [value for place, fact in self.said if (value := facts.in_values(place, fact))]
        return deciding.defined(values)

    def decide(self, *asked: Asked, names: Names | None = None) -> Decided:
        return decide(asked, self.known, "token 1", names or Names())

    def ask(self, *asked: Asked) -> list[str]:
        """Have requests decided and recorded; return what happened to which key."""
        decided = self.decide(*asked)
        for fact in decided.facts:
            self.said.append((len(self.said).to_bytes(32, "big"), facts.decode(facts.encode(fact))))
            self._holds_together()
        return [f"{change.what} {change.key}" for change in decided.changes]

    def _holds_together(self) -> None:
        """After every single fact what is read is there, and nothing turns in a circle."""
        held = self.known.held
        roots = {key: parse(one.definition.query) for key, one in held.items()}
        assert cycles(roots) == []
        for key, root in roots.items():
            assert reads(root) & self.known.kinds.keys() <= held.keys(), key


def test_the_same_words_and_the_same_meaning_change_nothing() -> None:
    world = World(audience("loyal"))
    assert world.ask(AskDefine(definition=audience("loyal"))) == []
    spaced = audience("loyal", "event( 'Order Completed' )\n  .count() >= 2")
    assert world.ask(AskDefine(definition=spaced)) == []
    assert world.ask(AskDefine(definition=audience("loyal", f"{COUNT} >= 3"))) == ["changed loyal"]
    assert world.known.held["loyal"].version == 2


def test_enabling_and_disabling() -> None:
    world = World(audience("loyal"))
    assert world.ask(AskEnable(key="loyal")) == []
    assert world.ask(AskDisable(key="loyal")) == ["disabled loyal"]
    with pytest.raises(Conflict, match="it is disabled and worth nothing; enable it first"):
        world.decide(AskResync(key="loyal"))
    assert world.ask(AskEnable(key="loyal")) == ["enabled loyal"]
    assert world.ask(AskResync(key="loyal", destination="crm")) == ["resync loyal"]
    assert world.said[-1][1] == facts.Resync(by="token 1", key="loyal", destination="crm")
    for asked in (AskEnable(key="no"), AskDisable(key="no"), AskDrop(key="no"), AskResync(key="no")):
        with pytest.raises(NotFound, match="there is no such definition"):
            world.decide(asked)


def test_another_version_than_expected_is_refused() -> None:
    world = World(audience("loyal"))
    changed = audience("loyal", f"{COUNT} >= 3")
    with pytest.raises(Conflict, match="version 2 was expected, version 1 holds; load it again"):
        world.decide(AskDefine(definition=changed, expected_version=2))
    with pytest.raises(Conflict, match="version 1 was expected, there is none"):
        world.decide(AskDefine(definition=audience("new"), expected_version=1))
    with pytest.raises(Conflict, match="version 0 was expected, version 1 holds"):
        world.decide(AskDefine(definition=changed, expected_version=0))
    assert world.ask(AskDefine(definition=changed, expected_version=1)) == ["changed loyal"]


@pytest.mark.parametrize("key", ["", "grüße", "a b", "a/b", "a" * 101])
def test_keys_that_cannot_be_names_of_traits(key: str) -> None:
    with pytest.raises(Invalid, match="a key has"):
        World().decide(AskDefine(definition=audience(key)))


def test_a_dropped_key_comes_back_only_as_the_same_kind() -> None:
    world = World(audience("loyal"))
    assert world.ask(AskDrop(key="loyal")) == ["dropped loyal"]
    with pytest.raises(Conflict, match="of kind audience, and a key never changes its kind"):
        world.decide(AskDefine(definition=trait("loyal")))
    assert world.ask(AskDefine(definition=audience("loyal"))) == ["new loyal"]
    assert world.known.held["loyal"].version == 2


def test_nobody_becomes_somebody_else() -> None:
    world = World(audience("loyal"))
    with pytest.raises(Conflict, match="it is about users, and that never changes"):
        world.decide(AskDefine(definition=audience("loyal", target="accounts")))


def test_what_is_read_cannot_be_dropped_alone() -> None:
    world = World(trait("orders"), audience("loyal", "trait('orders') >= 2"))
    with pytest.raises(Conflict, match="dropping orders: loyal reads it; drop or change what reads it"):
        world.decide(AskDrop(key="orders"))
    with pytest.raises(Conflict, match="loyal"):
        world.decide(AskDrop(key="orders"), AskDefine(definition=audience("other")))
    assert world.ask(AskDrop(key="orders"), AskDrop(key="loyal")) == ["dropped loyal", "dropped orders"]
    assert [fact.key for _, fact in world.said[-2:] if isinstance(fact, facts.Drop)] == ["loyal", "orders"]


def test_an_entity_that_is_asked_for_cannot_be_dropped_alone() -> None:
    orders = Definition(key="orders", kind="entity", query="SELECT user_id, total FROM t", id_type="user_id")
    world = World()
    world.said = [(bytes(32), facts.Define(by="token 1", definition=orders))]
    asked = AskDefine(definition=audience("rich", "entity('orders').count() >= 1"))
    assert [change.key for change in world.decide(asked).changes] == ["rich"]
    world.said.append((bytes(31) + b"1", facts.Define(by="token 1", definition=asked.definition)))
    with pytest.raises(Conflict, match="dropping orders: rich reads it"):
        world.decide(AskDrop(key="orders"))
    with pytest.raises(Invalid, match="id 'name' is no column of ids; use one of user_id, email"):
        world.decide(AskDefine(definition=replace(orders, id_type="name")))


def test_what_reads_it_may_stop_reading_it_at_the_same_time() -> None:
    world = World(trait("orders"), audience("loyal", "trait('orders') >= 2"))
    assert world.ask(AskDrop(key="orders"), AskDefine(definition=audience("loyal"))) == [
        "changed loyal",
        "dropped orders",
    ]


def test_a_dropped_key_cannot_be_read() -> None:
    world = World(trait("orders"))
    world.ask(AskDrop(key="orders"))
    with pytest.raises(Invalid, match="it reads orders, which was dropped; read something else"):
        world.decide(AskDefine(definition=audience("loyal", "trait('orders') >= 2")))


def test_definitions_that_read_each_other_come_in_their_order() -> None:
    world = World()
    asked: Sequence[Asked] = [
        AskDefine(definition=audience("a", "trait('b') = true")),
        AskDefine(definition=audience("b", "trait('c') >= 1")),
        AskDefine(definition=trait("c")),
    ]
    assert world.ask(*asked) == ["new a", "new b", "new c"]
    assert [one.definition.key for _, one in world.said if isinstance(one, facts.Define)] == ["c", "b", "a"]


def test_who_reads_whom_can_be_turned_round() -> None:
    world = World(audience("b"), audience("a", "trait('b') = true"))
    world.ask(AskDefine(definition=audience("a")), AskDefine(definition=audience("b", "trait('a') = true")))
    assert [one.definition.key for _, one in world.said[-2:] if isinstance(one, facts.Define)] == ["a", "b"]


def test_circles_are_refused() -> None:
    world = World(audience("b"), audience("a", "trait('b') = true"))
    with pytest.raises(Invalid, match=r"read each other in a circle: a -> b -> a; break it"):
        world.decide(AskDefine(definition=audience("b", "trait('a') = true")))


@pytest.mark.parametrize(
    ("kind", "query", "told"),
    [
        ("audience", "event('x').count( >= 1", "defining k: reading a condition: line 1, column"),
        ("audience", COUNT, "defining k: line 1, column 1: error"),
        ("trait", "trait('x') = 1", "defining k: line 1, column 1: error"),
        ("audience", "entity('orders').count() >= 1", "there is no entity 'orders'"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Kind, query: str, told: str) -> None:
    with pytest.raises(Invalid, match="defining k") as raised:
        World().decide(AskDefine(definition=Definition(key="k", kind=kind, query=query)))
    assert told in str(raised.value)


def test_what_a_file_manages_is_changed_there_or_overridden() -> None:
    world = World(audience("loyal", managed_by=FILE))
    changed = audience("loyal", f"{COUNT} >= 3")
    asked = (
        AskDefine(definition=changed),
        AskDrop(key="loyal"),
        AskDisable(key="loyal"),
    )
    for one in asked:
        with pytest.raises(Conflict, match=f"{FILE} says what holds; change it there"):
            world.decide(one)
    assert world.ask(AskDefine(definition=audience("loyal"))) == []
    assert world.ask(AskDefine(definition=changed, override=True)) == ["changed loyal"]
    assert world.known.held["loyal"].definition.managed_by == FILE


def test_a_file_takes_over_and_may_be_moved() -> None:
    world = World(audience("loyal"))
    assert world.ask(AskDefine(definition=audience("loyal", managed_by=FILE))) == ["changed loyal"]
    moved = audience("loyal", managed_by="definitions/audiences/loyal.yaml")
    assert world.ask(AskDefine(definition=moved)) == []


def test_a_trait_of_the_same_name_is_warned_of() -> None:
    names = Names(user_traits={"plan"})
    (told,) = World().decide(AskDefine(definition=trait("plan")), names=names).warnings
    assert "profiles have a trait of this name already" in told
    assert World(trait("plan")).decide(AskDefine(definition=trait("plan")), names=names).warnings == ()


def test_who_reads_what_is_disabled_is_told() -> None:
    world = World(audience("b"), audience("a", "trait('b') = true"))
    (told,) = world.decide(AskDisable(key="b")).warnings
    assert told == "b: a read it, and find nothing while it is disabled"


def test_one_key_twice_at_once_and_long_notes_are_refused() -> None:
    with pytest.raises(Invalid, match="asked for twice at once"):
        World(audience("a")).decide(AskDrop(key="a"), AskDefine(definition=audience("a")))
    with pytest.raises(Invalid, match="the note has 1,001 characters"):
        World().decide(AskDefine(definition=audience("a"), note="x" * 1001))


def test_a_definition_nobody_understands_any_more_stops_no_other() -> None:
    world = World()
    old = facts.Define(by="token 1", definition=audience("old", "of another program"))
    world.said.append((bytes(32), old))
    decided = world.decide(AskDefine(definition=audience("new")))
    assert [change.key for change in decided.changes] == ["new"]
    assert [change.what for change in world.decide(AskDrop(key="old")).changes] == ["dropped"]


@pytest.mark.parametrize("key", [".", ".."])
def test_a_key_that_leads_to_another_folder_is_refused(key: str) -> None:
    with pytest.raises(Invalid, match="part of paths"):
        decide([AskDefine(definition=Definition(key, "audience", "trait('a') = 1"))], Defined({}, {}), "me")
