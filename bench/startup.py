"""What ``import fastgc`` adds to ``import numpy``: whole processes, one kind after the other, median of many.

Target: at most 50 ms. Run ``python bench/startup.py [--quick] [--json FILE]``; the exit status is 1 if it is missed.
"""

from __future__ import annotations

import statistics
import sys

from measure import Row, conclude, headline, parser, process, tell, timed_in_turn

import fastgc

BOUND = "<= 50"  # milliseconds
CODES = {"import numpy": "import numpy", "import numpy, fastgc": "import numpy, fastgc"}
HEAVY = ("numba", "scipy.optimize", "scipy.stats", "tqdm", "torch", "jax", "matplotlib")


def check_what_is_imported() -> None:
    """Make sure that both processes import what they say, and no more."""
    code = f"import numpy, fastgc, sys; print(fastgc.__file__, *[n for n in {HEAVY!r} if n in sys.modules], sep=';')"
    found = process("-c", code).strip()
    assert found == fastgc.__file__, found


def main() -> int:
    options = parser(__doc__).parse_args()
    about, rounds = headline(), 5 if options.quick else 21
    check_what_is_imported()
    runs = {name: (lambda code=code: process("-c", code)) for name, code in CODES.items()}
    for run in runs.values():  # files into the cache of the system
        run()
    times = timed_in_turn(runs, rounds)
    plain, both = times.values()
    rows = [Row("startup", f"{name}, ms", 1e3 * statistics.median(each)) for name, each in times.items()]
    added = 1e3 * statistics.median(b - a for a, b in zip(plain, both, strict=True))
    rows.append(Row("startup", "import fastgc beyond import numpy, ms", added, BOUND))
    return conclude([tell(row) for row in rows], options, about, rounds=rounds)


if __name__ == "__main__":
    sys.exit(main())
