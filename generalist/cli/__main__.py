"""`python -m generalist.cli`."""

import sys

from generalist.cli import main

sys.exit(main())
