"""The command line: ``fastgc demo``, ``check FILE.py:problem``, ``show REPORT.json``. The only module that prints."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, TypeAlias, get_args

import fastgc
from fastgc._frames import users_frames
from fastgc._words import Engine, Precision, StencilName, Verdict

Chosen: TypeAlias = dict[str, Any]  # options of the command line, or arguments of check_gradients
AnyReport: TypeAlias = "fastgc.GradientReport | fastgc.JacobianReport | fastgc.ProblemReport"
EXIT: dict[Verdict, int] = {"pass": 0, "fail": 1, "undecided": 3}
_FORMATS = ("text", "json", "markdown", "github", "junit")
_COLOURS = {"fail": "1;31", "pass": "32", "undecided": "33"}  # of ANSI terminals: bold red, green, yellow
# Verdicts at the start of a report and at the end of a row: in no name, because columns are two spaces apart.
_VERDICT_WORDS = re.compile(r"^(PASS|FAIL|UNDECIDED)(?=  )|(?<=  )(pass|FAIL|undecided)(?=  |$)", re.MULTILINE)
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130  # of argparse for wrong usage; of shells after Ctrl-C: 128 + SIGINT
_EXITS = "Exits with 0 for a pass, 1 for a failure, 3 for undecided, 2 for an error, 130 after Ctrl-C."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 for a pass, 1 for a failure, 3 for undecided (0 with ``--allow-undecided``), 2 for every exception and for wrong
    usage, 130 after Ctrl-C or SIGTERM, with the report so far. ``demo`` returns 0 when it found just what it planted.
    """
    try:
        chosen = vars(_parser().parse_args(arguments))
    except SystemExit as error:  # raised by argparse: 0 for --help, 2 for wrong usage
        return error.code if isinstance(error.code, int) else EXIT_ERROR
    try:
        with _terminable():
            return int(chosen.pop("run")(chosen))
    except KeyboardInterrupt:
        _print("interrupted", sys.stderr)
        return EXIT_INTERRUPTED
    except (Exception, SystemExit) as error:  # a problem that calls sys.exit has not passed
        frames = users_frames(error.__traceback__)
        if frames is not None:
            traceback.print_exception(error.with_traceback(frames))
        _print(f"fastgc: {type(error).__name__}: {_harmless(str(error))}", sys.stderr)
        return EXIT_ERROR


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, as far as Python lets us: in the main thread, where Ctrl-C does something."""
    there = threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT))
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT)) if there else None
    try:
        yield
    finally:
        if there:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastgc", description="Check hand-written gradients against numerical ones.")
    parser.add_argument("--version", action="version", version=f"fastgc {fastgc.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="find two planted bugs, in a small net and in one of 7,510 parameters")
    demo.set_defaults(run=_demo_command)
    check = commands.add_parser("check", help="check the gradients of problems of your own", epilog=_EXITS)
    _add_check_options(check)
    check.set_defaults(run=_check_command)
    show = commands.add_parser("show", help="show a report that was saved as JSON", epilog=_EXITS)
    show.add_argument("report", type=Path, metavar="REPORT.json", help="a file that --json wrote")
    _add_outputs(show)
    show.set_defaults(run=_show_command)
    return parser


def _add_outputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--html", type=Path, metavar="FILE", help="also write the report as a page")
    command.add_argument("--format", choices=_FORMATS, default="text", help="of what is printed; the default: text")
    command.add_argument("--allow-undecided", action="store_true", help="exit with 0 if the verdict is undecided, too")


_NUMBERS: dict[str, tuple[type[int] | type[float], str]] = {
    "step": (float, "the step of all entries; the default: one chosen for each"),
    "rtol": (float, "relative tolerance; the default: 1e-5 for a float64 gradient, 1e-3 for float32"),
    "atol": (float, "absolute tolerance; the default: 1e-5 times rtol times the scale of the tensor"),
    "time-budget": (float, "seconds, after which what was not reached is undecided"),
    "probes": (int, "random directions that cover all entries of each tensor; the default: 3"),
    "threads": (int, "of the compiled engine; the default: Numba's"),
    "workers": (int, "processes for a plain Python loss, -1 for all cores; the default: 1"),
    "points": (int, "points checked, random ones around the first; the default: 1"),
    "seed": (int, "of all random choices; the default: 0"),
}


def _add_check_options(check: argparse.ArgumentParser) -> None:
    """Add options that mirror the keywords of `fastgc.check_gradients`. An omitted option keeps its default there.

    Keywords that take arrays (``args``, ``previous``) are part of the problem.
    """
    check.add_argument("problem", nargs="+",
                       help="FILE.py:NAME or PACKAGE.MODULE:NAME, where NAME is (a function that returns) "
                       "(loss, gradients, params) or a dict of check_gradients' arguments")  # fmt: skip
    options = check.add_argument_group("options of check_gradients", argument_default=argparse.SUPPRESS)
    options.add_argument("--tensors", nargs="+", metavar="PATTERN", help="those to check; the default: all")
    options.add_argument(
        "--symmetric", nargs="+", metavar="PATTERN", help="tensors whose mirrored entries move together"
    )
    options.add_argument(
        "--samples", nargs="+", metavar="N", help='entries of each tensor to check: a number, "all", or PATTERN=N ...'
    )
    options.add_argument("--stencil", choices=get_args(StencilName), help="the difference formula")
    options.add_argument("--precision", choices=get_args(Precision), help="in which the loss is evaluated")
    options.add_argument("--engine", choices=get_args(Engine), help="what runs the loss")
    for name, (kind, text) in _NUMBERS.items():
        options.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=text)
    options.add_argument("--checkpoint", metavar="FILE", help="keep loss values there, to go on from")
    options.add_argument("--vectorized", action="store_true", help="the loss takes a batch of parameters at once")
    options.add_argument("--in-place", action="store_true", help="displace the problem's own arrays, and restore them")
    options.add_argument(
        "--no-crosscheck", dest="crosscheck", action="store_false", help="leave out SciPy's check_grad"
    )
    options.add_argument("--progress", action="store_true", help="show a bar")
    check.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    _add_outputs(check)


# --- check ---


def _check_command(chosen: Chosen) -> int:
    outputs = {key: chosen.pop(key) for key in ("json", "html", "format", "allow_undecided")}
    problems = list(dict.fromkeys(chosen.pop("problem")))
    if len(problems) > 1 and (outputs["json"] or outputs["html"]):
        raise ValueError(f"--json and --html take one problem; got {len(problems)}")
    if "samples" in chosen:
        chosen["samples"] = _samples(chosen["samples"])
    reports: dict[str, AnyReport] = {}
    for problem in problems:
        try:
            reports[problem] = _checked(problem, chosen)
        except fastgc.Interrupted as interrupted:
            _finish(reports | {problem: interrupted.report}, **outputs)
            raise
    return _finish(reports, **outputs)


def _checked(problem: str, chosen: Chosen) -> fastgc.GradientReport:
    folders = list(sys.path)
    try:
        return fastgc.check_gradients(**(_problem(problem) | chosen))
    finally:
        sys.path[:] = folders


def _problem(target: str) -> Chosen:
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


def _imported(place: str) -> ModuleType:
    if not place.endswith(".py"):
        sys.path.append(str(Path.cwd()))
        if importlib.util.find_spec(place.partition(".")[0]) is None:
            raise ModuleNotFoundError(f"there is no module {place.partition('.')[0]!r}; a file is named FILE.py:NAME")
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


def _samples(words: Sequence[str]) -> int | str | dict[str, int | str]:
    if len(words) == 1 and "=" not in words[0]:
        return _sample_number(words[0])
    pairs = [word.rpartition("=") for word in words]
    if not all(equals and pattern for pattern, equals, _ in pairs):
        raise ValueError(f'--samples {" ".join(words)}: expected one number, "all", or only words PATTERN=N')
    return {pattern: _sample_number(count) for pattern, _, count in pairs}


def _sample_number(word: str) -> int | str:
    return int(word) if word.lstrip("-").isdigit() else word


# --- what is printed and written ---


def _show_command(chosen: Chosen) -> int:
    path = chosen.pop("report")
    return _finish({str(path): fastgc.load_report(path)}, json=None, **chosen)


def _finish(
    reports: Mapping[str, AnyReport], json: Path | None, html: Path | None, format: str, allow_undecided: bool
) -> int:
    """Write the one report to files, print all, and return the exit status of the worst."""
    try:
        for report in reports.values():
            if json is not None:
                report.to_json(json)
            if html is not None:
                report.to_html(html)
    finally:  # whether the files can be written or not
        _print_report(_shown(reports, format), json or html)
    verdicts = {report.verdict for report in reports.values()}
    worst: Verdict = "fail" if "fail" in verdicts else "undecided" if "undecided" in verdicts else "pass"
    return 0 if allow_undecided and worst == "undecided" else EXIT[worst]


def _print_report(text: str, file: Path | None) -> None:
    """Print a report. On a full disk, raise an OSError if no file holds it."""
    try:
        _print(text)
    except OSError as error:
        if file is None or not file.exists():
            raise
        _print(f"fastgc: the report could not be printed ({error}); it is in {file}", sys.stderr)


def _print(text: str, stream: TextIO | None = None) -> None:
    """Print a text, escaped where the stream cannot encode it; nothing where nobody reads it any more.

    Raises
    ------
    OSError
        Where it cannot be written, on a full disk.
    """
    stream = stream or sys.stdout
    if stream is None or stream.closed:  # by the shell's ``>&-``
        return
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        _discard(stream)
        if not isinstance(error, BrokenPipeError):
            raise


def _discard(stream: TextIO) -> None:
    """Let what is left in a stream go nowhere: Python would try to write it once more when it ends, and fail."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _harmless(text: str) -> str:
    """A message without what a terminal obeys, on its own lines."""
    from fastgc._reports.lines import visible

    return "\n".join(visible(line) for line in text.split("\n"))


