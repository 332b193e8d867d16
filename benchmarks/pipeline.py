"""From HTTP to committed Iceberg tables with identity and profiles: sustained rate, cost, latency.

Starts a server of its own, loads it with gzip batches of 20 events, and reports

- sustained events/s: from the first request to everything committed in the lake (load generator
  on the same machine, its processor time reported apart);
- processor microseconds per event by process, and by pipeline stage;
- seconds from 200 to visible in the Profile API while a fixed rate of events is being collected;
- the baseline of the same run: the same bodies to the same server while only collecting counts,
  that is the rate and cost of 200 alone.

    python benchmarks/pipeline.py --events 1000000 --profiles 20000
"""

import argparse
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from _machine import machine
from load import Corpus, Mix, run_load

WRITE_KEY: Final = "wk_bench"
READ_TOKEN: Final = "rk_bench"
ADMIN_TOKEN: Final = "adm_bench"
READY: Final = re.compile(r"profilelake is ready on (\S+)")
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server and its processes."""

    process: subprocess.Popen[str]
    url: str
    directory: Path

    def cpu_seconds(self) -> dict[str, float]:
        """Return processor seconds so far by kind of process, and how much of them all is the kernel's."""
        kinds = ("http", "pipeline", "lake")
        found = dict.fromkeys((*kinds, "kernel"), 0.0)
        for path in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (path / "cmdline").read_bytes().split(b"\0")
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(self.directory).encode() not in arguments:
                continue
            for kind in kinds:
                if kind.encode() in arguments:
                    found[kind] += (int(fields[11]) + int(fields[12])) / _TICK
                    found["kernel"] += int(fields[12]) / _TICK
        return found

    def get(self, path: str, token: str) -> Any:
        """Return a JSON answer."""
        request = urllib.request.Request(self.url + path)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{token}:".encode()).decode())
        with urllib.request.urlopen(request, timeout=310) as answer:
            return json.loads(answer.read())

    def committed(self) -> Any:
        """Wait until everything accepted is committed; return the status."""
        return self.get("/api/status?wait_for=committed&timeout=300", ADMIN_TOKEN)

    def stages(self) -> dict[str, float]:
        """Return processor seconds by pipeline stage."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as answer:
            text = answer.read().decode()
        pattern = re.compile(r'^profilelake_stage_cpu_seconds_total\{stage="(\w+)"\} (\S+)$', re.MULTILINE)
        return {stage: float(value) for stage, value in pattern.findall(text)}

    def stop(self) -> None:
        """End the server."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


SECONDS_MAX = 30.0
DEFINITIONS = (
    "event('Product Viewed').count() >= {number}",
    "event('Product Viewed').within({days} days).count() >= 3",
    "event('Page Viewed').within({days} hours).count() >= 2",
    "event('Product Viewed').where(property('product_id').starts_with('p-{number}')).count() >= 1",
    "NOT event('Product Viewed').within({days} days).count() >= 1",
    "event('Product Viewed').sum(property('price')) > {number}",
    "trait('plan') = 'pro' AND event('Page Viewed').count() >= {number}",
    "event('Product Viewed').within({days} days).unique(property('product_id')).count() >= 2",
)
"""Most are steps of their own: each has another window or another condition."""


