"""``python -m tests.simulator --seeds N --start S [--trees]``."""

from __future__ import annotations

import argparse
import sys

from tests.simulator.schedule import draw, draw_trees
from tests.simulator.simulator import report, run


def main() -> int:
    """Run the seeds that the command line names; 1 if one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (default: 1000)")
    parser.add_argument("--start", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--trees", action="store_true", help="sagas with branches, loops, waits")
    options = parser.parse_args()
    seeds = range(options.start, options.start + options.seeds)
    failure = run(seeds, draw_trees if options.trees else draw)
    print(failure or report())
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
