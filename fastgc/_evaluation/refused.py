"""Why a jitted function does not take what it is given, in a few lines: which argument, and what to type."""

from __future__ import annotations

import contextlib
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastgc._arguments import listed, misplaced

_QUOTED = 2  # lines of Numba's message: the first ones name the cause, the others list what the compiler tried
_LONGEST = 200  # characters of a line of it: types of many arrays are long
# Lines of Numba's message that say nothing of the user's function.
_NOISE = re.compile(
    r"(Failed in \w+ mode pipeline|During: |There are \d+ candidate|-? ?Of which|Overload (of|in) |<source elided>|"
    r"Enable logging|This error may|To find out|Known signatures|This is often caused|\^)"
)
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
# What Numba's dispatchers say, in plain TypeErrors, before they compile anything.
_DISPATCHER = ("not enough arguments", "too many arguments", "missing argument", "No matching definition")
# Packages whose objects Numba does not know, and what to pass.
_REMEDIES = {
    "scipy": "pass its arrays data, indices and indptr",
    "pandas": "pass its .to_numpy()",
    "polars": "pass its .to_numpy()",
    "torch": "pass its .numpy(), or use fastgc.torch",
    "jaxlib": "pass np.asarray of it, or use fastgc.jax",
}
_PLAIN = "or check its py_func, the plain Python function"


class NotCompiledError(TypeError):
    """Numba does not compile a function for what it is given.

    Attributes
    ----------
    cause : what Numba says, where the form of the parameters may be all that is in the way; else ""
    """

    cause = ""


def is_numbas(error: Exception) -> bool:
    """Whether an exception is one of Numba's compiler, or what a dispatcher says before it compiles."""
    return from_compiler(error) or (type(error) is TypeError and str(error).startswith(_DISPATCHER))


def from_compiler(error: Exception) -> bool:
    """Whether Numba's compiler raised an exception: one of its own, or an AttributeError out of its modules."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return type(error).__module__.startswith("numba.") or (bool(frames) and frames[-1].startswith("numba.core."))


@contextlib.contextmanager
def explained(what: str, function: Any, arguments: tuple[object, ...]) -> Iterator[None]:
    """Replace an exception of Numba's compiler by one that names the argument in the way and the remedy."""
    try:
        yield
    except Exception as error:
        origin = error.__cause__ if isinstance(error.__cause__, Exception) else error
        if not is_numbas(origin):
            raise
        raise _explanation(what, function, arguments, origin) from origin


def _explanation(what: str, function: Any, arguments: tuple[object, ...], error: Exception) -> NotCompiledError:
    unknown = _unknown(arguments[1:])
    said = misplaced(what, function, arguments, "numba.njit({})") or "\n".join(unknown)
    if said:
        return NotCompiledError(said if not unknown else f"{said}\n{_PLAIN}")
    if function.nopython_signatures and not function._can_compile:
        return NotCompiledError(_signed(what, function, arguments))
    found = NotCompiledError(f"Numba cannot compile the {what}: {cause(error)}\n{_form(arguments[0])}")
    found.cause = cause(error)
    return found


def _unknown(args: Sequence[object]) -> list[str]:
    """The arguments whose type Numba does not know, and what to pass for each."""
    found = []
    for number, each in enumerate(args):
        if not _has_type(each):
            kind = type(each)
            package = kind.__module__.partition(".")[0]
            remedy = "pass its arrays one by one, or a numba.typed.Dict" if isinstance(each, dict) else ""
            remedy = remedy or _REMEDIES.get(package, "pass arrays, numbers and tuples")
            found.append(f"args[{number}] is a {kind.__name__}, which Numba does not take: {remedy}")
    return found


def _has_type(value: object) -> bool:
    import numba

    try:
        return bool(numba.typeof(value) != numba.types.pyobject)
    except Exception:
        return False


def _signed(what: str, function: Any, arguments: Sequence[object]) -> str:
    """That the function is compiled for other types, which it receives in single precision only where that is asked."""
    import numba

    compiled = [str(each.args if len(each.args) > 1 else each.args[0]) for each in function.nopython_signatures]
    received = ", ".join(str(numba.typeof(each)) for each in arguments)
    return (
        f"{what} is compiled for {listed(compiled, quote=False)}, and receives {received}: float64 copies of params "
        'and args. Pass precision="native" for the arrays as they are, or compile it without a signature, by numba.njit'
    )


def cause(error: Exception) -> str:
    """The lines of Numba's message that name the cause, and the user's line that they are about."""
    before = str(error).partition('File "')[0]
    lines = [line.strip() for line in before.splitlines()]
    telling = [line[:_LONGEST] for line in lines if line and not _NOISE.match(line)]
    return "\n  ".join([*telling[:_QUOTED], *_place(str(error))])


def _place(text: str) -> Iterator[str]:
    """The first line of a file of the user's that Numba's message names."""
    places = [place for place in _PLACE.findall(text) if "/numba/" not in place[0]]
    if places:
        path, number = places[0]
        source = linecache.getline(path, int(number)).strip()
        yield f"line {number} of {path.rpartition('/')[2]}" + (f": {source[:_LONGEST]}" if source else "")


def _form(params: object) -> str:
    """What the function receives for the parameters, and what to do about it."""
    if hasattr(params, "keys"):
        receives = "params is a record there, indexed by literal names: params['W1']"
    elif isinstance(params, tuple):
        receives = "params is a tuple there, indexed by literal numbers where arrays differ in dimensions or dtype"
    else:
        receives = "params is an array there"
    return f'{receives}. Make it nopython code, or use engine="python" with a plain Python function (its py_func)'


def plain_value(function: Callable[..., object], params: object, args: tuple[object, ...]) -> bool:
    """Whether the plain Python function has a value there."""
    try:
        function(params, *args)
    except Exception:
        return False
    return True
