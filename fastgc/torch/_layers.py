"""Single entries of a layer's weight or bias, displaced many at once behind the layer.

One entry of the weight of a linear layer, a convolution or an embedding changes one channel of its output, by a
multiple of what it is multiplied with. So the layer and what comes before it are called once for a batch, with their
own weights; the output gets the batch axis, with one channel changed in each member, and `torch.func.vmap` computes
what follows. No weight has a batch axis: a batch takes the memory of what is computed from the output.

The round-off is that of `fastgc._evaluation.rank_one`: one addition to the channel. The last member of every batch is
the point itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from fastgc._parameters.arrays import Array, Positions
from fastgc.torch._readers import reading
from fastgc.torch._subject import Subject

# Measured with layers of 64 and 128 units: a batch takes 1.5 ms in Python, whatever its size, so it is larger than one
# that copies a weight for every value; twice as large again, it is slower for its memory of 32 MiB.
_NUMBERS_BEHIND = 1 << 21  # that a batch computes, 16 MiB
_LARGEST_BATCH = 512

Columns = Callable[
    [torch.Tensor], torch.Tensor
]  # what the entries of these rows are multiplied with, shape (rows, ...)


class Kind(NamedTuple):
    """How one parameter of a kind of layers acts.

    Attributes
    ----------
    axis : of the channels in the output, counted from the last
    columns : ``columns(layer, input, output)`` gives the `Columns`
    places : ``places(layer, cells)`` gives the channels and the rows of entries of the flat parameter
    """

    axis: int
    columns: Callable[[Any, torch.Tensor, torch.Tensor], Columns]
    places: Callable[[Any, Positions], tuple[Positions, Positions]]


@dataclass(frozen=True)
class Layer:
    """One parameter of a layer, of which an entry changes one channel of the output.

    Attributes
    ----------
    numbers : about how many numbers the loss computes from the output
    """

    module: torch.nn.Module
    kind: Kind
    numbers: int

    @property
    def batch(self) -> int:
        """How many values are computed at once."""
        return min(_LARGEST_BATCH, _NUMBERS_BEHIND // max(1, self.numbers))

    def values(self, loss: Callable[[], torch.Tensor], cells: Positions, lengths: Array) -> torch.Tensor:
        """The loss with each entry displaced by a length; raises where the layer is not called exactly once."""
        device = next(self.module.parameters()).device
        given = [
            torch.from_numpy(np.ascontiguousarray(each)).to(device)
            for each in (*self.kind.places(self.module, cells), lengths)
        ]
        with torch.no_grad():
            values: torch.Tensor = torch.func.vmap(partial(self._value, loss))(*given)
        return values

    def _value(self, loss: Callable[[], torch.Tensor], *moved: torch.Tensor) -> torch.Tensor:
        calls, computed = 0, self.module.forward

        def changed(input: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            output = computed(input)
            if calls > 1 or output.dtype != torch.float64:
                raise RuntimeError("more than one channel of one output changes, or the output is rounded")
            found: torch.Tensor = _Changed.apply(
                output, *moved, self.kind.axis, self.kind.columns(self.module, input, output)
            )
            return found

        self.module.forward = changed  # a hook would come after those that all modules have
        try:
            value = loss()
        finally:
            del self.module.forward
        if not calls:
            raise RuntimeError("the layer is not called: something else reads its parameters")
        return value


class _Changed(torch.autograd.Function):
    """An output without a batch axis, with one channel changed in each member of a batch."""

    @staticmethod
    def forward(output: torch.Tensor, *_: Any) -> torch.Tensor:
        raise NotImplementedError("a layer's output is changed only in a batch")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: no gradient is taken."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, output: torch.Tensor, channels: torch.Tensor, rows: torch.Tensor,
        lengths: torch.Tensor, axis: int, columns: Columns,
    ) -> tuple[torch.Tensor, int]:  # fmt: skip
        if in_dims[0] is not None:
            raise RuntimeError("the output has a batch axis already")
        batch = output.expand(info.batch_size, *output.shape).clone(memory_format=torch.contiguous_format)
        each = torch.arange(info.batch_size, device=output.device)
        changes = lengths.view(-1, *(1,) * (output.ndim - 1)) * columns(rows)
        batch.movedim(axis, 1)[each, channels] += changes
        return batch, 0


# --- the layers ---


def _bias(layer: Any, given: torch.Tensor, output: torch.Tensor) -> Columns:
    return lambda rows: output.new_ones((1,) * output.ndim)


def _bias_places(layer: Any, cells: Positions) -> tuple[Positions, Positions]:
    return cells, np.zeros_like(cells)


def _linear(layer: torch.nn.Linear, given: torch.Tensor, output: torch.Tensor) -> Columns:
    return lambda rows: given.movedim(-1, 0)[rows]


def _linear_places(layer: torch.nn.Linear, cells: Positions) -> tuple[Positions, Positions]:
    channels, rows = np.divmod(cells, layer.in_features)
    return channels, rows


def _convolution(layer: torch.nn.Conv2d, given: torch.Tensor, output: torch.Tensor) -> Columns:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    images = given if given.ndim == 4 else given.unsqueeze(0)
    padded = torch.nn.functional.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
    patches = torch.nn.functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    patches = patches.movedim(1, 0).reshape(patches.shape[1], *output.select(-3, 0).shape)
    return lambda rows: patches[rows]


def _convolution_places(layer: torch.nn.Conv2d, cells: Positions) -> tuple[Positions, Positions]:
    """Rows of the patches: input channels, then places of the kernel; a group reads its own input channels."""
    width = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    channels, rows = np.divmod(cells, width)
    return channels, rows + channels // (layer.out_channels // layer.groups) * width


def _embedding(layer: torch.nn.Embedding, given: torch.Tensor, output: torch.Tensor) -> Columns:
    return lambda rows: given == rows.view(-1, *(1,) * given.ndim)


def _embedding_places(layer: torch.nn.Embedding, cells: Positions) -> tuple[Positions, Positions]:
    rows, channels = np.divmod(cells, layer.embedding_dim)
    return channels, rows


# By the function that a layer computes, which subclasses may replace, and the name of the parameter.
_KINDS: dict[tuple[Any, str], Kind] = {
    (torch.nn.Linear.forward, "weight"): Kind(-1, _linear, _linear_places),
    (torch.nn.Linear.forward, "bias"): Kind(-1, _bias, _bias_places),
    (torch.nn.Conv2d.forward, "weight"): Kind(-3, _convolution, _convolution_places),
    (torch.nn.Conv2d.forward, "bias"): Kind(-3, _bias, _bias_places),
    (torch.nn.Embedding.forward, "weight"): Kind(-1, _embedding, _embedding_places),
}


def layers_of(subject: Subject) -> dict[int, Layer]:
    """The parameters of layers in double precision that nothing but their layer reads, by the numbers of their tensors.

    In lower precision, what is multiplied may be rounded further (in TF32, in bfloat16): then a displaced weight gives
    another product than the weight and its displacement do.
    """
    candidates = [*_candidates(subject)]
    if not candidates:
        return {}
    found = reading(lambda: subject({}), {module for module, *_ in candidates}, subject.tensors)
    return {
        t: Layer(module, kind, found.behind[module])
        for module, t, kind in candidates
        if found.calls[module] == 1 and found.once(subject.tensors[t])
    }


def _candidates(subject: Subject) -> Iterator[tuple[torch.nn.Module, int, Kind]]:
    numbers = {id(subject.tensors[t]): t for t in subject.parameters.values()}
    for module in subject.module.modules():
        for key, parameter in module._parameters.items():
            kind, t = _KINDS.get((_computed_by(module), key)), numbers.get(id(parameter), -1)
            if kind is not None and t >= 0 and subject.tensors[t].dtype == torch.float64:
                yield module, t, kind


def _computed_by(module: torch.nn.Module) -> Any:
    return None if "forward" in vars(module) else type(module).forward
