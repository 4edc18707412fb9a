"""A Triton kernel pair as a Function: x * sigmoid(x), with a factor of its backward; another than 1 is wrong."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_BLOCK = 1024  # numbers of one program


@triton.jit
def _forward(x_ptr, y_ptr, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(y_ptr + at, x / (1 + tl.exp(-x)), mask=at < n)


@triton.jit
def _backward(x_ptr, g_ptr, out_ptr, n, factor, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, g = tl.load(x_ptr + at, mask=at < n), tl.load(g_ptr + at, mask=at < n)
    s = 1 / (1 + tl.exp(-x))
    tl.store(out_ptr + at, factor * g * s * (1 + x * (1 - s)), mask=at < n)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.factor, y = factor, torch.empty_like(x)
        _forward[(triton.cdiv(x.numel(), _BLOCK),)](x, y, x.numel(), BLOCK=_BLOCK)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        _backward[(triton.cdiv(x.numel(), _BLOCK),)](x, g.contiguous(), out, x.numel(), ctx.factor, BLOCK=_BLOCK)
        return out, None
