"""`python -m coinseg`."""

import sys

from coinseg.cli.main import main

if __name__ == "__main__":  # a process that is spawned reads this file again
    sys.exit(main())
