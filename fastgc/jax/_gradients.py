"""The check of a gradient over a pytree, and what both checks of JAX functions share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastgc._arguments import listed, noted
from fastgc._derivatives.displaced import displaced_leaves
from fastgc._evaluation.engine import NotFiniteError
from fastgc._gradient.examine import PointCheck, examine
from fastgc._gradient.noisy import examine_noisy
from fastgc._gradient.options import CheckOptions, refuse_args
from fastgc._parameters.arrays import Array
from fastgc._parameters.layout import FLOATS, named_layout
from fastgc._parameters.matching import match_gradients, refuse_nonfinite
from fastgc._parameters.sampling import DEFAULT_SAMPLES
from fastgc._progress import Progress
from fastgc._reports.gradient import GradientReport
from fastgc._reports.summary import summarise
from fastgc._words import Precision, Samples
from fastgc.jax._evaluator import JaxEvaluator, Leaves, LossOfLeaves, compiled

_ABOUT_DTYPES = "dtype|float64|f64"  # matches JAX's messages about arrays of two dtypes


def check_gradients(
    loss: Callable[..., Any],
    params: Any,
    gradients: Any = None,
    *,
    args: tuple[Any, ...] = (),
    tensors: str | Sequence[str] | None = None,
    samples: Samples = DEFAULT_SAMPLES,
    probes: int = 3,
    step: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    precision: Precision = "double",
    seed: int = 0,
    progress: bool = False,
) -> GradientReport:
    """Check a gradient over a pytree: by default the one by `jax.grad`, custom rules included.

    Parameters
    ----------
    loss : callable
        ``loss(params, *args)`` returns one real number. It is compiled where it can be traced.
    params : pytree
        Its floating and complex leaves are checked, under the keys of their path joined by ".". All others are passed
        on and named in a note. A complex leaf is checked as its real and imaginary parts, in a last axis of 2.
    gradients : callable or pytree, optional
        ``gradients(params, *args)``, or its value, of the structure of ``params`` and in the convention of `jax.grad`:
        the gradient with respect to x + iy is d/dx - i d/dy.
    args : tuple
        Extra positional arguments of both functions.
    tensors, samples, probes, step, rtol, atol, seed, progress
        As in `fastgc.check_gradients`.
    precision : {"double", "native"}
        Evaluate at float64 copies of params and of floating arrays in args, with ``jax_enable_x64`` switched on while
        the check runs; or in their own dtypes, as JAX is configured.

    Returns
    -------
    GradientReport
        ``engine`` names the backend, and "vmap" if values were computed in blocks.

    Raises
    ------
    TypeError, ValueError
        For arguments that make no sense, a loss that is not one finite real number, and gradients of another structure
        or shape. Exceptions of the functions pass through, except at displaced points, as in
        `fastgc.check_gradients`.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, fastgc
    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["W"] + params["b"]) ** 2)
    >>> params, x = {"W": np.ones((2, 3)), "b": np.zeros(3)}, np.array([[0.5, -0.25]])
    >>> fastgc.jax.check_gradients(loss, params, args=(x,)).verdict
    'pass'
    >>> wrong = {"W": np.ones((2, 3)), "b": np.zeros(3)}
    >>> fastgc.jax.check_gradients(loss, params, wrong, args=(x,)).verdict
    'fail'
    """
    options = CheckOptions(tensors=tensors, samples=samples, probes=probes, step=step, rtol=rtol, atol=atol,
                           precision=precision, crosscheck=False, seed=seed, progress=progress)  # fmt: skip
    refuse_args(args)
    with in_precision(precision) as notes, noted_as_double(precision):
        tree = flatten(params, "", precision)
        args = jax.tree_util.tree_map(_leaf_in_double, args) if precision == "double" else args

        def value(leaves: Leaves) -> Any:
            return loss(tree.rebuild(leaves), *args)

        def analytic(leaves: Leaves) -> list[Any]:
            if gradients is None:
                return list(compiled(jax.grad(lambda each: _scalar(value(each))), leaves)[0](leaves))
            found = gradients(tree.rebuild(leaves), *args) if callable(gradients) else gradients
            return tree.matching(found)

        asked = gradients is None or callable(gradients)
        return report_on(value, analytic, tree.names, tree.arrays, options, [*notes, *tree.notes], asked=asked)


def report_on(
    loss: LossOfLeaves,
    analytic: Callable[[Leaves], Sequence[Any]],
    names: Sequence[str],
    arrays: Sequence[Array],
    options: CheckOptions,
    notes: Sequence[str] = (),
    *,
    asked: bool = True,
) -> GradientReport:
    """The check of a real loss of real arrays, which are displaced in place and restored.

    ``asked`` says whether the analytic gradient is computed for the leaves that it is asked for.
    """
    begin = time.perf_counter()
    layout = named_layout(names, [array.shape for array in arrays], [array.dtype for array in arrays])
    refuse_nonfinite(layout, arrays)
    selection = options.selected(layout)
    evaluator = JaxEvaluator(loss, layout, arrays)
    base, again = evaluator.base, evaluator.value()
    if not np.isfinite(base):
        raise NotFiniteError(f"loss is {base} at params; a gradient can be checked only where the loss is finite")
    noisy = [f"loss is noisy: a repeated call gave {again!r}, not {base!r} (random numbers? pass a fixed key)"]
    noisy = noisy if again != base else []

    def matched(leaves: Leaves) -> list[Array]:
        return match_gradients(layout, dict(zip(names, map(np.asarray, analytic(leaves)), strict=True)), copy=True)

    check = PointCheck(
        options, selection, evaluator, arrays, matched(arrays), base, [*notes, *noisy],
        displaced=(lambda rays: matched(displaced_leaves(arrays, rays))) if asked else None,
    )  # fmt: skip
    with Progress(selection.entries, shown=options.progress) as bar:
        result = examine_noisy(check, bar) if noisy else examine(check, bar)
    return summarise(selection, [result], options.seed, time.perf_counter() - begin)


# --- pytrees ---


@dataclass(frozen=True)
class Tree:
    """A pytree, its checked leaves as real arrays, and the way back.

    Attributes
    ----------
    given : all leaves
    checked : the numbers of the checked leaves
    names, arrays : of the checked leaves; complex ones as real and imaginary parts in a last axis
    others : the names of the leaves that are not checked
    """

    structure: Any
    given: tuple[Any, ...]
    checked: tuple[int, ...]
    names: tuple[str, ...]
    arrays: tuple[Array, ...]
    others: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """A note on the leaves that are not checked."""
        return [f"not checked, since neither floating nor complex: {listed(self.others)}"] if self.others else []

    def rebuild(self, leaves: Leaves) -> Any:
        """The caller's structure with these arrays in place of the checked leaves."""
        every = list(self.given)
        for i, leaf in zip(self.checked, leaves, strict=True):
            every[i] = jax.lax.complex(leaf[..., 0], leaf[..., 1]) if _is_complex(self.given[i]) else leaf
        return jax.tree_util.tree_unflatten(self.structure, every)

    def matching(self, gradients: Any) -> list[Array]:
        """The checked leaves of a gradient of the same structure; JAX's gradient of x + iy is d/dx - i d/dy."""
        leaves, structure = jax.tree_util.tree_flatten(gradients)
        if structure != self.structure:
            raise ValueError(f"gradients has the structure {structure}; params has {self.structure}")
        pairs = [(np.asarray(leaves[i]), self.given[i]) for i in self.checked]
        return [_parts(np.conj(leaf + 0j)) if _is_complex(given) else leaf for leaf, given in pairs]


