"""`python -m alexnet`, the same as the command `alexnet`."""

import sys

from alexnet.cli import main

sys.exit(main())
