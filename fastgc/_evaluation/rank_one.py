"""Single entries of dense stages, displaced many at once: each changes one column of the stage's output.

A dense stage computes ``z = x @ W + b``. With ``W[i, j] + h`` only column j of z differs, by ``h * x[:, i]``; with
``b[j] + h`` by h. So column j becomes ``z[:, j] + h * x[:, i]``, and no product is computed again. After an elementwise
activation a, only that column differs. A dense stage that follows at once needs its change alone,
``d = a(z[:, j] + h * x[:, i]) - a(z[:, j])``: its product s with a matrix V becomes ``s + outer(d, V[j, :])``.

*Round-off.* Let u be the unit round-off and m the number of inputs. A product computed anew has an error of up to
``m * u * (|x| @ |W|)`` (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.5). Part of it is the
same for all h, part changes with h as if at random. The updated column has the error of the kept one, the same for all
h, and two more, which change with h:

- ``u * |h * x[:, i]|`` by the product, a relative error u of the change;
- ``u * |z[:, j]|`` by the sum: one rounding, where the product has about m.

In the second stage d is exact where both values are within a factor of two (Sterbenz's lemma), else right to u of their
size. So no more changes at random with h than in products computed anew: the noise that plain calls show bounds it. The
measured slope is that of a loss whose z differs from the plain one by a constant of round-off size.

*Consequence.* At the point itself a batch rounds otherwise than a plain call does. This offset has the size of
round-off and is the same for all h; compared with a plain value at the point it would look like a jump there. So the
point, h = 0, is the last member of every batch, and `fastgc._evaluation.batches.relative_to_point` subtracts what it
deviates by: all points of a stencil, the point included, are evaluated in one way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgc._evaluation.evaluator import attempted, described
from fastgc._evaluation.members import mapped, member, stacked
from fastgc._evaluation.stages import Dense, Stage, StagedLoss
from fastgc._evaluation.vectorized import as_values
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Array, Positions
from fastgc._parameters.point import arrays_in

_BATCH_BYTES = 1 << 19  # 512 KiB of one array of a batch: it and what is computed from it stay in the cache of a core
# Values of a batch: at least so many that the point itself, which is one more, costs little; at most so many that a
# Python call (some microseconds) costs nanoseconds a value.
_FEWEST, _MOST = 8, 1024
# Two ways to compute a value may differ by this many eps of its size, as in `fastgc._evaluation.batches`.
_DIFFERING_EPS = 1e3
_APART = 1e-3  # relative displacement of a value that is tried: enough to change what is computed from it


@dataclass(frozen=True)
class Kept:
    """The values between the stages at a point.

    Attributes
    ----------
    params : what each stage receives of the parameters
    given : what each stage receives besides: its value, and the arguments of all stages; last what the loss returns
    rest : the arguments of all stages
    """

    params: Sequence[Any]
    given: Sequence[tuple[Any, ...]]
    rest: tuple[Any, ...]

    @cached_property
    def eps(self) -> float:
        """The coarsest round-off of the values."""
        dtypes = {array.dtype for given in self.given for array in arrays_in(given[:1]) if array.dtype.kind == "f"}
        return max((float(np.finfo(dtype).eps) for dtype in dtypes), default=float(np.finfo(np.float64).eps))


@dataclass(frozen=True)
class _Columns:
    """A batch of arrays that differ from one array in one column each, of the last axis.

    Attributes
    ----------
    base : that array, shape (..., outputs)
    numbers : of the changed columns, shape (batch,)
    before, after : these columns, shape (batch, ...)
    """

    base: Array
    numbers: Positions
    before: Array
    after: Array

    def whole(self) -> Array:
        """The batch, shape (batch, ..., outputs)."""
        found = np.repeat(self.base[None], self.numbers.size, axis=0)
        np.moveaxis(found, -1, 1)[np.arange(self.numbers.size), self.numbers] = self.after
        return found

    def times(self, matrix: Array, product: Array) -> Array:
        """The batch times a matrix; ``product`` holds the columns of that of the base.

        It lies in memory column by column too: NumPy works fastest along long axes, and most outputs are few.
        """
        change = self.after - self.before
        rows = matrix[self.numbers].reshape(*self.numbers.shape, -1, *(1,) * (change.ndim - 1))
        found: Array = change[:, None] * rows
        found += product
        return np.moveaxis(found, 1, -1)


class DenseEntries:
    """The loss with single entries of the weight or the bias of a dense stage displaced."""

    def __init__(self, loss: StagedLoss, kept: Kept, number: int) -> None:
        self._loss, self._kept, self._number = loss, kept, number
        stage = loss.stages[number]
        assert isinstance(stage, Dense)
        self._stage: Dense = stage
        self._linear = {
            k: _columns_of(np.asarray(each.linear(kept.params[k], kept.given[k][0])))
            for k, each in enumerate(loss.stages)
            if k in (number, number + 1) and isinstance(each, Dense)
        }
        self._outputs = self._linear[number]
        self._inputs = _columns_of(np.asarray(kept.given[number][0])).astype(self._outputs.dtype)
        self._base = np.asarray(kept.given[number + 1][0])
        self._activated = _columns_of(self._base)

    def tensors(self) -> Iterator[str]:
        """The names of the parameters of which an entry changes one column of the output."""
        params, outputs = self._kept.params[self._number], len(self._outputs)
        if self._outputs.dtype.kind != "f" or not _is_array(params[self._stage.weight], (len(self._inputs), outputs)):
            return
        yield self._stage.weight
        if self._stage.bias is not None and _is_array(params[self._stage.bias], (outputs,)):
            yield self._stage.bias

    @cached_property
    def batch(self) -> int:
        """How many values are computed at once."""
        whole = self._kept.given[self._number + (2 if self._number + 1 in self._linear else 1) :]
        most = max((array.nbytes for given in whole for array in arrays_in(given[:1])), default=1)
        return int(np.clip(_BATCH_BYTES // max(most, self._outputs[0].nbytes, 1), _FEWEST, _MOST))

    def values(self, name: str, cells: Positions, lengths: Array) -> Array:
        """The loss with each entry of a parameter displaced by a length, and last the loss at the point."""
        numbers, changes = self._changes(name, np.append(cells, 0), np.append(lengths, 0.0))
        before = self._outputs[numbers]
        after = np.add(before, changes, dtype=np.float64).astype(before.dtype)  # rounded once
        value: Any = _Columns(self._base, numbers, self._activated[numbers], self._stage.activated(after))
        for number in range(self._number + 1, len(self._loss.stages)):
            value = self._next(number, value, numbers.size)
        value = np.asarray(value.whole() if isinstance(value, _Columns) else value)
        return as_values(value.reshape(numbers.size) if value.size == numbers.size else value, numbers.size, np.float64)

    def _changes(self, name: str, cells: Positions, lengths: Array) -> tuple[Positions, Array]:
        """The columns that change, and by how much."""
        lengths = lengths.reshape(-1, *(1,) * (self._outputs.ndim - 1))
        if name == self._stage.bias:
            return cells, lengths
        inputs, numbers = np.divmod(cells, len(self._outputs))
        return numbers, lengths * self._inputs[inputs]

    def _next(self, number: int, value: Any, size: int) -> Any:
        """The batch after one more stage."""
        stage, params, rest = self._loss.stages[number], self._kept.params[number], self._kept.rest
        if isinstance(value, _Columns) and isinstance(stage, Dense) and params[stage.weight].ndim == 2:
            return stage.activated(value.times(params[stage.weight], self._linear[number]))
        value = value.whole() if isinstance(value, _Columns) else value
        if stage.batched:
            return stage.function(params, value, *rest)
        return stacked([stage.function(params, member(value, row), *rest) for row in range(size)])


def _columns_of(array: Array) -> Array:
    """The columns of the last axis, each contiguous."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _is_array(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.shape == shape


