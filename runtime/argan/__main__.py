"""`python -m argan` is `argan`."""

import sys

from argan.cli import main

sys.exit(main())