def flatten(value: Any, prefix: str, precision: str) -> Tree:
    """The `Tree` of a pytree; its names begin with the prefix."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(value)
    given = tuple(leaf for _, leaf in pairs)
    checked = tuple(i for i, leaf in enumerate(given) if jnp.issubdtype(_dtype(leaf), jnp.inexact))
    if not checked:
        raise ValueError(f"{prefix or 'params'} holds no floating array: nothing to check")
    every = [".".join(filter(None, [prefix, *map(_key, path)])) or "params" for path, _ in pairs]
    names = tuple(every[i] for i in checked)
    arrays = tuple(_array(name, given[i], precision) for name, i in zip(names, checked, strict=True))
    others = tuple(name for i, name in enumerate(every) if i not in checked)
    return Tree(structure, given, checked, names, arrays, others)


def _key(key: Any) -> str:
    """A dict's key, a sequence's index, an attribute's name."""
    return str(next((getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)), key))


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _is_complex(leaf: Any) -> bool:
    return bool(jnp.issubdtype(_dtype(leaf), jnp.complexfloating))


def _array(name: str, leaf: Any, precision: str) -> Array:
    """A real, writable copy of a leaf, in double precision or in the dtype that JAX gives it."""
    array = _parts(np.asarray(leaf)) if _is_complex(leaf) else np.asarray(leaf)
    dtype = np.dtype(np.float64) if precision == "double" else jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype not in FLOATS:
        raise TypeError(f'{name!r} is of {dtype}, which NumPy does not know; use precision="double"')
    return np.array(array, dtype=dtype, order="C")


def _parts(array: Array) -> Array:
    return np.stack([array.real, array.imag], axis=-1)


def _leaf_in_double(leaf: Any) -> Any:
    """A floating or complex array in double precision, anything else as it is."""
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return jnp.asarray(leaf, jnp.complex128 if _is_complex(leaf) else jnp.float64)


def _scalar(value: Any) -> Any:
    return value.reshape(()) if hasattr(value, "reshape") and value.size == 1 else value


# --- precision ---


@contextlib.contextmanager
def in_precision(precision: str) -> Iterator[list[str]]:
    """Switch on float64 while the check runs, if it is needed and off; yields notes that say so."""
    off = not jax.config.jax_enable_x64
    if precision == "native":
        yield ["jax_enable_x64 is off: the loss runs in float32, whose round-off hides small errors"] if off else []
        return
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable_x64(True):
        yield ["jax_enable_x64 is off: switched on while this check runs"] if off else []


def noted_as_double(precision: str) -> contextlib.AbstractContextManager[None]:
    """Add to an exception about dtypes that the function runs in float64."""
    if precision == "native":
        return contextlib.nullcontext()
    return noted(TypeError, _ABOUT_DTYPES, "fastgc evaluates the function in float64")
