"""Rows that micro-batches have left for the lake: in the state, in the transaction that made them.

Whoever reads the past finds here what the tables may not have yet. Only the pipeline puts rows in and
takes them out.
"""

from collections.abc import Iterator

import pyarrow as pa

from profilelake.state.store import Db, Tx


def key_of(sequence: int, table: str) -> bytes:
    """Return the key under which rows of a micro-batch wait for a table."""
    return sequence.to_bytes(8, "big") + table.encode()


def pack(rows: pa.Table) -> bytes:
    """Return rows as they wait."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def parts(tx: Tx, workspace: str, table: str, after: int = -1) -> Iterator[pa.Table]:
    """Yield what each micro-batch behind `after` has for a table; only one is in memory at a time.

    Rows that an older program left lack the columns that the table has gained since.
    """
    name = table.encode()
    for key in tx.keys(workspace, Db.OUTBOX, (after + 1).to_bytes(8, "big")):
        if key[8:] == name:
            yield pa.ipc.open_stream(tx.get(workspace, Db.OUTBOX, key)).read_all()


def let_go(tx: Tx, workspace: str, through: int) -> None:
    """Forget the rows of the micro-batches through that one."""
    for key in tx.keys(workspace, Db.OUTBOX):
        if int.from_bytes(key[:8], "big") > through:
            break
        tx.delete(workspace, Db.OUTBOX, key)
