"""Profile ids as the journals of Profiles Sync name them, column by column."""

import pyarrow as pa
import pytest

from profilelake.errors import Corrupt
from profilelake.identity.sync_reload import founding_set, founding_sets
from profilelake.semantics.identifiers import public_id

IDS = [bytes(16), b"\xff" * 16, bytes(range(16))]
TEXTS = [public_id("users", IDS[0]), public_id("accounts", IDS[1]), None, public_id("users", IDS[2])]


def test_a_column_is_read_as_its_values_are() -> None:
    column = pa.array([None, *TEXTS, TEXTS[0]], pa.string())
    assert founding_sets(column) == [None, IDS[0], IDS[1], None, IDS[2], IDS[0]]
    assert founding_sets(column.slice(2, 3)) == [IDS[1], None, IDS[2]]
    assert founding_sets(column.slice(0, 1)) == [None]
    assert founding_sets(pa.array([], pa.string())) == []
    assert founding_set(TEXTS[0] or "") == IDS[0]


@pytest.mark.parametrize("wrong", ["use_", "who_" + "0" * 27, "use_" + "z" * 27, "use_" + "-" * 27, ""])
def test_what_is_no_id_is_said(wrong: str) -> None:
    with pytest.raises(Corrupt, match="is no profile id"):
        founding_sets(pa.array([TEXTS[0], wrong], pa.string()))
