"""Stock layers of PyTorch at their standard initialisation, in double and in native precision (float32).

Every class of ``torch.nn`` that takes floats, identity warps, zero-initialised branches, losses at a perfect fit: the
list is that of the tests (`tests/support/stock_layers.py`).

Target: none fails; in native precision at most 5 % are undecided. Run ``python bench/stock.py [--json FILE]``; the exit
status is 1 if it is missed.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from measure import Row, conclude, headline, parser, tell

sys.path.insert(0, str(Path(__file__).parents[1]))

from fastgc.torch import check_module
from tests.support.stock_layers import LAYERS, is_random, layer_named


def verdicts(precision: Literal["double", "native"], said: list[str]) -> Counter[str]:
    """How many layers pass, fail and are undecided; the names of those that do not pass are added to ``said``."""
    found: Counter[str] = Counter()
    for name in LAYERS:
        module, inputs = layer_named(name)
        report: Any = check_module(module, inputs, precision=precision, seeded=is_random(name))
        found[report.verdict] += 1
        said += [f"{precision}: {name}: {report.verdict}"] * (not report.passed)
    return found


def main() -> int:
    options = parser(__doc__).parse_args()
    about, rows, said = headline(), [], list[str]()
    warnings.simplefilter("ignore")
    for precision in ("double", "native"):
        found = verdicts(precision, said)
        rows.append(Row("stock layers", f"{precision}: fail", found["fail"], "== 0"))
        share = 100 * found["undecided"] / len(LAYERS)
        rows.append(Row("stock layers", f"{precision}: undecided, %", share, "<= 5" if precision == "native" else ""))
    status = conclude([tell(row) for row in rows], options, about, layers=len(LAYERS))
    print("\n".join(said))
    return status


if __name__ == "__main__":
    sys.exit(main())
