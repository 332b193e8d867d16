"""One step of compaction, wherever it runs: files of one partition become fewer, in the order of their table.

Which files is decided by `compaction`; what was made is committed by `LakeTable`. In between everything is a
value that passes between processes.
"""

from collections.abc import Callable, Sequence

import msgspec

from profilelake.errors import Corrupt, Unavailable
from profilelake.lake.compaction import Compacted, Policy, digest, files_wanted, reading, sorted_parts
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.lake.sql import LiveFile
from profilelake.lake.storage import Storage
from profilelake.ops.failpoints import reach


class Group(msgspec.Struct, frozen=True):
    """Files that are to become fewer."""

    locations: list[str]
    partition: list[int | None]
    rows: int
    bytes: int
    rows_per_file: int


class Gathered(msgspec.Struct, frozen=True):
    """A group, and the files that hold its rows now; no snapshot names them yet."""

    group: Group
    files: list[HandedFile]

    def compacted(self) -> Compacted:
        """Return what was done in numbers."""
        sizes = self.group.bytes, sum(file.size for file in self.files)
        return Compacted(len(self.group.locations), len(self.files), self.group.rows, *sizes)


def group_of(files: Sequence[LiveFile], policy: Policy) -> Group:
    """Return the group of files of one partition."""
    rows = sum(file.rows for file in files)
    partition = files[0].entry.data_file.partition
    return Group(
        locations=[file.location for file in files],
        partition=[partition[place] for place in range(len(partition))],
        rows=rows,
        bytes=sum(file.bytes for file in files),
        rows_per_file=-(-rows // files_wanted(files, policy)),
    )


def gather(
    files: TableFiles, storage: Storage, group: Group, stopping: Callable[[], bool] = lambda: False
) -> Gathered:
    """Write the rows of a group into new files, in bounded memory, and see that they are the same rows.

    Raises:
        Corrupt: the rows read back are not those that were there.
        Unavailable: stopped, memory or disk full; what was written is the sweep's.
    """
    name, schema = files.definition.name, files.schema()
    made: list[HandedFile] = []
    try:
        with reading(storage) as connection:
            parts = sorted_parts(
                connection, files.definition, schema, group.locations, stopping, storage.place
            )
            made = files.write_in_order(group.partition, parts, group.rows_per_file)
            reach("compact.written")
            before = digest(connection, schema, sorted(group.locations), storage.place)
            after = digest(connection, schema, [file.location for file in made], storage.place)
    except OSError as error:
        raise Unavailable(f"compacting {name}: {error}; nothing was changed, free space") from error
    if before != after or before[0] != group.rows:
        storage.remove(file.location for file in made)
        raise Corrupt(
            f"compacting {name}: {group.rows} rows by the manifests, {before[0]} in the files, {after[0]} read "
            f"back{'' if before[1] == after[1] else ' with other values'}; nothing was changed. Run: "
            "profilelake lake verify"
        )
    reach("compact.verified")
    return Gathered(group, made)
