"""The words that arguments accept and results hold, for type checkers, editors and the checks of arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

StencilName: TypeAlias = Literal["forward", "backward", "central", "five_point", "complex_step"]
Precision: TypeAlias = Literal["double", "native"]
Engine: TypeAlias = Literal["auto", "numba", "python"]
Columns: TypeAlias = int | Literal["all"] | None
Samples: TypeAlias = int | Literal["all"] | Mapping[str, int | Literal["all"]]
Mode: TypeAlias = Literal["fwd", "rev", "lin"]  # of differentiation, by JAX's names

Verdict: TypeAlias = Literal["pass", "fail", "undecided"]
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
