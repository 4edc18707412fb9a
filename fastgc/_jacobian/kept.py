"""The checkpoint of a check of a Jacobian: which check it is of, and the outputs that are kept in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgc._evaluation.checkpoint import Checkpoint, Keys
from fastgc._evaluation.evaluator import Stopped
from fastgc._evaluation.interruption import pieces
from fastgc._gradient.kept import about_options
from fastgc._jacobian.function import Errors, VectorFunction
from fastgc._jacobian.operator import Operator
from fastgc._jacobian.options import JacobianOptions
from fastgc._parameters.arrays import Array, Positions

_DIGEST = 16  # bytes: the position and the hash of a record


def about_jacobian(
    function: VectorFunction,
    output_shape: tuple[int, ...],
    operator: Operator,
    args: tuple[Any, ...],
    pattern: Any,
    options: JacobianOptions,
    *,
    noisy: bool,
) -> dict[str, Any]:
    """Everything that the outputs of a check depend on, under the names that a refusal gives."""
    return {
        "x": function.point,
        "shapes": (function.layout.shapes, output_shape),
        "f at x": None if noisy else function.base,
        "jacobian": _analytic(operator),
        "args": args,
        "sparsity": None if pattern is None else [pattern.indices, pattern.indptr],
        **about_options(options),
    }


def _analytic(operator: Operator) -> Any:
    """The matrix, or a product that tells it from others."""
    if operator.matrix is not None:
        return _stored(operator.matrix)
    times = operator.T.times if operator.times is None else operator.times
    size = operator.shape[operator.times is not None]
    return None if times is None else times(np.cos(np.arange(size)))  # as good as random


def _stored(matrix: Any) -> Any:
    """What a sparse array holds, or another one itself."""
    return [matrix.data, matrix.indices, matrix.indptr] if hasattr(matrix, "indptr") else matrix


class KeptOutputs:
    """Outputs of a function at points, kept in a checkpoint and not computed again where that has them.

    A record holds the outputs at some points: 16 bytes for each besides its outputs, 16 / m more for an entry of a
    Jacobian of m outputs than the 16 of its two values.

    Parameters
    ----------
    point : the point of the check, from which most inputs differ nowhere
    size : the number of outputs
    at_once : how many points are measured together at least: as many as there are processes to share them
    """

    def __init__(self, checkpoint: Checkpoint, point: Array, size: int, at_once: int) -> None:
        self._checkpoint, self._size, self._at_once = checkpoint, size, at_once
        self._words = _words(point)
        self._start = hashlib.blake2b(point.tobytes(), digest_size=_DIGEST)

    def outputs(self, points: Array, call: Callable[[Array], tuple[Array, Errors]]) -> tuple[Array, Errors]:
        """Outputs at points, and what was raised there; those known when the check is interrupted are kept."""
        keys, positions = self._hashes(points)
        found, values = self._checkpoint.known(keys, positions, self._size, points.dtype)
        left, errors = np.flatnonzero(~found), []
        try:
            for some in pieces(left.size, self._at_once, left.size, self._at_once):
                rows = left[some]
                values[rows], raised = call(points[rows])
                errors += [(int(rows[k]), error) for k, error in raised]
                self._checkpoint.append(keys[rows], positions[rows], values[rows])
        except Stopped as stopped:
            stopped.values = values
            raise
        return values, errors

    def _hashes(self, points: Array) -> tuple[Keys, Positions]:
        """A hash of each point, in two parts: of where it differs, and by what."""
        words = b"".join(map(self._hash, _words(points)))
        keys = np.frombuffer(words, np.uint64).reshape(-1, _DIGEST // 8)
        return np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1]).view(np.int64)

    def _hash(self, row: Keys) -> bytes:
        where, found = np.flatnonzero(row != self._words), self._start.copy()
        found.update(where.tobytes())
        found.update(row[where].tobytes())
        return found.digest()


def _words(values: Array) -> Keys:
    """The bits of numbers; of complex ones two words each."""
    return np.ascontiguousarray(values).view(np.uint64)
