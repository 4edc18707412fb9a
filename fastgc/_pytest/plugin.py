"""The pytest plugin: the fixture ``gradcheck``, its marker and options, replayed seeds, baselines and the summary.

pytest loads this module in every run of an environment that has fastgc. It therefore imports neither NumPy nor what
checks gradients; the fixture does, when a test asks for it.

A check leaves a record, a dict of plain values, in its test's stash. The teardown's report carries the records to the
process that reports (from a worker of pytest-xdist too), which sums them up and writes seeds, baseline and index.
"""

from __future__ import annotations

import json
import random
import unittest
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from fastgc._pytest.fixture import Gradcheck, Record

Value = TypeVar("Value")
Names = list[str]

_RECORDS = pytest.StashKey["list[Record]"]()
_KNOWN = pytest.StashKey[list[str]]()  # failures of this test that the baseline has too
_NAME = "fastgc-checks"  # of the part that knows the run, for pytest
_SEEDS = "fastgc/seeds"  # in pytest's cache
_KEPT = 5  # seeds of a check that are replayed, the newest: each costs a check
_LARGEST_SEED = 2**31  # of one drawn at random: short enough to be typed
_SLOWEST = 3  # tests named in the summary
_OPTIONS = (
    ("fastgc-report", "DIR", "write an HTML page of every failing check, and an index, into this folder"),
    ("fastgc-seed", "N", 'seed of all checks that do not give one: a number, or "random", a new one in every run'),
    ("fastgc-budget", "SECONDS", "time budget of each check that does not give one"),
    ("fastgc-save", "FILE", "write the checks that fail into this file: a baseline for --fastgc-compare"),
    ("fastgc-compare", "FILE", "checks that fail in this baseline too are expected to fail (xfail)"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the command line, each of which is a setting of the configuration file, too."""
    group = parser.getgroup("fastgc", "gradient checks (fastgc)")
    for name, value, text in _OPTIONS:
        group.addoption(f"--{name}", metavar=value, help=text)
        parser.addini(name.replace("-", "_"), f"the same as --{name}")


def pytest_configure(config: pytest.Config) -> None:
    """Read options, and add the marker and the part of the plugin that lives as long as the run."""
    config.addinivalue_line(
        "markers", "fastgc(**options): options of gradcheck for a test, class or module; those of a call win"
    )
    if config.option.fastgc_seed is None:
        config.option.fastgc_seed = _setting(config, "fastgc_seed")
    if config.option.fastgc_seed == "random":  # drawn once: workers of pytest-xdist receive the number
        config.option.fastgc_seed = str(random.SystemRandom().randrange(_LARGEST_SEED))
    config.pluginmanager.register(GradientChecks(config), _NAME)


def _setting(config: pytest.Config, name: str) -> str | None:
    """An option as the command line or else the configuration file gives it, None for neither."""
    return getattr(config.option, name) or config.getini(name) or None


@pytest.fixture
def gradcheck(request: pytest.FixtureRequest) -> Gradcheck:
    """Check gradients in a test: ``gradcheck(loss, gradients, params)`` fails the test unless they pass.

    Takes the arguments of `fastgc.assert_gradients` and returns its report. Likewise ``gradcheck.jacobian``,
    ``gradcheck.hessian``, ``gradcheck.module`` (PyTorch) and ``gradcheck.jax``. Options for a test, class or module are
    given by ``@pytest.mark.fastgc(...)``. A `unittest.TestCase` with ``@pytest.mark.usefixtures("gradcheck")`` has it
    as ``self.gradcheck``.
    """
    checks = request.config.pluginmanager.get_plugin(_NAME)
    assert isinstance(checks, GradientChecks)
    check = checks.fixture_of(request.node)
    if isinstance(request.instance, unittest.TestCase):
        request.instance.gradcheck = check  # type: ignore[attr-defined]  # a test case takes no fixtures as arguments
    return check


@dataclass
class Summary:
    """Counts of all checks of a run."""

    checks: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    verdicts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    slowest: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, test: str, record: Record) -> None:
        """Count one check."""
        self.checks += 1
        self.evaluations += record["evaluations"]
        self.seconds += record["seconds"]
        self.verdicts[record["verdict"]] += 1
        self.slowest[test] += record["seconds"]

    def lines(self) -> Iterator[str]:
        """What the end of a run says."""
        found = ", ".join(f"{self.verdicts[each]} {each}" for each in ("pass", "fail", "undecided"))
        yield f"{_counted(self.checks, 'check')}: {found}; {self.evaluations:,} evaluations, {self.seconds:.2f} s"
        slowest = sorted(self.slowest.items(), key=lambda each: -each[1])[:_SLOWEST]
        yield "slowest: " + ", ".join(f"{test} ({seconds:.2f} s)" for test, seconds in slowest)


class GradientChecks:
    """The part of the plugin that knows the run: its settings, the records of its checks, and what they were before."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seed = _whole("fastgc-seed", config.option.fastgc_seed)
        self._budget = _positive("fastgc-budget", _setting(config, "fastgc_budget"))
        self._report, self._save, self._compare = (
            Path(value) if (value := _setting(config, f"fastgc_{name}")) else None
            for name in ("report", "save", "compare")
        )
        self._baseline: dict[str, dict[str, Names]] = _read_baseline(self._compare)
        cache = getattr(config, "cache", None)  # None under -p no:cacheprovider
        self._failed_seeds: dict[str, dict[str, list[int]]] = cache.get(_SEEDS, {}) if cache else {}
        self._records: dict[str, list[Record]] = {}
        self._summary = Summary()

    # --- in the process that runs a test ---

    def fixture_of(self, item: pytest.Item) -> Gradcheck:
        """The fixture for a test, with the options of its markers; the nearest marker wins."""
        from fastgc._pytest.fixture import Gradcheck, Surroundings

        records = item.stash.setdefault(_RECORDS, [])
        known = item.stash.setdefault(_KNOWN, [])
        return Gradcheck(
            Surroundings(
                test=item.nodeid,
                options=self._options_of(item),
                seeds=_numbered(self._failed_seeds.get(item.nodeid, {})),
                baseline=_numbered(self._baseline.get(item.nodeid, {})),
                folder=self._report,
                done=lambda record: self._done(item, records, record),
                known=known.append,
                say=lambda title, text: item.add_report_section("call", title, text),
            )
        )

    def _options_of(self, item: pytest.Item) -> Mapping[str, object]:
        """Options that a call does not give: of the command line, then of markers from the module to the test."""
        asked = {"seed": self._seed, "time_budget": self._budget}
        options = {name: value for name, value in asked.items() if value is not None}
        for marker in reversed([*item.iter_markers("fastgc")]):
            if marker.args:
                raise pytest.UsageError(
                    f"{item.nodeid}: the marker fastgc takes options by name, got {marker.args[0]!r}"
                )
            options |= marker.kwargs
        return options

    @staticmethod
    def _done(item: pytest.Item, records: list[Record], record: Record) -> None:
        records.append(record)
        in_junit = {key: record[key] for key in ("verdict", "evaluations", "seconds", "seed")}
        item.user_properties += [(f"fastgc.{key}", value) for key, value in in_junit.items()]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Expect a test to fail whose only failures the baseline has too."""
        yield
        known = item.stash.get(_KNOWN, [])
        if known:
            pytest.xfail(f"in {self._compare} too: {'; '.join(known)}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the last report of a test carry the records of its checks."""
        report = yield
        if report.when == "teardown" and (records := item.stash.get(_RECORDS, [])):
            vars(report)[_NAME] = records
        return report

    # --- in the process that reports ---

    def pytest_report_header(self) -> str | None:
        """The seed, where one was asked for."""
        return None if self._seed is None else f"fastgc: seed {self._seed} (--fastgc-seed={self._seed} repeats it)"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the records of a test."""
        records = vars(report).get(_NAME, [])
        if records:
            self._records[report.nodeid] = records
        for record in records:
            self._summary.add(report.nodeid, record)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write seeds that failed, the baseline, and the index of the pages."""
        if hasattr(self._config, "workerinput"):  # a worker of pytest-xdist
            return
        cache = getattr(self._config, "cache", None)
        if cache and self._records:
            cache.set(_SEEDS, self._failed_seeds | {test: self._seeds_of(test) for test in self._records})
        if self._save:
            _write(self._save, json.dumps({"fastgc": 1, "failing": self._failing()}, indent=1) + "\n")
        pages = [(test, record) for test, records in self._records.items() for record in records if record["page"]]
        if self._report and pages:
            from fastgc._pytest.fixture import index

            _write(self._report / "index.html", index(pages))

    def _seeds_of(self, test: str) -> dict[str, list[int]]:
        """The seeds to replay of every check of a test: that which failed just now, then those not tried again."""
        return {
            number: kept
            for number, record in ((str(each["number"]), each) for each in self._records[test])
            if (kept := _to_replay(record, self._failed_seeds.get(test, {}).get(number, [])))
        }

    def _failing(self) -> dict[str, dict[str, Names]]:
        """What fails: names of tensors by the test and the number of the check in it."""
        return {
            test: found
            for test, records in sorted(self._records.items())
            if (found := {str(record["number"]): record["failing"] for record in records if record["failing"]})
        }

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many checks there were, what they cost, and what the baseline has that fails no more."""
        if not self._summary.checks:
            return
        terminalreporter.section("gradient checks")
        for line in self._summary.lines():
            terminalreporter.write_line(line)
        for line in self._mended():
            terminalreporter.write_line(line)
        if self._report and self._summary.verdicts["fail"] + self._summary.verdicts["undecided"]:
            terminalreporter.write_line(f"pages of checks that did not pass: {self._report / 'index.html'}")

    def _mended(self) -> Iterator[str]:
        """Checks that the baseline has as failing and that pass now."""
        now = self._failing()
        mended = [
            test
            for test, checks in self._baseline.items()
            if test in self._records and any(number not in now.get(test, {}) for number in checks)
        ]
        if mended:
            yield f"in {self._compare}, and failing no more: {', '.join(mended)}; write it anew with --fastgc-save"


def _numbered(found: Mapping[str, Value]) -> dict[int, Value]:
    """The same with the numbers of checks for keys: in JSON they are text."""
    return {int(number): each for number, each in found.items()}


def _to_replay(record: Record, before: list[int]) -> list[int]:
    failed = [record["seed"]] if record["failing"] else []
    return [*failed, *(seed for seed in before if seed not in record["tried"])][:_KEPT]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _whole(option: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isdecimal():
        raise pytest.UsageError(f'--{option} is {value!r}; it must be a whole number of at least 0, or "random"')
    return int(value)


def _positive(option: str, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise pytest.UsageError(f"--{option} is {value!r}; it must be a number of seconds above 0")
    return seconds


def _read_baseline(path: Path | None) -> dict[str, dict[str, Names]]:
    """The failing checks of a baseline.

    Raises
    ------
    pytest.UsageError
        For a file that is missing or was not written by ``--fastgc-save``.
    """
    if path is None:
        return {}
    try:
        found: dict[str, dict[str, Names]] = json.loads(path.read_text(encoding="utf-8"))["failing"]
    except OSError as error:
        raise pytest.UsageError(f"--fastgc-compare: {error}; write a baseline with --fastgc-save={path}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise pytest.UsageError(f"--fastgc-compare: {path} is no baseline of --fastgc-save ({error!r})") from error
    return found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
