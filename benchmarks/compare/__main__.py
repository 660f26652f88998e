"""`./do compare`: see `comparing.py`."""

import sys

from comparing import main

if __name__ == "__main__":
    sys.exit(main())
