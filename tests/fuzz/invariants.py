"""What must hold after every call: the invariants that `.github/CONTRIBUTING.md` states."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import re
import signal
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import fastgc
from tests.fuzz.jitted import parallel
from tests.fuzz.program import Program

PACKAGE = str(Path(fastgc.__file__).parent)
# What a refusal names: a parameter, or the function whose result it refuses.
PARAMETERS = re.compile(
    r"\b(loss|gradients?|params|args|tensors|samples|probes|stencil|step|rtol|atol|precision|engine|threads|workers|"
    r"vectorized|points|bounds|symmetric|in_place|crosscheck|time_budget|seed|progress|previous|checkpoint|f|x|grad|"
    r"columns|sparsity|jacobian|hessian|hvp|jvp|vjp|direction|steps|h|parameters|fun|jac|hess|hessp|x0|constraints|func|"
    r"inputs?|module|kwargs|eps|nondet_tol|grad_outputs|argument|every|share|raises|stencils|derivative|masked|check_\w+|outputs?)\b"
)
KEPT = re.compile("ExecutorManagerThread|QueueFeederThread|QueueManagerThread")  # of idle processes, for the next check
TORCHS = (RuntimeError, NotImplementedError, AssertionError)  # the refusals of the functions that ours stand in for
# The caller's functions: of the program, of the module of jitted ones, and of those that cloudpickle has made anew.
CALLERS = {"<fuzzed>", "<dynamic-code>", str(Path(__file__).with_name("jitted.py"))}


class Violation(AssertionError):
    """An invariant does not hold."""


def warm_up() -> None:
    """Import what checks import on first use: some of these libraries add filters of warnings."""
    report = fastgc.check_gradients(lambda x: x @ x, lambda x: 2 * x, np.ones(2), engine="numba")
    report.to_html()
    fastgc.numerical_jacobian(np.sin, np.ones(2))
    for name in (
        "pandas",
        "torch",
        "torch._dynamo",
        "torch._decomp.decompositions_for_jvp",
        "jax",
        "fastgc.torch",
        "fastgc.jax",
    ):
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    parallel(np.ones(3))  # at its first loop in parallel Numba sets the threads of OpenMP, those of PyTorch too
    process_state()  # PyTorch sets its threads when it is first asked for their number


def outcome(program: Program) -> str:
    """Run a program, and say how it ended.

    Raises
    ------
    Violation
        Naming the invariant that does not hold.
    """
    space: dict[str, Any] = {"__name__": "fuzzed"}
    with np.errstate(), warnings.catch_warnings():
        try:
            exec(compile(program.text, "<fuzzed>", "exec"), space)
        except Exception as error:  # NumPy cannot make such an array
            return f"not a program: {type(error).__name__}"
        return _called(program, space)


def _called(program: Program, space: dict[str, Any]) -> str:
    arrays = {name: space[name] for name in space if re.fullmatch(r"a\d", name)}
    kept, state = {name: _bits(each) for name, each in arrays.items()}, process_state()
    try:
        result, error = space["call"](), None
    except BaseException as raised:
        result, error = None, raised
    changed = [name for name, each in arrays.items() if _bits(each) != kept[name]]
    changed = [name for name in changed if not (name == "a1" and "scratching" in program.text)]
    if changed and not re.search(r"fill_?\(7", "\n".join(program.lines)):
        raise Violation(f"the caller's arrays were changed: {changed}")
    _compare_states(state, process_state(), program)
    if error is not None:
        return _judged_error(program, error)
    return _judged_result(program, result, space)


def _bits(value: Any) -> Any:
    if isinstance(value, dict):  # the state of a module
        return {name: _bits(each) for name, each in value.items()}
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        data = "" if "uninitialized" in repr(type(value)).lower() else repr(value.detach())
        return type(value), value.dtype, value.requires_grad, value.grad is None, data
    if isinstance(value, np.ndarray):
        array = np.asarray(value)
        return array.dtype, array.shape, repr(array) if array.dtype.hasobject else array.tobytes()
    with np.errstate(all="ignore"), warnings.catch_warnings():  # to show a series of float16 may overflow
        warnings.simplefilter("ignore")
        return repr(value)


# --- 1: the process ---


def process_state() -> dict[str, Any]:
    """What belongs to the process or to the caller's thread, and a check must leave as it was."""
    state = {
        "np.random": repr(tuple(np.ravel(each).tolist() for each in np.random.get_state())),  # noqa: NPY002
        "random": random.getstate(),
        "errstate": (np.geterr(), np.geterrcall()),
        "warning filters": list(warnings.filters),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "signal handlers": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "sys.path": list(sys.path),
        "threads": sorted(each.name for each in threading.enumerate() if not KEPT.match(each.name)),
        "tracing of memory": tracemalloc.is_tracing(),
        "garbage collection": gc.isenabled(),
        "recursion limit": sys.getrecursionlimit(),
        "print options": np.get_printoptions(),
    }
    for each in threadpoolctl.threadpool_info():
        state[f"threads of {each['filepath']}"] = each["num_threads"]
    if "numba" in sys.modules:
        import numba

        state["Numba's threads"] = numba.get_num_threads()
    if "torch" in sys.modules:
        import torch

        state["torch"] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
        state["torch's threads"] = torch.get_num_threads()
        state["torch's generator"] = torch.get_rng_state().numpy().tobytes()
    if "jax" in sys.modules:
        import jax

        state["JAX's x64"] = jax.config.read("jax_enable_x64")
    return state


