"""Checks of PyTorch's gradients; PyTorch is imported when one of them is first used.

Examples
--------
>>> import torch
>>> import fastgc.torch
>>> model = torch.nn.Linear(3, 2).double()
>>> fastgc.torch.check_module(model, torch.ones(4, 3, dtype=torch.float64)).verdict
'pass'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgc._public import loader

__all__ = ["gradcheck", "gradgradcheck", "check_module", "assert_module"]

if TYPE_CHECKING:
    from fastgc.torch._gradcheck import gradcheck, gradgradcheck
    from fastgc.torch._module import assert_module, check_module
else:
    __getattr__ = loader(
        __name__,
        {
            "gradcheck": "_gradcheck",
            "gradgradcheck": "_gradcheck",
            "check_module": "_module",
            "assert_module": "_module",
        },
        "torch",
    )


def __dir__() -> list[str]:
    return sorted(__all__)
