from dataclasses import replace

import pytest

from profilelake.errors import Invalid
from profilelake.semantics import identity
from profilelake.semantics.identifiers import Identifier, ident_id, public_id, set_id
from profilelake.semantics.identity import Sighting, common_window, resolve
from profilelake.semantics.rules import IdentityRules, TypeRule, segment_defaults

KEY = bytes(range(16))
U1, A1 = Identifier("user_id", "u1"), Identifier("anonymous_id", "a1")


def test_a_profile_is_named_by_its_founding_set() -> None:
    founding = frozenset({U1, A1})
    graph = resolve([Sighting(founding, b"1", 1)], segment_defaults(), key=KEY)
    founder = set_id(KEY, "users", [ident_id(KEY, "users", one) for one in (U1, A1)])
    (profile,) = graph.profiles.values()
    assert profile.profile_id == public_id("users", founder)
    assert (profile.founding_set, profile.founded_at) == (founding, b"1")
    assert graph.sets[founding].set_id == founder
    assert graph.sets[founding].anchor == U1


def test_accounts_have_ids_of_their_own_kind() -> None:
    group = frozenset({Identifier("group_id", "g1")})
    graph = resolve([Sighting(group, b"1", 1)], segment_defaults(), collection="accounts", key=KEY)
    assert next(iter(graph.profiles)).startswith("acc_")


def test_a_set_with_nothing_in_it_has_no_profile() -> None:
    graph = resolve([Sighting(frozenset(), b"1", 1)], segment_defaults(), key=KEY)
    outcome = graph.sets[frozenset()]
    assert (outcome.anchor, outcome.first_profile, outcome.profile) == (None, None, None)
    assert graph.profiles == {}


@pytest.mark.parametrize(
    "rules",
    [
        IdentityRules(version=1, types=(TypeRule("user_id", 1, limit=0),)),
        IdentityRules(version=1, types=(TypeRule("user_id", 1, window_seconds=0),)),
        replace(segment_defaults(), identifiers_max=0),
        replace(segment_defaults(), merges_max=0),
    ],
)
def test_rules_that_cannot_hold_are_refused(rules: IdentityRules) -> None:
    with pytest.raises(Invalid, match="identity rules"):
        identity.check(rules)


def test_the_common_window_tiles_all_windows() -> None:
    def window(*seconds: int | None) -> int | None:
        types = tuple(TypeRule(f"t{n}", n, window_seconds=each) for n, each in enumerate(seconds))
        return common_window(IdentityRules(version=1, types=types), "users")

    assert window(None, None) is None
    assert window(None, 7) == 7_000_000
    assert window(86_400, 7 * 86_400) == 86_400_000_000
    assert window(4, 6) == 2_000_000
