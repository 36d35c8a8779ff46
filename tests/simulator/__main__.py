"""``python -m tests.simulator --seeds N --start S``."""

from __future__ import annotations

import argparse
import sys

from tests.simulator.simulator import report, run


def main() -> int:
    """Run the seeds that the command line names; 1 if one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (default: 1000)")
    parser.add_argument("--start", type=int, default=0, help="the first one (default: 0)")
    options = parser.parse_args()
    failure = run(range(options.start, options.start + options.seeds))
    print(failure or report())
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
