"""``python -m msnlib`` is ``msn``."""

import sys

from msnlib.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
