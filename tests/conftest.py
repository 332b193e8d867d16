"""Fixtures that tests of several folders share."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from command_line import run_process
from served import Served, serving

# No law speaks of the speed of a machine, which other work may share. A change is held to the same examples wherever it
# is tried; `--hypothesis-profile random` (`make test-all`) looks for new ones.
for _name, _same in (("same", True), ("random", False)):
    settings.register_profile(
        _name,
        derandomize=_same,
        database=None if _same else DirectoryBasedExampleDatabase(".hypothesis/examples"),
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
settings.load_profile("same")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for all tests of the run; at the end every event is accounted for and all is as the facts say."""
    directory = tmp_path_factory.mktemp("served") / "data"
    with serving(directory) as running:
        yield running
        status = running.committed()
        assert status["balanced"]
        assert status["in_flight"] == 0
        places = ("in_lake", "duplicates", "failed", "suppressed", "erased", "expired")
        assert status["accepted"] == sum(status[place] for place in places)
    verified = run_process("verify", "--dir", directory, "--json")
    assert (verified.code, verified.json) == (0, []), verified
