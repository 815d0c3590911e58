"""`python -m coinseg`."""

import sys

from coinseg.cli.main import main

sys.exit(main())