# --- claims ---


def refuse_false_claims(loss: StagedLoss, kept: Kept) -> list[int]:
    """The numbers of the dense stages of arrays.

    Raises
    ------
    ValueError
        For an activation that is not elementwise, and for a stage that does not take a batch as it claims to.
    """
    numbers = [k for k, stage in enumerate(loss.stages) if isinstance(stage, Dense) and _takes_array(kept, k)]
    for k, stage in enumerate(loss.stages):
        if k in numbers and isinstance(stage, Dense) and stage.activation is not None:
            _refuse_mixing(loss, kept, k, stage)
        if numbers and k > numbers[0] and isinstance(stage, Stage) and stage.batched:
            _refuse_unbatched(loss, kept, k, stage)
    return numbers


def _takes_array(kept: Kept, number: int) -> bool:
    given, made = kept.given[number][:1], kept.given[number + 1][0]
    return bool(given) and all(type(each) is np.ndarray and each.ndim and each.size for each in (*given, made))


def _refuse_mixing(loss: StagedLoss, kept: Kept, number: int, stage: Dense) -> None:
    """Raise for an activation that gives other values for columns, laid out as in a batch, than for the whole array."""
    columns = _columns_of(np.asarray(stage.linear(kept.params[number], kept.given[number][0])))
    found, error = attempted(lambda: np.asarray(stage.activated(columns)))
    if error or not _alike(np.asarray(found), _columns_of(np.asarray(kept.given[number + 1][0])), kept.eps):
        raise ValueError(
            f"{loss.described(number)}: activation is not elementwise: single columns give other values than all "
            "together; make it a fastgc.Stage of its own"
        )


