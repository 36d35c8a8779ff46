"""A look into a pool process of the saga's worker, if py-spy is installed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from benchmarks.fleet import BenchmarkError, Fleet
from benchmarks.results import Options

#: Samples a second.
RATE = 500
#: Seconds that py-spy has to attach, and to write its file.
ATTACH, WRITE = 2.0, 60.0
_FORMATS = {".svg": "flamegraph", ".json": "speedscope"}


def record(fleet: Fleet, options: Options, file: Path) -> None:
    """Run batches of sagas while py-spy watches one of the two pool processes.

    Raises:
        BenchmarkError: py-spy is not installed, or could not attach.
    """
    program = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if program is None:
        raise BenchmarkError("--py-spy: expected py-spy, found none; do pip install py-spy")
    station = fleet.stations(("saga",), warm_up=50)["saga"]
    child = station.meter.children()[0]
    kind = _FORMATS.get(file.suffix, "raw")
    # Blocked on a socket counts as well: a round trip is what a step mostly waits for.
    command = [program, "record", "--idle", "--function", "--rate", str(RATE), "--format", kind]
    spy = subprocess.Popen(
        [*command, "--output", str(file), "--pid", str(child.pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    time.sleep(ATTACH)
    steps = options.steps[0]
    for _ in range(options.rounds):
        station.batch(steps, options.batch(steps))
    spy.send_signal(signal.SIGINT)
    _, said = spy.communicate(timeout=WRITE)
    if not file.exists():
        raise BenchmarkError(f"py-spy: {said.decode(errors='replace')[-500:]}")
    print(f"{file}: process {child.pid}, {steps} steps", file=sys.stderr)