def _shown(reports: Mapping[str, AnyReport], format: str) -> str:
    if format == "json":
        texts = [report.to_json() for report in reports.values()]
        return texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"
    if format == "junit":
        from fastgc._reports.junit import junit

        return junit({name: (each._contents(), str(each), each.seconds) for name, each in reports.items()})
    if format == "github":
        from fastgc._reports.markdown import workflow_commands

        return "\n".join(workflow_commands(report._contents(), name) for name, report in reports.items())
    texts = [report.to_markdown() if format == "markdown" else _painted(str(report)) for report in reports.values()]
    heads = [f"{_harmless(name)}\n" if len(reports) > 1 else "" for name in reports]
    return "\n\n".join(f"{head}{text}" for head, text in zip(heads, texts, strict=True))


def _painted(text: str) -> str:
    """The text of a report with coloured verdicts, if the terminal wants colours."""
    if not _wants_colours():
        return text
    return _VERDICT_WORDS.sub(lambda found: f"\x1b[{_COLOURS[found[0].lower()]}m{found[0]}\x1b[0m", text)


def _wants_colours() -> bool:
    """NO_COLOR (no-color.org) and FORCE_COLOR decide, if they are set and not empty; else, whether it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


# --- demo ---


def _demo_command(chosen: Chosen) -> int:
    found = [*_bug_hunt(), *_digits()]
    _print("\nfound exactly what was planted" if all(found) else "\nNOT what was planted")
    return 0 if all(found) else EXIT["fail"]


def _bug_hunt() -> list[bool]:
    from fastgc._command import demo

    problem = demo.bug_hunt()
    # The textbook's step, near the best of a central difference in float64, cbrt(3 eps) = 9e-6 for entries of order 1.
    options: Chosen = {"args": problem.args, "samples": "all", "step": 1e-5}
    _print("1. A net of 83 parameters; the gradient of W1 is doubled:\n")
    wrong = fastgc.check_gradients(problem.loss, demo.doubled(problem.gradients, "W1"), problem.params, **options)
    _print(f"{_painted(str(wrong))}\n\n   The bug removed:\n")
    right = fastgc.check_gradients(problem.loss, problem.gradients, problem.params, **options)
    _print(_painted(str(right)))
    diagnosis = wrong.tensors["W1"].diagnosis
    doubled = diagnosis is not None and diagnosis.factor is not None and round(diagnosis.factor, 6) == 2
    return [_failing(wrong) == ["W1"], doubled, right.passed]


def _digits() -> list[bool]:
    from fastgc._command import demo

    problem, loss = demo.digits_network(), demo.digits_loss
    begin = time.perf_counter()
    options: Chosen = {"args": problem.args, "samples": "all", "engine": "numba", "progress": True}
    _print("\n2. A 64-100-10 network with weight decay on 100 handwritten digits, every entry, compiled:\n")
    right = fastgc.check_gradients(loss, problem.gradients, problem.params, **options)
    _print(f"{_painted(str(right))}\n\n   The weight-decay term of W2 forgotten:\n")
    wrong = fastgc.check_gradients(
        demo.digits_loss, demo.without_decay(problem.gradients, "W2"), problem.params, **options
    )
    _print(f"{_painted(str(wrong))}\n\n   {time.perf_counter() - begin:.1f} s, compilation included")
    return [right.passed, _failing(wrong) == ["W2"]]


def _failing(report: fastgc.GradientReport) -> list[str]:
    return [name for name, tensor in report.tensors.items() if tensor.verdict != "pass"]
