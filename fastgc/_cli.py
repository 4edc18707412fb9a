"""The command line: ``fastgc demo`` and ``fastgc check FILE.py:problem``. The only module that prints."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import fastgc
from fastgc._words import Engine, Precision, StencilName, Verdict

EXIT: dict[Verdict, int] = {"pass": 0, "fail": 1, "undecided": 3}
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130  # of argparse for wrong usage; of shells after Ctrl-C: 128 + SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 for a pass, 1 for a failure, 3 for undecided (0 with ``--allow-undecided``), 2 for every exception and for wrong
    usage, 130 after Ctrl-C. ``demo`` returns 0 when it found exactly what it planted.
    """
    try:
        chosen = vars(_parser().parse_args(arguments))
    except SystemExit as error:  # raised by argparse: 0 for --help, 2 for wrong usage
        return error.code if isinstance(error.code, int) else EXIT_ERROR
    try:
        return int(chosen.pop("run")(chosen))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (Exception, SystemExit) as error:  # a problem that calls sys.exit has not passed
        if not isinstance(error, (TypeError, ValueError, OSError, ImportError)):
            traceback.print_exc()
        print(f"fastgc: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastgc", description="Check hand-written gradients against numerical ones.")
    parser.add_argument("--version", action="version", version=f"fastgc {fastgc.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="find two planted bugs, in a small net and in one of 7,510 parameters")
    demo.set_defaults(run=_demo_command)
    check = commands.add_parser("check", help="check the gradient of a problem of your own")
    _add_check_options(check)
    check.set_defaults(run=_check_command)
    return parser


def _add_check_options(check: argparse.ArgumentParser) -> None:
    """Add options that mirror the keywords of `fastgc.check_gradients`. An omitted option keeps its default there.

    Keywords that take arrays (``args``, ``previous``) are part of the problem.
    """
    check.add_argument("problem", help="FILE.py:NAME or PACKAGE.MODULE:NAME, where NAME is (a function that returns) "
                       "(loss, gradients, params) or a dict of check_gradients' arguments")  # fmt: skip
    options = check.add_argument_group("options of check_gradients", argument_default=argparse.SUPPRESS)
    options.add_argument("--tensors", nargs="+", metavar="PATTERN")
    options.add_argument(
        "--symmetric", nargs="+", metavar="PATTERN", help="tensors whose mirrored entries move together"
    )
    options.add_argument("--samples", nargs="+", metavar="N", help='a number, "all", or PATTERN=N ...')
    options.add_argument("--stencil", choices=get_args(StencilName))
    for name in ("step", "rtol", "atol", "time-budget"):
        options.add_argument(f"--{name}", type=float)
    options.add_argument("--precision", choices=get_args(Precision))
    options.add_argument("--engine", choices=get_args(Engine))
    for name in ("probes", "threads", "workers", "points", "seed"):
        options.add_argument(f"--{name}", type=int)
    options.add_argument("--vectorized", action="store_true")
    options.add_argument("--in-place", action="store_true")
    options.add_argument("--no-crosscheck", dest="crosscheck", action="store_false")
    options.add_argument("--progress", action="store_true")
    check.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    check.add_argument("--allow-undecided", action="store_true", help="exit with 0 if the verdict is undecided, too")


# --- check ---


def _check_command(chosen: dict[str, Any]) -> int:
    path, allow_undecided = chosen.pop("json"), chosen.pop("allow_undecided")
    folders = list(sys.path)
    try:
        arguments = _problem(chosen.pop("problem"))
        if "samples" in chosen:
            chosen["samples"] = _samples(chosen["samples"])
        report = fastgc.check_gradients(**(arguments | chosen))
    finally:
        sys.path[:] = folders
    print(report)
    if path is not None:
        report.to_json(path)
    return 0 if allow_undecided and report.verdict == "undecided" else EXIT[report.verdict]


def _problem(target: str) -> dict[str, Any]:
    """The arguments of check_gradients that ``FILE.py:NAME`` or ``MODULE:NAME`` stands for."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"{target!r} does not name a problem; expected FILE.py:NAME or PACKAGE.MODULE:NAME")
    module = _imported(place)
    if not hasattr(module, name):
        raise ValueError(f"{place} has no {name!r}; expected the name of a problem in that module")
    problem = getattr(module, name)
    problem = problem() if callable(problem) else problem
    if isinstance(problem, Mapping):
        return dict(problem)
    if isinstance(problem, tuple) and len(problem) == 3:
        return dict(zip(("loss", "gradients", "params"), problem, strict=True))
    raise TypeError(
        f"{target} gave a {type(problem).__name__}; it must give (loss, gradients, params) or a dict of arguments"
    )


def _imported(place: str) -> Any:
    if not place.endswith(".py"):
        sys.path.append(str(Path.cwd()))
        return importlib.import_module(place)
    path = Path(place).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"_fastgc_problem_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _samples(words: Sequence[str]) -> Any:
    if len(words) == 1 and "=" not in words[0]:
        return _sample_number(words[0])
    pairs = [word.rpartition("=") for word in words]
    if not all(equals and pattern for pattern, equals, _ in pairs):
        raise ValueError(f'--samples {" ".join(words)}: expected one number, "all", or only words PATTERN=N')
    return {pattern: _sample_number(count) for pattern, _, count in pairs}


def _sample_number(word: str) -> int | str:
    return int(word) if word.lstrip("-").isdigit() else word


# --- demo ---


def _demo_command(chosen: dict[str, Any]) -> int:
    found = [*_bug_hunt(), *_digits()]
    print("\nfound exactly what was planted" if all(found) else "\nNOT what was planted")
    return 0 if all(found) else EXIT["fail"]


def _bug_hunt() -> list[bool]:
    from fastgc import _demo

    problem = _demo.bug_hunt()
    # The textbook's step, near the best of a central difference in float64, cbrt(3 eps) = 9e-6 for entries of order 1.
    options: dict[str, Any] = {"args": problem.args, "samples": "all", "step": 1e-5}
    print("1. A net of 83 parameters; the gradient of W1 is doubled:\n")
    wrong = fastgc.check_gradients(problem.loss, _demo.doubled(problem.gradients, "W1"), problem.params, **options)
    print(f"{wrong}\n\n   The bug removed:\n")
    right = fastgc.check_gradients(problem.loss, problem.gradients, problem.params, **options)
    print(right)
    diagnosis = wrong.tensors["W1"].diagnosis
    doubled = diagnosis is not None and diagnosis.factor is not None and round(diagnosis.factor, 6) == 2
    return [_failing(wrong) == ["W1"], doubled, right.passed]


def _digits() -> list[bool]:
    from fastgc import _demo
    from fastgc._evaluation.engine import jitted

    problem = _demo.digits_network()
    begin = time.perf_counter()
    loss = jitted(_demo.digits_loss)
    options: dict[str, Any] = {"args": problem.args, "samples": "all", "engine": "numba", "progress": True}
    print("\n2. A 64-100-10 network with weight decay on 100 handwritten digits, every entry, compiled:\n")
    right = fastgc.check_gradients(loss, problem.gradients, problem.params, **options)
    print(f"{right}\n\n   The weight-decay term of W2 forgotten:\n")
    wrong = fastgc.check_gradients(loss, _demo.without_decay(problem.gradients, "W2"), problem.params, **options)
    print(f"{wrong}\n\n   {time.perf_counter() - begin:.1f} s, compilation included")
    return [right.passed, _failing(wrong) == ["W2"]]


def _failing(report: fastgc.GradientReport) -> list[str]:
    return [name for name, tensor in report.tensors.items() if tensor.verdict != "pass"]
