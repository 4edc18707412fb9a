"""The words that arguments accept and results hold, for type checkers, editors and the checks of arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

StencilName: TypeAlias = Literal["forward", "backward", "central", "five_point", "complex_step"]
Precision: TypeAlias = Literal["double", "native"]
Engine: TypeAlias = Literal["auto", "numba", "python"]
Columns: TypeAlias = int | Literal["all"] | None
# A number of entries, all, or (by name) the very entries: flat indices, index tuples, or a boolean mask.
Entries: TypeAlias = Sequence[int] | Sequence[tuple[int, ...]] | NDArray[np.bool_] | NDArray[np.integer]
Samples: TypeAlias = int | Literal["all"] | Mapping[str, int | Literal["all"] | Entries]
Tolerance: TypeAlias = float | Mapping[str, float] | None  # for all tensors, or by name or pattern
# A number of processes, an executor, or a function like map, such as multiprocessing's Pool().map.
Workers: TypeAlias = int | Executor | Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Mode: TypeAlias = Literal["fwd", "rev", "lin"]  # of differentiation, by JAX's names

Verdict: TypeAlias = Literal["pass", "fail", "undecided"]
PASS: Final = "pass"
FAIL: Final = "fail"
UNDECIDED: Final = "undecided"
Kind: TypeAlias = Literal[
    "sign",
    "factor",
    "affine",
    "log_parameter",
    "zero",
    "clipped",
    "scale_precision",
    "transpose",
    "symmetric",
    "permutation",
    "swapped",
    "missing_term",
    "stale",
    "broadcast",
    "sparse",
    "unstructured",
]
Interpretation: TypeAlias = Literal[
    "correct with high confidence", "likely correct", "suspicious, investigate", "almost certainly a bug"
]
PictureKind: TypeAlias = Literal["scatter", "map", "steps", "errors"]
Which: TypeAlias = Literal["all", "wrong"]  # entries in a saved report


def worst_verdict(verdicts: NDArray[np.str_] | Iterable[str]) -> Verdict:
    """Fail if any fails; else undecided if any is; else pass."""
    found = set(verdicts.tolist() if isinstance(verdicts, np.ndarray) else verdicts)  # NumPy's strings compare slowly
    return FAIL if FAIL in found else UNDECIDED if UNDECIDED in found else PASS
