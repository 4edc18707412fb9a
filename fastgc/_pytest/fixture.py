"""The fixture ``gradcheck``: checks that fail their test, in ten lines, and leave a record of themselves."""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeAlias, TypedDict, TypeVar

import fastgc
from fastgc._arguments import listed
from fastgc._frames import users_frames
from fastgc._public import public

P = ParamSpec("P")
R = TypeVar("R", bound="AnyReport")
AnyReport: TypeAlias = "fastgc.GradientReport | fastgc.JacobianReport"

_NAMED = 3  # failing tensors in the text of a failing test: with two lines each, and three more, they fit into ten
_WIDTH = 100  # characters of a line of it
_PAGE_NAME = 80  # characters of a page's name, from the end of the test's: systems allow some 255 bytes
_JACOBIAN = "the Jacobian"  # has no tensors; its name in a baseline


class Record(TypedDict):
    """Plain values of a check, for the process that reports."""

    number: int
    verdict: str
    evaluations: int
    seconds: float
    seed: int
    tried: list[int]
    failing: list[str]
    page: str | None
    headline: str


@dataclass(frozen=True)
class Surroundings:
    """What the fixture knows of the run.

    Attributes
    ----------
    test : the name of the test
    options : of all its checks, where a call does not give them
    seeds : that failed before, by the number of the check in the test
    baseline : tensors that may fail, by the number of the check
    folder : for pages of checks that do not pass, or None
    done : takes the record of every check
    known : takes the text of every failure that the baseline has too
    say : takes the title and the text of a section for the report of the test
    """

    test: str
    options: Mapping[str, object]
    seeds: Mapping[int, Sequence[int]]
    baseline: Mapping[int, Sequence[str]]
    folder: Path | None
    done: Callable[[Record], object]
    known: Callable[[str], object]
    say: Callable[[str, str], object]


class _Check(Generic[P, R]):
    """An attribute of `Gradcheck` that calls an assertion of fastgc, under its signature; it is loaded on first use."""

    def __init__(self, loaded: Callable[[], Callable[P, R]]) -> None:
        self._loaded = loaded

    def __get__(self, instance: Gradcheck, owner: type[Gradcheck]) -> Callable[P, R]:
        def check(*args: P.args, **kwargs: P.kwargs) -> R:
            __tracebackhide__ = True
            found: R = instance._run(self._loaded(), args, kwargs)
            return found

        return check


