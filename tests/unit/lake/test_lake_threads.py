"""Threads of one process that commit to the same tables."""

import threading
from pathlib import Path

from lake_examples import MEMBERS, VISITS, open_lake, upto, visits


def test_threads_that_open_a_table_for_the_first_time_share_it(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    start = threading.Barrier(4)
    opened: list[object] = []

    def work(number: int) -> None:
        start.wait()
        for workspace in ("a", "b", "c"):
            opened.append(lake.table(workspace, VISITS))
            lake.current_table(workspace, MEMBERS)
            lake.table(workspace, VISITS).append(visits(number, 1), upto(number + 1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(table) for table in opened}) == 3
    assert len(opened) == 12
    assert [table.definition.name for table in lake.opened("a")].count("visits") == 1
    assert lake.opened("nobody") == []
