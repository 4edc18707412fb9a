"""``python -m fastgc``."""

import sys

from fastgc._cli import main

if __name__ == "__main__":
    sys.exit(main())
