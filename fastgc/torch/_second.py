"""The gradients of a function as a function: what a check of second derivatives differentiates.

Its exact tangent goes through the bodies of custom Functions twice: through ``forward``, and through ``backward`` with
what ``forward`` saved. PyTorch's own rules give the tangents of both; no rule for the second derivative enters them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.autograd.function import _is_setup_context_defined

from fastgc.torch._calls import Function
from fastgc.torch._outputs import as_tuple, tensors


class FirstGradients:
    """``gradients(*inputs, *output_gradients)`` gives the gradients of the inputs that require them.

    Parameters
    ----------
    func : callable
        Of the inputs.
    wanted : sequence of bool
        Which inputs require gradients.
    """

    def __init__(self, func: Callable[..., object], wanted: Sequence[bool]) -> None:
        self._func, self._wanted = func, wanted

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """By PyTorch's backward pass."""
        ahead, behind = arguments[: len(self._wanted)], arguments[len(self._wanted) :]
        outputs = differentiable(self._func(*ahead))
        found = torch.autograd.grad(outputs, self._checked(ahead), behind, create_graph=True, allow_unused=True)
        return tuple(each for each in found if each is not None)

    def by_bodies(self, tape: Tape, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """By the backward bodies of the Functions on the tape, which it fills."""
        ahead, behind = arguments[: len(self._wanted)], arguments[len(self._wanted) :]
        with torch.enable_grad():
            checked = [each.requires_grad_() for each in self._checked(ahead)]
            outputs = differentiable(self._func(*ahead))
        return tuple(each for each in tape.gradients(outputs, behind, checked) if each is not None)

    def _checked(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [each for each, want in zip(inputs, self._wanted, strict=True) if want]


def differentiable(value: object) -> tuple[torch.Tensor, ...]:
    """The tensors of a value that require gradients."""
    return tuple(each for each in tensors(value) if each.requires_grad)


class _Context:
    """Stands in for the context of a Function, whose forward and backward run one after the other."""

    def __init__(self, args: tuple[object, ...]) -> None:
        self.needs_input_grad = tuple(isinstance(each, torch.Tensor) and each.requires_grad for each in args)
        self.saved_tensors: tuple[torch.Tensor | None, ...] = ()
        self.constant: tuple[torch.Tensor, ...] = ()

    def save_for_backward(self, *saved: torch.Tensor | None) -> None:
        self.saved_tensors = saved

    def mark_non_differentiable(self, *outputs: torch.Tensor) -> None:
        self.constant = outputs

    def _ignore(self, *args: object) -> None:
        pass

    save_for_forward = set_materialize_grads = _ignore


class Tape:
    """The outermost calls of custom Functions, whose outputs begin new graphs: none leads through a Function."""

    def __init__(self) -> None:
        self._calls: list[tuple[Function, _Context, tuple[object, ...], list[torch.Tensor]]] = []
        self._inside = False

    def apply(self, function: Function, *args: object, **kwargs: object) -> object:
        """Run a Function's forward."""
        context, outermost = _Context(args), not self._inside
        self._inside = True
        try:
            with torch.no_grad():
                if _is_setup_context_defined(function.setup_context):
                    output: object = function.forward(*args, **kwargs)
                    function.setup_context(context, args, output)
                else:
                    output = function.forward(context, *args, **kwargs)
        finally:
            self._inside = not outermost
        if outermost and any(context.needs_input_grad):
            self._calls.append((function, context, args, self._begun(context, args, output)))
        return output

    def _begun(self, context: _Context, args: tuple[object, ...], output: object) -> list[torch.Tensor]:
        """The outputs of a call, of which new graphs begin."""
        outputs = [*tensors(output)]
        if any(each is given for each in outputs for given in args):
            raise NotImplementedError("a Function that returns its input belongs to two graphs")
        for each in outputs:
            if (each.is_floating_point() or each.is_complex()) and not any(each is one for one in context.constant):
                each.requires_grad_()
        return outputs

    def gradients(
        self, outputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor | None]:
        """The gradient of the weighted sum of the outputs with respect to inputs: graph by graph, from the last."""
        pairs = [*zip(outputs, weights, strict=True)]
        for function, context, args, made in reversed(self._calls):
            received = _pulled(pairs, made)
            if all(each is None for each in received):
                continue
            own = [torch.zeros_like(y) if each is None else each for each, y in zip(received, made, strict=True)]
            self._inside = True  # what backward calls is no part of these graphs
            with torch.no_grad():
                found = as_tuple(function.backward(context, *own))
            pairs += [
                (each, gradient)
                for each, gradient in zip(args, found, strict=False)
                if isinstance(each, torch.Tensor) and each.requires_grad and gradient is not None
            ]
        return _pulled(pairs, inputs)


def _pulled(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], wanted: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    """The gradients of weighted sums of tensors, by graphs that lead through PyTorch's own operations."""
    asked = [each for each in wanted if each.requires_grad]
    found = iter(
        torch.autograd.grad(
            [each for each, _ in pairs], asked, [weight for _, weight in pairs], retain_graph=True, allow_unused=True
        )
    )
    return [next(found) if each.requires_grad else None for each in wanted]
