"""Losses that come as stages, each with its own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastgc._arguments import flag, listed, refuse_uncallable
from fastgc._parameters.fields import as_list, tensor_fields
from fastgc._parameters.layout import ParameterLayout, joined_name
from fastgc._public import public


@public
@dataclass(frozen=True)
class Stage:
    """One stage of a loss, for `fastgc.stages`.

    Attributes
    ----------
    function : callable
        ``function(params, value, *args)`` returns the value for the next stage. ``params`` is a dict of the named
        parameters alone; ``value`` is the result of the stage before, which it must not change.
    names : str or sequence of str
        The parameters that the stage reads, by the names of `fastgc.tensor_names`; also the key of a group of them,
        such as a layer in a nested dict.
    batched : bool
        The function also takes a value with a leading batch axis in every array, and then returns one; its parameters
        and args are as always. A batch is evaluated by one call of it then, and not by one call for each member.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> scaled = fastgc.Stage(lambda p, value: p["scale"] * value, "scale", batched=True)
    >>> scaled.function({"scale": 2.0}, np.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    """

    function: Callable[..., Any]
    names: str | Sequence[str] = ()
    batched: bool = False

    def __post_init__(self) -> None:
        refuse_uncallable("function", self.function)
        flag("batched", self.batched)
        object.__setattr__(self, "names", _as_names("names", self.names))

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True)
class Dense:
    """The stage ``activation(value @ weight + bias)``, as `dense` makes it."""

    weight: str
    bias: str | None
    activation: Callable[[Any], Any] | None

    batched = True

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def function(self, params: Mapping[str, Any], value: Any, *_: Any) -> Any:
        """Its value, as that of a `Stage`."""
        return self.activated(self.linear(params, value))

    def linear(self, params: Mapping[str, Any], value: Any) -> Any:
        """Its value before the activation."""
        product = value @ params[self.weight]
        return product if self.bias is None else product + params[self.bias]

    def activated(self, linear: Any) -> Any:
        """The activation of an array; without one the array."""
        return linear if self.activation is None else self.activation(linear)

    def __str__(self) -> str:
        return f"dense {self.weight!r}"


def dense(weight: str, bias: str | None = None, activation: Callable[[Any], Any] | None = None) -> Dense:
    """A stage ``activation(value @ weight + bias)``, of whose entries many are evaluated in one pass of what follows.

    Parameters
    ----------
    weight : str
        The name of a matrix, shape (inputs, outputs); the value before it has the shape (..., inputs).
    bias : str, optional
        The name of an array of shape (outputs,).
    activation : callable, optional
        ``activation(array)``, elementwise, such as ``np.tanh``.

    Returns
    -------
    stage
        For `fastgc.stages`.

    Raises
    ------
    TypeError
        For names that are no text, and for an activation that cannot be called.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> layer = fastgc.dense("W", "b", activation=np.tanh)
    >>> layer.function({"W": np.ones((2, 3)), "b": -np.ones(3)}, np.zeros(2)).round(2).tolist()
    [-0.76, -0.76, -0.76]
    """
    _as_names("weight", [weight])
    _as_names("bias", [] if bias is None else [bias])
    if activation is not None:
        refuse_uncallable("activation", activation)
    return Dense(weight, bias, activation)


class _Named(dict[str, Any]):
    """The parameters that a stage names; it says so where another one is looked up."""

    def __init__(self, named: Mapping[str, Any], stage: str) -> None:
        super().__init__(named)
        self._stage = stage

    def __missing__(self, name: str) -> Any:
        raise KeyError(
            f"{self._stage} reads {name!r}, but names only {listed([*self]) or 'no parameter'}: name it, too"
        )


@dataclass(frozen=True)
class StagedLoss:
    """A loss that calls its stages one after another, as `stages` makes it."""

    stages: tuple[Stage | Dense, ...]

    def __call__(self, params: Any, *args: Any) -> Any:
        """The value of the last stage."""
        return self.after(0, self.selected(params), args, args[1:])

    def selected(self, params: Any) -> list[dict[str, Any]]:
        """What each stage receives of the parameters."""
        return [
            _Named({name: _found(params, name, k, stage) for name in stage.names}, _described(k, stage))
            for k, stage in enumerate(self.stages)
        ]

    def after(self, number: int, params: Sequence[Any], given: tuple[Any, ...], rest: tuple[Any, ...]) -> Any:
        """The loss from stage ``number`` on.

        Parameters
        ----------
        params : what each stage receives of the parameters
        given : what this stage receives besides: the value, and the arguments of all stages
        rest : the arguments of all stages
        """
        for stage, mine in zip(self.stages[number:], params[number:], strict=True):
            given = (stage.function(mine, *given), *rest)
        return given[0]

    @property
    def functions(self) -> list[Callable[..., Any] | None]:
        """What the stages call, besides products and sums."""
        return [stage.activation if isinstance(stage, Dense) else stage.function for stage in self.stages]

    def users(self, layout: ParameterLayout) -> list[list[int]]:
        """The numbers of the stages that read each tensor of a layout, in their order.

        Raises
        ------
        ValueError
            For tensors that no stage reads.
        """
        found = [[k for k, stage in enumerate(self.stages) if _reads(stage, name)] for name in layout.names]
        unused = [name for name, users in zip(layout.names, found, strict=True) if not users]
        if unused:
            raise ValueError(f"params {listed(unused)}: read by no stage; name them in the stages that read them")
        return found

    def described(self, number: int) -> str:
        """A stage in words."""
        return _described(number, self.stages[number])


def stages(parts: Sequence[Stage | Dense | Callable[..., Any]]) -> StagedLoss:
    """A loss that comes as stages, of which an entry's evaluation needs only those from its own stage on.

    The first stage is called ``function(params, *args)``, and each later one ``function(params, value, *args[1:])``:
    the value of the stage before takes the place of the first argument. A parameter that several stages read is
    evaluated from the first of them on.

    Parameters
    ----------
    parts : sequence of stages
        Made by `fastgc.Stage` and `fastgc.dense`; a plain function is a stage without parameters, and what `stages`
        made is all of its stages. The last returns the value of the loss.

    Returns
    -------
    callable
        ``loss(params, *args)``, for `fastgc.check_gradients`, `fastgc.numerical_gradient` and whatever takes a loss.

    Raises
    ------
    TypeError, ValueError
        For an empty sequence, and for what is no stage.

    Notes
    -----
    The values before each stage are kept, so no stage may write into the value that it receives. A loss whose repeated
    call gives another value, or that writes into args, is evaluated as a whole; so is every loss with ``in_place``,
    ``workers`` or ``vectorized``.

    An entry of a `fastgc.dense` stage changes one column of its output, by a multiple of one column of its input. Such
    columns of many entries go through the stages that follow in one pass, with a leading batch axis where these stages
    accept it (``batched=True``), one by one where they do not.

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> def squares(p, value, target):
    ...     return np.mean((value - target) ** 2, axis=(-2, -1))
    >>> loss = fastgc.stages([
    ...     fastgc.dense("W1", "b1", activation=np.tanh), fastgc.dense("W2"), fastgc.Stage(squares, batched=True)
    ... ])
    >>> rng = np.random.default_rng(0)
    >>> params = {"W1": rng.normal(size=(5, 4)), "b1": rng.normal(size=4), "W2": rng.normal(size=(4, 2))}
    >>> x, target = rng.normal(size=(8, 5)), rng.normal(size=(8, 2))
    >>> def gradients(p, x, target):
    ...     h = np.tanh(x @ p["W1"] + p["b1"])
    ...     slope = 2 * (h @ p["W2"] - target) / target.size
    ...     below = (slope @ p["W2"].T) * (1 - h**2)
    ...     return {"W1": x.T @ below, "b1": below.sum(axis=0), "W2": h.T @ slope}
    >>> report = fastgc.check_gradients(loss, gradients, params, args=(x, target), samples="all")
    >>> report.verdict, report.engine
    ('pass', 'python (stages)')
    """
    if not isinstance(parts, Iterable):
        raise TypeError(f"stages is a {type(parts).__name__}; it must be a sequence of stages: stages([...])")
    found = tuple(stage for k, part in enumerate(parts) for stage in _as_stages(part, k))
    if not found:
        raise ValueError("stages is empty; pass at least one stage")
    return StagedLoss(found)


def _as_stages(part: Any, number: int) -> Sequence[Stage | Dense]:
    if isinstance(part, StagedLoss):
        return part.stages
    if isinstance(part, (Stage, Dense)):
        return [part]
    if not callable(part):
        raise TypeError(
            f"stages[{number}] is a {type(part).__name__}; it must be a fastgc.Stage, a fastgc.dense or a function"
        )
    return [Stage(part)]


def _as_names(what: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, Iterable):
        raise TypeError(f"{what} is {names!r}; name parameters with strings, as fastgc.tensor_names does")
    given = (names,) if isinstance(names, str) else tuple(names)
    wrong = [each for each in given if not isinstance(each, str)]
    if wrong:
        raise TypeError(f"{what} has {listed(wrong)}; name parameters with strings, as fastgc.tensor_names does")
    return given


def _described(number: int, stage: Stage | Dense) -> str:
    return f"stages[{number}] ({stage})"


def _reads(stage: Stage | Dense, tensor: str) -> bool:
    return any(tensor == name or tensor.startswith(f"{name}.") for name in stage.names)


# --- the way to a parameter ---


def _found(params: Any, name: str, number: int, stage: Stage | Dense) -> Any:
    if isinstance(params, Mapping) and name in params:
        return params[name]
    every = list(_under(params, "", name))
    if not every:
        raise ValueError(f"{_described(number, stage)} reads {name!r}, which params does not have")
    return every[0]


def _under(node: Any, path: str, name: str) -> Iterator[Any]:
    """The nodes of a structure whose joined name is ``name``."""
    children = _children(node)
    if path == name or (not path and children is None and name == "params"):
        yield node
    for key, child in (children or {}).items():
        below = joined_name(path, key)
        if name == below or name.startswith(f"{below}."):
            yield from _under(child, below, name)


def _children(node: Any) -> Mapping[str, Any] | None:
    """The children of a node by their keys; None for a leaf."""
    node = as_list(node)
    if isinstance(node, Mapping):
        return node
    if isinstance(node, (list, tuple)):
        return dict(zip(getattr(node, "_fields", map(str, range(len(node)))), node, strict=True))
    fields = tensor_fields(node)
    return None if fields is None else {key: getattr(node, key) for key in fields}
