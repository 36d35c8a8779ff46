"""Run the example: ``python -m example_project --help``."""

import sys

from example_project.runner import main

if __name__ == "__main__":
    sys.exit(main())