def _refuse_unbatched(loss: StagedLoss, kept: Kept, number: int, stage: Stage) -> None:
    """Raise for a stage that gives other values for two values in a batch than for each by itself."""
    params, value, made = kept.params[number], kept.given[number][0], kept.given[number + 1][0]
    other = mapped(value, _apart)
    with np.errstate(all="ignore"):  # it may not be defined there
        expected, undefined = attempted(lambda: stage.function(params, other, *kept.rest))
        if undefined is not None:
            other, expected = value, made
        found, error = attempted(lambda: stage.function(params, stacked([value, other]), *kept.rest))
    why = "" if error is None else f"cannot take a batch of two: {described(error)}"
    if error is None and not all(_both_alike(found, [made, expected], kept.eps)):
        why = "gives other values for a batch of two than for each by itself"
    if why:
        raise ValueError(
            f"{loss.described(number)}: batched=True, but the function {why}; use the leading axis of its value only "
            "as the batch axis, or batched=False"
        )


def _both_alike(batch: Any, expected: Sequence[Any], eps: float) -> Iterator[bool]:
    """Whether each member of a batch is as it is by itself; False where there is no such member."""
    for row, each in enumerate(expected):
        found, error = attempted(lambda row=row: member(batch, row))  # type: ignore[misc]
        yield error is None and _all_alike(found, each, eps)


def _apart(array: Array) -> Array:
    """The array with every floating entry displaced, each by another share of itself."""
    if array.dtype.kind != "f":
        return array
    shares = _APART * np.cos(np.arange(array.size)).reshape(array.shape)
    return np.asarray(array * (1 + shares), array.dtype)


def _all_alike(found: Any, expected: Any, eps: float) -> bool:
    ours, theirs = ([np.asarray(each) for each in _leaves(value)] for value in (found, expected))
    return len(ours) == len(theirs) and all(_alike(*pair, eps) for pair in zip(ours, theirs, strict=True))


def _leaves(value: Any) -> list[Any]:
    """The arrays in a value; a number by itself."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, (list, tuple)) else [value]


def _alike(found: Array, expected: Array, eps: float) -> bool:
    """Whether two arrays differ by round-off alone; NaN is the same as NaN."""
    size = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    return found.shape == expected.shape and np.allclose(
        found, expected, rtol=_DIFFERING_EPS * eps, atol=_DIFFERING_EPS * eps * size, equal_nan=True
    )
