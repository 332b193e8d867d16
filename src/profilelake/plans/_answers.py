"""What tasks answer: where they put which rows, and what they counted."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
import pyarrow as pa

from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.lake.storage import Storage


class Answer(msgspec.Struct, frozen=True):
    """Kept files and counts, by name."""

    files: dict[str, list[KeptFile]] = {}
    counts: dict[str, int] = {}

    def encoded(self) -> bytes:
        """Return the answer as an engine carries it."""
        return msgspec.msgpack.encode(self)


def together(answers: Mapping[int, bytes]) -> Answer:
    """Return all answers of a step as one, files in the order of units or parts."""
    files: dict[str, list[KeptFile]] = {}
    counts: Counter[str] = Counter()
    for _, body in sorted(answers.items()):
        answer = msgspec.msgpack.decode(body, type=Answer)
        for name, kept in answer.files.items():
            files.setdefault(name, []).extend(kept)
        counts.update(answer.counts)
    return Answer(files, dict(counts))


def kept_answer(
    storage: Storage, folder: str, rows: Mapping[str, pa.Table], part: int, **counts: int
) -> bytes:
    """Keep the rows of a part by name, and return the answer that says where."""
    files = {name: keep(storage, f"{folder}/{name}", table, part) for name, table in rows.items()}
    return Answer(files, counts).encoded()


def whole(storage: Storage, files: Iterable[KeptFile], schema: pa.Schema) -> pa.Table:
    """Return all rows of kept files, in the columns of `schema`, each in one piece."""
    read = (rows.cast(schema) for file in files for rows in read_kept(storage, file, schema.names))
    return pa.concat_tables([schema.empty_table(), *read]).combine_chunks()
