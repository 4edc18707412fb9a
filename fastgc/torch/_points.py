"""The points at which a module is evaluated: its tensors there, the first values, and the gradient by its backward."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fastgc._arguments import listed
from fastgc._evaluation.engine import Execution, FirstCall, NotFiniteError
from fastgc._evaluation.evaluator import WrongTypeError, described
from fastgc._parameters.arrays import Array
from fastgc._parameters.matching import NewArrays
from fastgc._parameters.point import Point, fingerprint
from fastgc.torch._evaluator import Batching, TorchEvaluator, footprint
from fastgc.torch._flat import as_reals, numbers
from fastgc.torch._layers import layers_of
from fastgc.torch._subject import Subject

KNOWN = (torch.bfloat16, torch.float16, torch.float32, torch.float64)  # dtypes of real numbers that can be checked
_FIRST_CALLS = 2  # of the loss at a point, before its evaluator counts them
_SHARED = (torch.float16, torch.float32, torch.float64)  # of which NumPy can see the memory


# --- tensors as arrays ---


def held(tensor: torch.Tensor) -> Array:
    """A real tensor as an array: its own memory where NumPy can see that, or else a copy."""
    tensor = tensor.detach()
    wide = tensor if tensor.dtype in _SHARED else tensor.float()
    return np.asarray(wide.cpu().numpy())


@contextlib.contextmanager
def holding(tensors: Iterable[torch.Tensor], arrays: Iterable[Array]) -> Iterator[None]:
    """Real tensors hold the numbers of these arrays meanwhile; nothing is copied where they share memory.

    What they held before is kept in the memory of the host, which may be larger than that of a device.
    """
    pairs = [(tensor.data, torch.from_numpy(array)) for tensor, array in zip(tensors, arrays, strict=True)]
    kept = [(tensor, tensor.to("cpu", copy=True), there) for tensor, there in pairs if not _same(tensor, there)]
    try:
        try:
            for tensor, _, there in kept:
                tensor.copy_(there)
            yield
        finally:
            _put_back(kept)
    finally:
        _put_back(kept)  # again: an interrupt may have fallen into the first time


def _put_back(kept: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
    for tensor, before, _ in kept:
        tensor.copy_(before)


def _same(tensor: torch.Tensor, there: torch.Tensor) -> bool:
    return tensor.data_ptr() == there.data_ptr() or bool(torch.equal(tensor, there.to(tensor)))


# --- the gradient ---


class AnalyticGradient:
    """The gradient of a module's loss by its backward, as a function of the parameters by name.

    Attributes
    ----------
    notes : on tensors that have none at the first point
    """

    def __init__(self, subject: Subject) -> None:
        self.notes: tuple[str, ...] = ()
        self._subject, self._called = subject, False

    def __call__(self, params: Mapping[str, Array]) -> NewArrays:
        """The gradient of every tensor; zeros where there is none."""
        with holding(map(as_reals, self._subject.tensors), params.values()):
            found = self._subject.gradients()
        if not self._called:
            self._called = True
            self._subject.surroundings.keep_what_was_used()
            without = [name for name, each in zip(params, found, strict=True) if each is None]
            self.notes = (f"no gradient (None), taken for zero: {listed(without)}",) if without else ()
        return NewArrays(
            (name, numbers(torch.zeros_like(tensor)) if gradient is None else gradient)
            for name, gradient, tensor in zip(params, found, self._subject.tensors, strict=True)
        )


# --- evaluators ---


@dataclass(frozen=True)
class Opener:
    """Opens an evaluator of a module at a point, as `fastgc._evaluation.engine.open_evaluator` does of a loss.

    Attributes
    ----------
    sources : the tensors of the subject as they were given, perhaps in a lower precision
    seeded : whether PyTorch's random numbers are seeded before every call
    notes : for the report
    """

    subject: Subject
    sources: Sequence[torch.Tensor]
    seeded: bool
    notes: tuple[str, ...]

    def __call__(
        self, loss: object, point: Point, execution: Execution, *, expected: int, with_gradients: bool
    ) -> tuple[TorchEvaluator, FirstCall]:
        """The evaluator, and the result of the first calls."""
        if any(leaf.dtype.kind == "c" for leaf in point.leaves):
            return self._open_complex(point, execution)
        with contextlib.ExitStack() as opened:
            reals = [as_reals(tensor) for tensor in self.subject.tensors]
            opened.enter_context(holding(reals, point.leaves))
            sources = [self._source(t, reals[t], point) for t in range(len(reals))]
            first = self._first_values(reals, sources, point)
            batching = Batching(footprint(lambda: self.subject({})), lambda: layers_of(self.subject))
            evaluator = TorchEvaluator(
                self.subject, point.layout, reals, sources, first.value, batching, execution.deadline
            )  # fmt: skip
            evaluator.evaluations = _FIRST_CALLS
            evaluator.opened = opened.pop_all()
        return evaluator, first

    def _source(self, t: int, real: torch.Tensor, point: Point) -> torch.Tensor:
        """What displaced entries are restored from: the host's numbers for a parameter of which there is no copy."""
        if t in self.subject.in_place:
            return torch.from_numpy(point.leaves[t])
        source = self.sources[t]
        return source if torch.equal(real, source.to(real.dtype)) else real.clone()

    def _open_complex(self, point: Point, execution: Execution) -> tuple[TorchEvaluator, FirstCall]:
        """Of complex copies of the tensors, for the complex step."""
        tensors = [
            torch.from_numpy(leaf).to(real.device)
            for leaf, real in zip(point.leaves, self.subject.tensors, strict=True)
        ]
        every = dict(enumerate(tensors))
        evaluator = TorchEvaluator(
            lambda replaced: self.subject({**every, **replaced}), point.layout, tensors,
            [each.clone() for each in tensors], 0.0, Batching(), execution.deadline,
        )  # fmt: skip
        begin = time.perf_counter()
        try:
            value, again = evaluator.value(), evaluator.value()
        except Exception as error:
            raise WrongTypeError(
                'stencil="complex_step" evaluates the module at complex parameters and inputs, which it does not take '
                f'({described(error)}); use stencil="central"'
            ) from error
        return evaluator, self._first_call(value, again, time.perf_counter() - begin)

    def _first_values(self, reals: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], point: Point) -> FirstCall:
        """The loss, called twice, which must leave its tensors as they are."""
        begin = time.perf_counter()
        with torch.no_grad():
            value, again = float(self.subject({})), float(self.subject({}))
        seconds = (time.perf_counter() - begin) / 2
        changed = [name for t, name in enumerate(self.subject.names) if self._changed(t, reals[t], sources[t], point)]
        if changed:
            raise ValueError(
                f"module changes its parameters {listed(changed)} in its forward pass (max_norm of an embedding?); a "
                "derivative exists only at parameters that stay as they are"
            )
        return self._first_call(value, again, seconds)

    def _changed(self, t: int, real: torch.Tensor, source: torch.Tensor, point: Point) -> bool:
        """Whether a call changed a tensor; by a checksum where the source may be the tensor itself."""
        if t in self.subject.in_place:
            return fingerprint([held(real)])[0] != point.checksums[t]
        return not torch.equal(real, source.to(real.dtype))

    def _first_call(self, value: float, again: float, seconds: float) -> FirstCall:
        if not np.isfinite(value):
            raise NotFiniteError(f"loss is {value}; a gradient can be checked only where it is finite: pass loss=")
        noise = () if again == value else (_noisy(self.subject.module, value, again, self.seeded),)
        return FirstCall(value, seconds, False, bool(noise), (*noise, *self.notes))