def _compare_states(before: dict[str, Any], after: dict[str, Any], program: Program) -> None:
    own = {"np.random"} if program.draws or "np.random.normal()" in program.text else set()
    own |= {"torch's generator"} if re.search(r"torch\.rand|manual_seed\(0|Dropout", program.text) else set()
    own |= {"warning filters"} if "simplefilter" in program.text else set()
    own |= (
        {"errstate"} if "seterr" in program.text and program.door in ("minimize", "checked") else set()
    )  # as SciPy calls them
    own |= {"errstate"} if re.search(r"seterr.*\n(.*\n)*call = .*gradients\(params", program.text) else set()
    changed = [name for name in before if name in after and name not in own and before[name] != after[name]]
    if changed:
        found = {name: f"{before[name]!r:.60} -> {after[name]!r:.60}" for name in changed}
        raise Violation(f"the state of the process was changed: {found}")


# --- 5: refusals ---


def _judged_error(program: Program, error: BaseException) -> str:
    if isinstance(error, fastgc.Interrupted):
        _shown(error.report)
        return "interrupted"
    if type(error).__name__ == "GradcheckError":
        return "mismatch"
    if isinstance(error, (fastgc.GradientMismatch, fastgc.JacobianMismatch)) and isinstance(
        error.report, fastgc.Report
    ):
        _shown(error.report)
        return "mismatch"
    files = [each.f_code.co_filename for each in _frames(error) if each.f_code.co_name != "__torch_function__"]
    if files[-1] in CALLERS or (not files[-1].startswith(PACKAGE) and _is_theirs(files)):
        return "raised by the caller's function"
    if isinstance(error, TORCHS[:1]) and program.door.endswith("gradcheck"):  # as PyTorch's own
        return "refused"
    if isinstance(error, UserWarning) and "requires gradient" in str(error):  # as PyTorch's own
        return "a warning"
    if isinstance(error, OSError) and "checkpoint" in program.text:
        return "refused"
    expected = (TypeError, ValueError, *(TORCHS if program.door.endswith("gradcheck") else ()))
    if not (isinstance(error, expected) and files[-1].startswith(PACKAGE)):
        raise Violation(f"a raw error out of our frames: {type(error).__name__}: {error}") from error
    if re.search(r"takes \d+ positional arguments? but", str(error)):  # args that the caller's function does not take
        return "raised by the caller's function"
    if not PARAMETERS.search(str(error)):
        raise Violation(f"a refusal names no parameter: {error}") from error
    return "refused"


def _frames(error: BaseException) -> Iterator[Any]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_theirs(files: list[str]) -> bool:
    """Whether the last frame of the caller's comes after the last of ours: a library raised for them.

    PyTorch runs the caller's module and backward without a frame of theirs.
    """
    if any(re.search(r"torch/(nn/modules/module|autograd/graph)\.py", file) for file in files):
        return True
    ours = max((i for i, file in enumerate(files) if file.startswith(PACKAGE)), default=-1)
    return bool(CALLERS & set(files[ours + 1 :]))


# --- 2, 3 and 4: results ---


def _judged_result(program: Program, result: Any, space: dict[str, Any]) -> str:
    if not isinstance(result, fastgc.Report):
        try:
            repr(result), str(result)
        except Exception as error:
            raise Violation(f"a result cannot be shown: {error}") from error
        return "a value"
    _shown(result)
    if result.verdict == "pass":
        _refuse_unmeasured(program, result)
    if program.good and (program.seed % 4 == 0 or len(program.twins) > 1) and not program.draws:
        _repeated(program, result, space)
    if program.good and (found := _misjudged(program, result)):
        raise Violation(found)
    return str(result.verdict)


def _shown(report: Any) -> None:
    """Text, page and JSON can be made, and the JSON is strict."""

    def refuse(word: str) -> None:
        raise Violation(f"JSON holds {word}")

    try:
        str(report), repr(report), report.to_markdown(), report._repr_html_()
        json.loads(report.to_json(), parse_constant=refuse)
        report.to_html().encode("utf-8")
    except Exception as error:
        raise Violation(f"a report cannot be shown: {error}") from error


def _refuse_unmeasured(program: Program, report: Any) -> None:
    if program.poisoned and program.door in ("check_gradients", "assert_gradients"):
        sizes = [tensor.size for tensor in report.tensors.values()]
        if any(sizes) and "gradients, params" in program.lines[-1]:
            raise Violation("a gradient that is not a number passes")
    for name, tensor in getattr(report, "tensors", {}).items():
        if tensor.size and not tensor.checked and tensor.probe is None and "tensors=" not in program.text:
            raise Violation(f"{name!r} passes and was not measured")


def _repeated(program: Program, report: Any, space: dict[str, Any]) -> None:
    """The same report again, and with other numbers of threads and workers."""
    for twin in program.twins:
        space.get("renew", int)()
        with contextlib.suppress(fastgc.GradientMismatch):
            again = space["call"](**eval(f"dict({twin})", space))
            left_out = {"seconds", "engine"} | ({"evaluations"} if "workers" in twin else set())  # some try the workers
            first, second = ({**each.to_dict(), **dict.fromkeys(left_out)} for each in (report, again))
            if repr(first) != repr(second):
                raise Violation(f"the same seed gives another report{f' with {twin}' if twin else ''}")


def _misjudged(program: Program, report: Any) -> str:
    sizes = [tensor.size for tensor in report.tensors.values()]
    if program.wrong and report.verdict == "pass" and any(sizes):
        return "a gradient wrong by a factor passes"
    if not program.wrong and report.verdict == "fail":
        return "a right gradient fails"
    return ""