@public
class Gradcheck:
    """The fixture ``gradcheck`` of the pytest plugin: checks that fail the test unless they pass.

    - ``gradcheck(loss, gradients, params, ...)``: as `fastgc.assert_gradients`
    - ``gradcheck.jacobian(f, jacobian, x, ...)``: as `fastgc.assert_jacobian`
    - ``gradcheck.hessian(f, gradient, hessian, x, ...)``: as `fastgc.assert_hessian`
    - ``gradcheck.module(module, inputs, ...)``: as ``fastgc.torch.assert_module``
    - ``gradcheck.jax(loss, params, ...)``: as ``fastgc.jax.assert_gradients``
    - ``gradcheck.tensors(params)``: the names of all tensors, for a test of each

    Each returns its report. A check that fails leaves the whole report in the section "gradient check" of the test.

    Examples
    --------
    >>> def test_square(gradcheck):
    ...     gradcheck(lambda x: float(x @ x), lambda x: 2 * x, np.arange(3.0))
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings, self._count = surroundings, 0

    __call__ = _Check(lambda: fastgc.assert_gradients)
    jacobian = _Check(lambda: fastgc.assert_jacobian)
    hessian = _Check(lambda: fastgc.assert_hessian)
    module = _Check(lambda: fastgc.torch.assert_module)
    jax = _Check(lambda: fastgc.jax.assert_gradients)

    @staticmethod
    def tensors(params: object) -> list[str]:
        """The names of the tensors, as ``tensors=`` takes them."""
        return fastgc.tensor_names(params)

    def _run(self, assertion: Callable[..., AnyReport], args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        __tracebackhide__ = True
        number, self._count = self._count, self._count + 1
        try:
            found = _tried(assertion, args, *self._options(assertion, number, kwargs))
        except Exception as error:  # of the loss, or wrong arguments: the line that a user looks for is theirs
            raise error.with_traceback(users_frames(error.__traceback__)) from error.__cause__
        page = self._page(number, found) if found.failing and self._surroundings.folder else None
        self._surroundings.done(found.record(number, page))
        if found.mismatch is None:
            return found.report
        if set(found.failing) <= set(self._surroundings.baseline.get(number, ())):
            self._surroundings.known(_headline(found.report))
            return found.report
        self._surroundings.say("gradient check", str(found.report))
        found.mismatch.args = ("\n".join(_brief(found, page)),)
        raise found.mismatch.with_traceback(None)

    def _options(
        self, assertion: Callable[..., AnyReport], number: int, kwargs: Mapping[str, object]
    ) -> tuple[dict[str, object], list[int]]:
        """The options of a call, and the seeds to try: those that failed before come first."""
        options = {**self._surroundings.options, **kwargs}
        seed: Any = options.pop("seed", 0)  # which the assertion looks at
        before = [] if "seed" in kwargs else [each for each in self._surroundings.seeds.get(number, ()) if each != seed]
        return options, [*before, seed]

    def _page(self, number: int, found: Tried) -> Path:
        folder = self._surroundings.folder
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        test = self._surroundings.test
        short = re.sub(r"[^\w.-]+", "-", test)[-_PAGE_NAME:].strip("-")
        path = folder / f"{short}-{zlib.crc32(test.encode()):08x}-{number}.html"
        found.report.to_html(path)
        return path


@dataclass(frozen=True)
class Tried:
    """A check with one seed after the other, until one fails.

    Attributes
    ----------
    report, mismatch : of the last seed; None for a mismatch where it is accepted
    replayed : whether that seed failed in an earlier run
    """

    report: AnyReport
    mismatch: fastgc.GradientMismatch | None
    tried: Sequence[int]
    replayed: bool
    evaluations: int
    seconds: float

    @property
    def failing(self) -> list[str]:
        """Tensors that did not pass; none where the check is accepted."""
        if self.mismatch is None:
            return []
        if not isinstance(self.report, fastgc.GradientReport):
            return [_JACOBIAN]
        return [name for name, tensor in self.report.tensors.items() if tensor.verdict != "pass"]

    def record(self, number: int, page: Path | None) -> Record:
        """What the process that reports needs."""
        return {
            "number": number, "verdict": self.report.verdict, "evaluations": self.evaluations,
            "seconds": round(self.seconds, 6), "seed": self.tried[-1], "tried": [*self.tried],
            "failing": self.failing, "page": page.name if page else None,
            "headline": _headline(self.report) if page else "",  # of the index; it takes as long as the whole text
        }  # fmt: skip


def _tried(
    assertion: Callable[..., AnyReport], args: tuple[object, ...], options: Mapping[str, object], seeds: Sequence[int]
) -> Tried:
    tried: list[int] = []
    evaluations, seconds = 0, 0.0
    for seed in seeds:
        tried.append(seed)
        mismatch = None
        try:
            report = assertion(*args, **options, seed=seed)
        except fastgc.GradientMismatch as error:
            mismatch, report = error, error.report
        evaluations, seconds = evaluations + report.evaluations, seconds + report.seconds
        if mismatch is not None:
            break
    return Tried(report, mismatch, tried, seed != seeds[-1], evaluations, seconds)


# --- text ---


def _headline(report: AnyReport) -> str:
    """The first line of a report up to the numbers."""
    return str(report).split("\n", 1)[0].split("   ", 1)[0]


def _brief(found: Tried, page: Path | None) -> Iterator[str]:
    """At most ten lines: the tensors that did not pass with their kind of bug and worst entry, and how to go on."""
    report = found.report
    yield from _shortened(
        _tensor_lines(report) if isinstance(report, fastgc.GradientReport) else _jacobian_lines(report)
    )
    again = " (failed here before, tried first)" if found.replayed else ""
    yield f"{found.evaluations:,} evaluations, seed {found.tried[-1]}{again}; the whole report stands below"
    if page is not None:
        yield f"page: {page}"


def _tensor_lines(report: fastgc.GradientReport) -> Iterator[str]:
    failing = [tensor for tensor in report.tensors.values() if tensor.verdict != "pass"]
    failing.sort(key=lambda tensor: tensor.verdict)  # "fail" before "undecided"
    for tensor in failing[:_NAMED]:
        bug = tensor.diagnosis.message if tensor.diagnosis else tensor.reason
        yield f"{tensor.name}: {tensor.verdict}, {bug}"
        worst = tensor.wrong_entries[0] if tensor.wrong_entries else tensor.worst
        if worst is not None:
            yield f"    {worst}"
    if len(failing) > _NAMED:
        yield f"and {listed([tensor.name for tensor in failing[_NAMED:]])}"


def _jacobian_lines(report: fastgc.JacobianReport) -> Iterator[str]:
    bug = report.diagnosis.message if report.diagnosis else report.reason
    yield f"{_JACOBIAN}: {report.verdict}, {bug}"
    if report.worst is not None:
        yield f"    {report.worst}"


def _shortened(lines: Iterator[str]) -> Iterator[str]:
    yield from (line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..." for line in lines)


def index(pages: Sequence[tuple[str, Record]]) -> str:
    """An HTML page that lists the pages of the checks that did not pass: test, verdict, page."""
    rows = "\n".join(
        f"<tr><td>{record['verdict']}</td>"
        f'<td><a href="{html.escape(record["page"] or "")}">{html.escape(test)}</a></td>'
        f"<td>{html.escape(record['headline'])}</td></tr>"
        for test, record in pages
    )
    return _INDEX.format(count=len(pages), rows=rows)


_INDEX = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Gradient checks</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; overflow-wrap: anywhere }}
</style></head>
<body><main>
<h1>Gradient checks that did not pass: {count}</h1>
<table><thead><tr><th scope="col">Verdict</th><th scope="col">Test</th><th scope="col">Result</th></tr></thead>
<tbody>
{rows}
</tbody></table>
</main></body></html>
"""
