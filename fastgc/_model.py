"""Models that hold their parameters: as attributes, or behind one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from fastgc._arguments import listed
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import FLOATS


class HoldsVector(Protocol):
    """A model that holds its parameters as a vector."""

    def get_parameter_vector(self) -> ArrayLike:
        """The parameters."""

    def set_parameter_vector(self, vector: Array) -> object:
        """Take other parameters."""


def attributes(model: object, names: Sequence[str]) -> dict[str, Array]:
    """The arrays that a model holds as attributes, themselves and not copies, by their names.

    With ``in_place=True`` a check displaces these arrays, and the model sees it: the loss and the gradient then need
    no argument.

    Parameters
    ----------
    model : object
        Of any class; instances of a jitted class, too.
    names : sequence of str
        Of attributes that are arrays of float16, float32 or float64; "layer.W" for an attribute of an attribute.

    Returns
    -------
    dict of arrays
        The ``params`` of `check_gradients`.

    Raises
    ------
    TypeError
        For a single string, and for attributes that are no arrays of floats.
    ValueError
        For attributes whose every reading makes another array, so that the model would not see a change.
    AttributeError
        For a name that the model lacks.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> class Regression:
    ...     def __init__(self, size):
    ...         self.coef_, self.intercept_ = np.linspace(0, 1, size), np.zeros(1)
    ...
    ...     def residuals(self, x, y):
    ...         return x @ self.coef_ + self.intercept_ - y
    ...
    ...     def loss(self, x, y):
    ...         return np.sum(self.residuals(x, y) ** 2)
    ...
    ...     def gradients(self, x, y):
    ...         r = self.residuals(x, y)
    ...         return {"coef_": 2 * x.T @ r, "intercept_": np.array([r.sum()])}  # wrong: the factor 2 is missing
    >>> model, x, y = Regression(3), np.linspace(-1, 1, 15).reshape(5, 3), np.arange(5.0)
    >>> params = fastgc.attributes(model, ["coef_", "intercept_"])
    >>> report = fastgc.check_gradients(
    ...     lambda _: model.loss(x, y), lambda _: model.gradients(x, y), params, in_place=True
    ... )
    >>> {name: tensor.verdict for name, tensor in report.tensors.items()}
    {'coef_': 'pass', 'intercept_': 'fail'}
    """
    if isinstance(names, str):
        raise TypeError(f"names is {names!r}; it must be a sequence of names: [{names!r}]")
    return {name: _live(model, name) for name in names}


def _live(model: object, name: str) -> Array:
    first, again = _read(model, name), _read(model, name)
    what = f"{type(model).__name__}.{name}"
    if not isinstance(first, np.ndarray):
        remedy = f"; keep it as an array: np.array({first!r})" if isinstance(first, (int, float, np.generic)) else ""
        raise TypeError(f"{what} is a {type(first).__name__}; it must be an array, which a check displaces{remedy}")
    if first.dtype not in FLOATS:
        raise TypeError(
            f"{what} is of {first.dtype}; it must be of {listed(FLOATS, quote=False)}: cast it in the model"
        )
    if first is not again and first.size and not np.shares_memory(first, again):
        raise ValueError(
            f"{what} is another array at each reading (a property?), so that the model sees no change of it; name the "
            "attribute that holds it"
        )
    return first


def _read(model: object, name: str) -> object:
    for part in name.split("."):
        if not hasattr(model, part):
            raise AttributeError(f"{type(model).__name__} has no attribute {part!r}, of {name!r}")
        model = getattr(model, part)
    return model


def at_vector(model: HoldsVector, method: Callable[..., object]) -> Callable[..., object]:
    """A function of the parameter vector, from a method of a model that holds it behind get and set methods.

    Parameters
    ----------
    model : object
        With ``get_parameter_vector()`` and ``set_parameter_vector(vector)``, as models of Gaussian processes have them.
    method : callable
        A method of the model, or any function of it: ``method(*args)``.

    Returns
    -------
    callable
        ``f(vector, *args)`` sets the vector, calls ``method(*args)``, and sets the vector that was there before.

    Raises
    ------
    TypeError
        For a model without these two methods.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> class Kernel:
    ...     vector = np.array([0.5, 2.0])
    ...
    ...     def get_parameter_vector(self):
    ...         return self.vector.copy()
    ...
    ...     def set_parameter_vector(self, vector):
    ...         self.vector = np.array(vector)
    ...
    ...     def log_likelihood(self, y):
    ...         return -np.sum((y - self.vector[0]) ** 2) / np.exp(self.vector[1])
    ...
    ...     def grad_log_likelihood(self, y):
    ...         z = y - self.vector[0]
    ...         return np.array([2 * z.sum(), z @ z]) / np.exp(self.vector[1])
    >>> model, y = Kernel(), np.arange(4.0)
    >>> loss, gradient = (fastgc.at_vector(model, each) for each in (model.log_likelihood, model.grad_log_likelihood))
    >>> fastgc.check_gradients(loss, gradient, model.get_parameter_vector(), args=(y,)).verdict
    'pass'
    """
    lacking = [name for name in ("get_parameter_vector", "set_parameter_vector") if not hasattr(model, name)]
    if lacking:
        raise TypeError(f"{type(model).__name__} lacks {listed(lacking)}; for arrays as attributes: fastgc.attributes")

    def at(vector: Array, *args: object) -> object:
        before = np.array(model.get_parameter_vector())
        model.set_parameter_vector(vector)
        try:
            return method(*args)
        finally:
            model.set_parameter_vector(before)

    return at
