"""``python -m gateway.mockworker``."""

import sys

from gateway.mockworker.command import main

sys.exit(main())