@dataclass(frozen=True)
class Finer:
    """Opens an evaluator of a copy in double precision, if the module runs in it and is deterministic.

    Attributes
    ----------
    copied : makes the copy
    """

    copied: Callable[[], Subject]

    def __call__(self, point: Point, deadline: float) -> tuple[TorchEvaluator, FirstCall] | None:
        try:
            subject = self.copied()
            tensors = [as_reals(tensor) for tensor in subject.tensors]
            there = replace(point, leaves=[leaf.astype(np.float64) for leaf in point.leaves])
            execution = Execution("python", deadline=deadline)
            evaluator, first = Opener(subject, tensors, False, ())(
                None, there, execution, expected=0, with_gradients=False
            )
        except Exception:  # whatever it does with numbers that it was not written for
            return None
        if first.noisy:
            evaluator.close()
            return None
        return evaluator, first


# --- noise ---


def _noisy(module: torch.nn.Module, value: float, again: float, seeded: bool) -> str:
    active = [name or "module" for name, each in module.named_modules() if _drops_out(each)]
    cause = f"dropout is active in {listed(active)}" if active else "random numbers? state kept between calls?"
    cause = "state kept between calls? random numbers that PyTorch's seed does not reach?" if seeded else cause
    remedies = ["after module.eval()"] if any(each.training for each in module.modules()) else []
    remedies += [] if seeded else ["with seeded=True"]
    return f"module is not deterministic: a repeated call gave {again!r}, not {value!r} ({cause})" + (
        f"; check it {', or '.join(remedies)}" if remedies else ""
    )


def _drops_out(module: torch.nn.Module) -> bool:
    share = getattr(module, "p", 0.0) if "Dropout" in type(module).__name__ else getattr(module, "dropout", 0.0)
    return module.training and isinstance(share, float) and share > 0
