from collections.abc import Iterator

import pytest

from unit.demo.recording import Recorder, recording


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as found:
        yield found
