"""The Jacobian that a backward pass computes, row by row or in batches, and what else a backward pass must do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.autograd.gradcheck import GradcheckError

from fastgc._evaluation.batches import Batches, agree
from fastgc._evaluation.evaluator import described
from fastgc._forks import cached_property
from fastgc._parameters.arrays import Floats
from fastgc.torch._flat import Packing, Tensors
from fastgc.torch._rules import BATCH_NUMBERS
from fastgc.torch._sides import output_sides

# A sum of gradients may be off by this share of its terms: PyTorch's own comparison has 1e-3 for both; in double
# precision a backward that computes in single precision inside, right to 1e-7, stays below 1e-6. Keyed by in_double.
_LINEARITY = {True: 1e-6, False: 1e-2}
_FEWEST_ROWS = 8  # that pay for a batch: to set one up takes as long as four to eight plain backward passes

# What round-off adds to a product v^T J is of the size eps * |v| * (the terms that are added up on the way). That may
# be far above eps times the product, where these terms cancel, as in the derivative of a sum of a softmax. The terms
# cannot be seen from outside, but their rounding can: a v that is longer by a few units in the last place rounds anew
# in every operation, and the product grows with it but for that. The rest is a sample of the round-off. It stays below
# the stretch times the product even for a backward that is not linear, so it hides no such error.
_UNITS = (3, -5, 9, -17)  # of eps of the inputs' dtype: odd, of both signs, so that every operation rounds another way
_SINGLE = (2.0**-21, -(2.0**-20))  # 4 and -8 units of single precision, for functions in double that compute in it
_LARGEST_ROUND_OFF = 30.0  # times the largest of these few samples, which are whole multiples of an ulp and often 0


Room = Callable[[], int]


class Backward:
    """Gradients of the compared outputs with respect to the checked inputs.

    Parameters
    ----------
    outputs, leaves : sequences of tensors
    names : sequence of int
        The numbers of the inputs, for messages.
    dtypes : bool
        Whether each gradient must have the dtype of its input.
    room : callable
        Gives about how many numbers a call computes, which limits the rows of a batch.

    Attributes
    ----------
    size : the number of rows
    eps : the coarsest resolution of the inputs' dtypes
    """

    def __init__(self, outputs: Tensors, leaves: Tensors, names: Sequence[int], dtypes: bool, room: Room) -> None:
        self._rows_of, self._columns_of = Packing(outputs), Packing(leaves)
        self.size = self._rows_of.size
        self._possible = True
        self._outputs, self._leaves, self._names, self._dtypes, self._room = outputs, leaves, names, dtypes, room
        self.eps = max(torch.finfo(leaf.dtype).eps for leaf in leaves)

    @cached_property
    def _most(self) -> int:
        """Rows of a batch."""
        return max(1, BATCH_NUMBERS // max(1, self._room(), self.size + self._columns_of.size))

    @cached_property
    def _batches(self) -> Batches:
        possible = self._possible and self.size >= _FEWEST_ROWS and self._most >= _FEWEST_ROWS
        return Batches(possible=possible, compare_all=True)

    @property
    def batched(self) -> bool:
        """Whether some rows were computed in a batch."""
        return self._batches.used

    @cached_property
    def directions(self) -> Floats:
        """Several vectors that add up to zero, and zero. The first ones, of `sides`, show every entry of the Jacobian.

        There are three at least, of lengths that differ: a backward that is odd, and not linear, shows in their sum.
        """
        first = output_sides(self.size)
        return np.concatenate([first, -first.sum(axis=0, keepdims=True), np.zeros((1, self.size))])

    @cached_property
    def along(self) -> Floats:
        """Their products with the Jacobian."""
        return self.pulled(self.directions)

    @cached_property
    def round_off(self) -> Floats:
        """What rounding may add to a product with one of the directions, shape (n,): the same for a whole input.

        Zero for a backward that gives something else when it is run again: that is noise and not round-off.
        """
        stretches = [1.0, *(1 + units * self.eps for units in _UNITS)]
        stretches += [1 + share for share in _SINGLE if self.eps < _SINGLE[0] ** 2]
        anew = np.stack([self.pulled(stretch * self.directions[:-1]) for stretch in stretches])
        off = np.abs(anew - np.multiply.outer(stretches, self.along[:-1])).max(axis=1)
        steady = off[0].max(initial=0.0) <= self.unit_round_off
        return _LARGEST_ROUND_OFF * self.by_input(off.max(axis=0)) if steady else np.zeros(self._columns_of.size)

    @property
    def natural(self) -> float:
        """The usual size of the slopes of a function with such outputs and inputs."""
        outputs, inputs = _largest_number(self._outputs), _largest_number(self._leaves)
        return outputs / (inputs or 1.0)

    @property
    def unit_round_off(self) -> float:
        """What rounding may add to slopes of that size."""
        return float(_LARGEST_ROUND_OFF * self.eps * self.natural)

    def tolerated(self, atol: float) -> float:
        """By how much a product with one of the directions may be off where the caller lets entries be off by ``atol``.

        A tolerance is meant for slopes of order one, as the default is. Where the outputs are small compared with the
        inputs, so are all slopes, and the tolerance shrinks in proportion: it would hide the whole backward otherwise.
        """
        return float(atol * min(1.0, self.natural))

    def by_input(self, numbers: Floats) -> Floats:
        """Numbers of shape (n,), each replaced by the largest one of its input."""
        largest = [
            np.full(place.stop - place.start, numbers[place].max(initial=0.0)) for place in self._columns_of.slices
        ]
        return np.concatenate(largest)

    def one_by_one(self) -> Backward:
        """The same, row by row."""
        other = copy.copy(self)
        other._possible = False
        other.__dict__.pop("_batches", None)
        return other

    def elsewhere(self, outputs: Tensors, leaves: Tensors) -> Backward:
        """The same of other outputs with respect to other inputs."""
        return Backward(outputs, leaves, self._names, self._dtypes, self._room)

    def pulled(self, vectors: Floats) -> Floats:
        """v^T J for each of several vectors, shape (k, n)."""
        rows = [self._columns_of.joined(self._gradients(each)) for each in self._rows_of.members(vectors)]
        return np.concatenate([np.empty((0, self._columns_of.size)), *rows])

    def repeats(self, nondeterminism: float) -> bool:
        """Whether a second run of a backward pass gives the same, up to ``nondeterminism``."""
        again = self.pulled(self.directions[:1])[0]
        return bool((np.abs(again - self.along[0]) <= nondeterminism).all())

    def jacobian(self, nondeterminism: float) -> Floats:
        """All rows, computed twice: a second run must give the same, but for the order in which it adds up."""
        first, again = self._rows(), self._rows()
        differs = np.nan_to_num(np.abs(first - again), nan=0.0).max(axis=0, initial=0.0)
        off = float(differs.max(initial=0.0))
        if off > nondeterminism and (differs > np.fmax(nondeterminism, self._rounding_of(first))).any():
            raise GradcheckError(
                f"Backward is not reentrant: run twice on the same input and grad_output it gives gradients that "
                f"differ by {off:.1e}; nondet_tol is {nondeterminism}"
            )
        return first

    def _rounding_of(self, rows: Floats) -> Floats:
        """What adding up in another order may change rows of the Jacobian by, shape (n,)."""
        sizes = self.by_input(np.abs(rows).max(axis=0, initial=0.0))
        return np.asarray(np.fmax(_LARGEST_ROUND_OFF * self.eps * sizes, self.unit_round_off))

    def _rows(self) -> Floats:
        found = self._batches.values(lambda: np.concatenate([*map(self.batch, self._units())]), self._same)
        if found is not None:
            return found
        return np.concatenate([np.empty((0, self._columns_of.size)), *map(self.pulled, self._units())])

    def _same(self, rows: Floats) -> bool:
        """Whether a combination of all rows is what a plain call gives."""
        weights = self.directions[0]
        terms = float((np.abs(weights) @ np.abs(rows)).max(initial=0.0))
        return agree(weights @ rows, self.along[0], self.eps, size=terms)

    def batch(self, block: Floats) -> Floats:
        """The same as `pulled`, by one call."""
        gradients = torch.autograd.grad(
            self._outputs, self._leaves, self._rows_of.stacked(block), retain_graph=True, allow_unused=True,
            is_grads_batched=True,
        )  # fmt: skip
        self._refuse(gradients, batched=True)
        return self._columns_of.joined(gradients, len(block))

    def _units(self) -> Iterator[Floats]:
        for begin in range(0, self.size, self._most):
            yield np.eye(min(self._most, self.size - begin), self.size, begin)

    def _gradients(self, weights: Tensors) -> Sequence[torch.Tensor | None]:
        """Gradients for one set of grad_outputs, without the checks of `torch.autograd.grad`, as long as the pass."""
        run: Callable[..., Sequence[torch.Tensor | None]] = torch.autograd.Variable._execution_engine.run_backward
        gradients = run(tuple(self._outputs), tuple(weights), True, False, tuple(self._leaves), True)
        self._refuse(gradients, batched=False)
        return gradients

    def _refuse(self, gradients: Sequence[torch.Tensor | None], *, batched: bool) -> None:
        """Raise for a gradient of another shape, or of another dtype where that counts."""
        for k, gradient, leaf in zip(self._names, gradients, self._leaves, strict=True):
            shape = None if gradient is None else gradient.shape[1:] if batched else gradient.shape
            if gradient is not None and shape != leaf.shape:
                raise GradcheckError(
                    f"the gradient of input {k} has shape {tuple(shape or ())}; the input {tuple(leaf.shape)}"
                )
            if self._dtypes and gradient is not None and gradient.dtype != leaf.dtype:
                raise GradcheckError(f"the gradient of input {k} is of dtype {gradient.dtype}; the input {leaf.dtype}")


def _largest_number(tensors: Tensors) -> float:
    return max((float(each.detach().abs().max()) for each in tensors if each.numel()), default=0.0)


# --- linearity, batches, undefined gradients ---


def check_linearity(backward: Backward, in_double: bool, atol: float) -> None:
    """A backward is linear in grad_output: zero for zero, and for vectors that add up to zero a sum of zero.

    The sum is zero but for round-off: a share of what is added up, input by input; where the gradients themselves are
    round-off, as much as was measured. For zero nothing is rounded.
    """
    of_zero = backward.along[-1]
    if of_zero.any():
        raise GradcheckError(
            f"backward is not multiplied by grad_output: for zeros it gives up to {np.abs(of_zero).max():.3g}"
        )
    off = np.abs(backward.along.sum(axis=0))
    allowed = _LINEARITY[in_double] * backward.by_input(np.abs(backward.along).sum(axis=0))
    if not (off > allowed).any():
        return
    allowed = np.fmax(allowed, backward.tolerated(atol))
    if (off > allowed).any() and (off > np.fmax(allowed, backward.round_off)).any():
        raise GradcheckError(
            f"backward is not linear in grad_output: the gradients of a sum are off by {off.max(initial=0.0):.3g}"
        )


def check_batched(backward: Backward) -> None:
    """A backward must give the same in a batch (``is_grads_batched``) as for one grad_output after another."""
    refuse_other_batch(lambda: backward.batch(backward.directions[:-1]), backward.along[:-1], backward.eps, "backward")


def refuse_other_batch(batch: Callable[[], Floats], plain: Floats, eps: float, what: str) -> None:
    """Raise unless a batch of products with the Jacobian is what plain calls give, but for round-off."""
    try:
        found = batch()
    except Exception as error:
        raise GradcheckError(f"{what} cannot be computed in a batch by vmap ({described(error)})") from error
    if not agree(found, plain, eps):
        off = float(np.abs(found - plain).max(initial=0.0))
        raise GradcheckError(f"{what} gives something else in a batch by vmap: off by {off:.3g}")


class _Undefined(torch.autograd.Function):
    """The identity, whose gradient is None."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> None:
        return None


def check_undefined(outputs: Tensors, leaves: Tensors) -> None:
    """A backward must take None for zero: for all outputs, and for each of several."""
    count = len(outputs)
    for chosen in [range(count), *([[k] for k in range(count)] if count > 1 else [])]:
        passed = [_Undefined.apply(each) if k in chosen else each for k, each in enumerate(outputs)]
        zeros = [torch.zeros_like(each) for each in outputs]
        try:
            gradients = torch.autograd.grad(passed, leaves, zeros, retain_graph=True, allow_unused=True)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise GradcheckError(
                "backward does not take an undefined grad_output (None) for zero; handle it, or use "
                f"check_undefined_grad=False ({error})"
            ) from error
        if any(gradient is not None and gradient.any() for gradient in gradients):
            raise GradcheckError(
                "backward gives gradients that are not zero where grad_output is undefined (None) or zero"
            )
