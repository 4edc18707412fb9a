"""A call of a module with some of its parameters replaced."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fastgc.torch._surroundings import Given


def called_with(
    module: torch.nn.Module, parameters: Mapping[str, torch.Tensor], args: Given, kwargs: Mapping[str, object]
) -> object:
    """The output of ``module(*args, **kwargs)``, with other tensors wherever it uses these parameters.

    ``functional_call`` with its own ``tie_weights`` replaces a parameter under every name. A module that stands at two
    places of the tree has two names for one attribute, and would keep the replaced tensor afterwards.
    """
    names = _names(module)
    tied = {name: each for first, each in parameters.items() for name in names[id(module.get_parameter(first))]}
    return torch.func.functional_call(module, tied, args, dict(kwargs), tie_weights=False)


def _names(module: torch.nn.Module) -> dict[int, list[str]]:
    """For each parameter, by its identity, one name for each attribute that holds it."""
    names: dict[int, list[str]] = {}
    for prefix, owner in module.named_modules():  # each once
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), []).append(f"{prefix}.{name}" if prefix else name)
    return names
