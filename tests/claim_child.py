"""A driver of a job in a process of its own, told what to do line by line.

`python claim_child.py ROOT [ENDPOINT]` begins a job on the storage below ROOT; lines are `step NAME`, `commit`
(which writes the file `committed` by this process), `finish` and `leave`. Each is answered by one line.
"""

import os
import sys

from profilelake.engines import claims
from profilelake.engines.jobs import Job
from profilelake.errors import ProfilelakeError
from profilelake.lake.storage import storage_of
from profilelake.settings import StorageOptions

KIND, INPUTS = "test", [1]


def _answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(root: str, endpoint: str = "") -> None:
    claims.LEASE_SECONDS = float(os.environ.get("LEASE_SECONDS", "300"))
    claims.HEARTBEAT_SECONDS = float(os.environ.get("HEARTBEAT_SECONDS", "30"))
    storage = storage_of(root, StorageOptions(endpoint=endpoint, plain_http="allowed"))
    try:
        with Job(storage, KIND, INPUTS) as job:
            _answer("begun")
            for line in sys.stdin:
                doing, _, name = line.strip().partition(" ")
                if doing == "step":
                    ran: list[str] = []

                    def run(ran: list[str] = ran) -> list[bytes]:
                        ran.append("ran")
                        return [b"answer"]

                    job.step(name, run)
                    _answer("ran" if ran else "done before")
                elif doing == "commit":
                    job.check()
                    storage.write(f"{root}/committed", str(os.getpid()).encode())
                    _answer("committed")
                elif doing == "finish":
                    job.finish()
                    _answer("finished")
                else:
                    break
        _answer("left")
    except ProfilelakeError as error:
        _answer(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