def start(directory: Path) -> Server:
    """Start a server on a free port and wait until it is ready and warm."""
    environment = os.environ | {
        "PROFILELAKE_WRITE_KEY": WRITE_KEY,
        "PROFILELAKE_READ_TOKEN": READ_TOKEN,
        "PROFILELAKE_ADMIN_TOKEN": ADMIN_TOKEN,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "profilelake", "serve", "--dir", str(directory), "--port", "0"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = ""
    stderr = process.stderr
    if stderr is None:
        raise RuntimeError("the server's stderr is not readable")
    for line in stderr:
        found = READY.search(line)
        if found:
            url = found[1]
            break
        print(line, end="", file=sys.stderr)
    threading.Thread(
        target=lambda: [print(line, end="", file=sys.stderr) for line in stderr], daemon=True
    ).start()
    return Server(process, url, directory)


def sustained(server: Server, corpus: Corpus, connections: int) -> None:
    """Send the corpus at full speed, wait for the commit, print rates and costs."""
    before, stages_before = server.cpu_seconds(), server.stages()
    started_at = time.perf_counter()
    load = run_load(server.url, WRITE_KEY, corpus, connections=connections)
    answered_at = time.perf_counter()
    status = server.committed()
    committed_at = time.perf_counter()
    after, stages_after = server.cpu_seconds(), server.stages()
    events = load.events
    whole = committed_at - started_at
    print(f"\nsustained: {events:,} events, {connections} connections, gzip batches of 20")
    print(f"  answered   {events / (answered_at - started_at):>12,.0f} events/s   (baseline: 200 alone)")
    print(
        f"  committed  {events / whole:>12,.0f} events/s   "
        f"ratio to the baseline {(answered_at - started_at) / whole:.2f}"
    )
    print(f"  answers    {load.answer_ms} ms, statuses {load.statuses}")
    print(f"  balanced   {status['balanced']}, in lake {status['in_lake']:,}")
    print("  processor microseconds per event:")
    for kind in before:
        print(f"    {kind:<12} {(after[kind] - before[kind]) / events * 1e6:8.2f}")
    print(f"    {'load':<12} {load.cpu_seconds / events * 1e6:8.2f}")
    print("  pipeline threads by stage, microseconds per event:")
    for stage, seconds in stages_after.items():
        used = seconds - stages_before.get(stage, 0.0)
        print(f"    {stage:<12} {used / events * 1e6:8.2f}")


def visible(server: Server, corpus: Corpus, rate: float, probes: int, audience: str) -> None:
    """Send at a fixed rate and time probes from their 200 to what the Profile API shows of them.

    That is their profile, or with an `audience` that they are in it.
    """
    seconds: list[float] = []
    stop = threading.Event()

    def probe() -> None:
        for number in range(probes):
            if stop.is_set():
                return
            user = f"probe-{os.getpid()}-{number}"
            body = json.dumps({"userId": user, "event": "Probe Sent", "traits": {"probe": number}}).encode()
            call = "track" if audience else "identify"
            request = urllib.request.Request(f"{server.url}/v1/{call}", data=body)
            request.add_header(
                "Authorization", "Basic " + base64.b64encode(f"{WRITE_KEY}:".encode()).decode()
            )
            with urllib.request.urlopen(request, timeout=30):
                answered_at = time.perf_counter()
            seconds.append(_until_visible(server, user, answered_at, audience))

    thread = threading.Thread(target=probe)
    thread.start()
    load = run_load(server.url, WRITE_KEY, corpus, connections=8, rate=rate)
    stop.set()
    thread.join()
    p50, p99 = np.percentile(seconds, [50, 99])
    print(f"\nvisible: {len(seconds)} probes while {load.events:,} events were collected at {rate:,.0f}/s")
    print(
        f"  200 -> Profile API  p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {max(seconds) * 1e3:.0f} ms"
    )


def _until_visible(server: Server, user: str, answered_at: float, audience: str) -> float:
    path = f"/v1/spaces/default/collections/users/profiles/user_id:{user}/traits"
    while True:
        try:
            found = server.get(path, READ_TOKEN)["traits"]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            found = None
        seconds = time.perf_counter() - answered_at
        if found is not None and (not audience or audience in found):
            return seconds
        if seconds > SECONDS_MAX:
            raise TimeoutError(f"{user} is not to be seen after {seconds:.0f} s")
        time.sleep(0.005)


def define(server: Server, count: int) -> str:
    """Put definitions in force, and one more that probes come into; return its key, empty for none."""
    if not count:
        return ""
    folder = server.directory / "definitions"
    folder.mkdir()
    entries = ["  probed: {query: \"event('Probe Sent').count() >= 1\"}"]
    for number in range(count - 1):
        text = DEFINITIONS[number % len(DEFINITIONS)].format(days=1 + number, number=number)
        entries.append(f'  a{number}: {{query: "{text}", external_ids: none}}')
    (folder / "audiences.yaml").write_text("audiences:\n" + "\n".join(entries) + "\n")
    command = [sys.executable, "-m", "profilelake", "apply", "--yes", "--yes-many", "--dir"]
    subprocess.run([*command, str(server.directory)], check=True, stdout=subprocess.DEVNULL)
    return "probed"


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--profiles", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--warm", type=int, default=200_000, help="events sent before the clock starts")
    parser.add_argument("--rate", type=float, default=5_000, help="events/s while visibility is measured")
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--definitions", type=int, default=0, help="audiences in force from the beginning")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "profilelake-bench")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(machine(options.scratch).line())
    print(vars(options))
    with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
        server = start(Path(directory) / "data")
        try:

            def corpus(events: int, seed: int) -> Corpus:
                return Corpus.load(Mix(events=events, profiles=options.profiles, seed=seed), options.scratch)

            audience = define(server, options.definitions)
            if options.warm:
                run_load(server.url, WRITE_KEY, corpus(options.warm, options.seed + 1))
                server.committed()
            sustained(server, corpus(options.events, options.seed), options.connections)
            if options.probes:
                paced = corpus(int(options.rate * 30), options.seed + 2)
                visible(server, paced, options.rate, options.probes, audience)
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
