"""``python -m geventgate``."""

import sys

from geventgate.cli import main

if __name__ == "__main__":
    sys.exit(main())
