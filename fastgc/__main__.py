"""``python -m fastgc``."""

import sys

from fastgc._command.cli import main

if __name__ == "__main__":
    sys.exit(main())
