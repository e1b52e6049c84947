"""`python -m alexnet` is the same as the command `alexnet`."""

import sys

from alexnet.cli import main

sys.exit(main())
