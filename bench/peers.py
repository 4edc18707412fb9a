"""fastgc against every peer on the same networks: time of a coordinate, verdicts, whole-model checks.

First *all entries, one by one*. Every peer checks the whole gradient once, the right one and (up to n = 20,000) one of
which an entry is wrong by half, so that its verdicts are known before it is timed. Then all are timed in turn, round by
round; a peer that takes longer than a few seconds is stopped after so many evaluations of its loss ("timed" says how
many coordinates that were), by an exception or by asking for the first entries only. All compute in double precision:

What takes less than a tenth of a second is repeated until that is over, and the mean taken: it is warm. The peers:

- fastgc: the loss compiled by Numba, warm (what compiling took stands apart), samples="all", probes as by default
- copying loop, in-place loop (NumPy): central differences as tutorials write them, then their norm-wise criterion
- scipy approx_derivative 3-point: alone, and with ``workers``, a pool of processes opened before, fed lazily in chunks
  (a plain ``workers=2`` would pickle all displaced vectors at once); the same criterion
- scipy check_grad (2-point): its number below 1e-5 of the gradient's norm; statsmodels approx_fprime (central)
- numdifftools, jacobi (n = 2,762): every entry within 1e-5 of the larger value plus the stated error
- torch gradcheck, slow mode: a hand-written autograd function; its own verdict
- jax: a jitted quotient called from a Python loop, vmapped in blocks (the best size of three), in lax.map

NumPy, SciPy and torch run in the number of BLAS or torch threads, one or all, that was faster for each of them
(the workers have one each); JAX in its own pool over all cores. Then *whole-model checks*: fastgc with random
directions only (probes=3, samples=0) against torch's fast mode and jax check_grads, with the planted entry to be named;
and the certified check (probes=20, samples=0) against the fastest of the peers that go through all coordinates.

Run ``python bench/peers.py [--quick | --all] [--only N] [--json FILE]`` after ``pip install torch jax numdifftools
jacobi statsmodels`` (what is missing is left out, and said). It takes less than ten minutes; with ``--all``, which
waits for the verdicts of the slowest peers and times more rounds, longer. The exit status is 1 where a target is
missed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import compiled
import numpy as np
import threadpoolctl
from loops import OnVector, agree, copying, flat, in_place, within
from measure import Row, averaged, conclude, headline, in_turn, parser, ratio, seconds, tell, version
from networks import NETWORKS, Array, Problem, network, regression

import fastgc

SMALL, MEDIUM = 3_000, 20_000  # the largest n for the slowest peers, and for a verdict on the planted entry
CHUNK = 16  # evaluations that a process is sent at a time: the best of 4, 16, 64, 256 at each n
SHORT = 256  # coordinates that show how fast a peer is, about
CORES = len(os.sched_getaffinity(0))
MARK = {True: "pass", False: "fail", None: "-"}

# Ratio of a peer's time to fastgc's, for the fastest of each kind, by n.
TARGETS = {
    "central": {2_762: ">= 5", 11_110: ">= 3.5", 68_362: ">= 1.4"},
    "jax": {2_762: ">= 1.8", 11_110: ">= 1.8", 68_362: ">= 1.4"},
    "two-point": dict.fromkeys(NETWORKS, ">= 1"),
}
KINDS = {
    "central": "fastest central-difference peer of NumPy, SciPy, torch",
    "jax": "fastest jitted JAX loop",
    "two-point": "fastest two-point peer",
}
CERTIFIED = {11_110: ">= 100", 68_362: ">= 500"}
WHOLE = dict.fromkeys(NETWORKS, "<= 3")


@dataclass(frozen=True)
class Effort:
    """How long the peers are measured.

    Attributes
    ----------
    rounds : in which each peer is timed; at most 3 above n = 20,000
    stretch : seconds of a peer's turn in a round, about
    longest : seconds that a peer may take for its verdict
    """

    rounds: int
    stretch: float
    longest: float


QUICK, USUAL, ALL = Effort(3, 0.3, 10.0), Effort(5, 1.0, 20.0), Effort(7, 3.0, 300.0)


class EnoughError(Exception):
    """A peer has made as many evaluations as it was to make."""


class Count:
    """Called before each evaluation; stops a peer that has made enough."""

    def __init__(self, limit: float) -> None:
        self.limit, self.calls = limit, 0

    def __call__(self) -> None:
        if self.calls >= self.limit:
            raise EnoughError
        self.calls += 1


Check = Callable[[Count], bool]  # the verdict on the gradient of one problem


@dataclass(frozen=True)
class Peer:
    """A checker that goes through all entries."""

    name: str
    kind: str  # which target it counts for
    prepare: Callable[[Problem], Check]
    per_entry: int | None = 2  # evaluations of the loss for each entry; None: it varies, the peer is never stopped
    needs: str = "numpy"
    largest: float = math.inf
    threaded: bool = True  # whether one thread or all is to be chosen


# --- how each of them checks a problem ---


def analytic(problem: Problem) -> Array:
    """The gradient to be checked as one flat vector."""
    return flat(problem.gradients(problem.params, *problem.args))


def by_vector(judged: Callable[[OnVector, Array, Array], bool]) -> Callable[[Problem], Check]:
    """A peer that is given the loss of a flat vector, the point and the analytic gradient."""

    def prepare(problem: Problem) -> Check:
        a, x = analytic(problem), flat(problem.params)
        return lambda count: judged(OnVector(problem, count), x, a)

    return prepare


def in_place_loop(problem: Problem) -> Check:
    a, params = analytic(problem), {name: p.copy() for name, p in problem.params.items()}

    def check(count: Count) -> bool:
        def loss(*received: Any) -> float:
            count()
            return problem.loss(*received)

        return agree(a, flat(in_place(loss, params, problem.args)))

    return check


def three_point(f: OnVector, x: Array, a: Array, **options: Any) -> bool:
    from scipy.optimize._numdiff import approx_derivative

    return agree(a, approx_derivative(f, x, method="3-point", **options))


def one_blas_thread() -> None:
    threadpoolctl.threadpool_limits(1, user_api="blas")


@functools.cache
def pool() -> Any:
    """Processes with one BLAS thread each, for all of the run."""
    return multiprocessing.get_context("spawn").Pool(CORES, initializer=one_blas_thread)


def three_point_in_processes(problem: Problem) -> Check:
    a, x, f = analytic(problem), flat(problem.params), OnVector(problem, Count(math.inf))

    def check(count: Count) -> bool:
        def workers(function: Callable[[Array], Any], points: Iterable[Array]) -> Iterator[Any]:
            limited = None if count.limit == math.inf else int(count.limit)
            yield from pool().imap(function, itertools.islice(points, limited), CHUNK)
            if limited is not None:
                count.calls = limited
                raise EnoughError

        return three_point(f, x, a, workers=workers)

    return check


def scipy_check_grad(f: OnVector, x: Array, a: Array) -> bool:
    from scipy.optimize import check_grad

    return bool(check_grad(f, lambda _: a, x) < 1e-5 * np.linalg.norm(a))


def statsmodels_central(f: OnVector, x: Array, a: Array) -> bool:
    from statsmodels.tools.numdiff import approx_fprime

    return agree(a, np.ravel(approx_fprime(x, f, centered=True)))


def with_numdifftools(f: OnVector, x: Array, a: Array) -> bool:
    import numdifftools

    found = numdifftools.Gradient(f, full_output=True)(x)
    return within(a, np.ravel(found.estimate), np.ravel(found.error_estimate))


def with_jacobi(f: OnVector, x: Array, a: Array) -> bool:
    from jacobi import jacobi

    return within(a, *jacobi(f, x))


def torch_slow(problem: Problem) -> Check:
    from torch_peers import GradCheck

    return GradCheck(problem, fast=False)


def jax_loop(kind: str) -> Callable[[Problem], Check]:
    def prepare(problem: Problem) -> Check:
        from jax_peers import quotients

        sizes = (16, 64, 256) if kind == "vmap" else (256,)
        candidates = [quotients(problem, kind, size) for size in sizes]
        for each in candidates:
            each(256)  # compiles
        best = min(candidates, key=lambda each: min(seconds(lambda: each(256)) for _ in range(3)))
        a = analytic(problem)

        def check(count: Count) -> bool:
            entries = int(min(a.size, count.limit // 2))
            numerical = best(entries)
            count.calls = 2 * entries
            if entries < a.size:
                raise EnoughError
            return agree(a, numerical)

        return check

    return prepare


PEERS = [
    Peer("copying loop", "central", by_vector(lambda f, x, a: agree(a, copying(f, x)))),
    Peer("in-place loop", "central", in_place_loop),
    Peer("scipy 3-point", "central", by_vector(three_point)),
    Peer(f"scipy 3-point, {CORES} workers", "central", three_point_in_processes, threaded=False),
    Peer("scipy check_grad", "two-point", by_vector(scipy_check_grad), per_entry=1),
    Peer("statsmodels approx_fprime", "central", by_vector(statsmodels_central), needs="statsmodels"),
    Peer("numdifftools", "", by_vector(with_numdifftools), None, "numdifftools", SMALL),
    Peer("jacobi", "", by_vector(with_jacobi), None, "jacobi", SMALL),
    Peer("torch gradcheck, slow", "central", torch_slow, needs="torch"),
    Peer("jax jit, single", "jax", jax_loop("single"), needs="jax", threaded=False),
    Peer("jax jit, vmap", "jax", jax_loop("vmap"), needs="jax", threaded=False),
    Peer("jax jit, lax.map", "jax", jax_loop("map"), needs="jax", threaded=False),
]


# --- one peer on one problem ---


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of BLAS and of torch; None: as they are by default."""
    if count is None:
        yield
        return
    with threadpoolctl.threadpool_limits(count, user_api="blas"):
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(count)
        yield


@dataclass
class Contest:
    """A peer made ready for one problem."""

    peer: Peer
    problem: Problem
    check: Check
    threads: int | None = None
    limit: float = math.inf  # evaluations after which it is stopped
    timed: int = 0  # coordinates gone through the last time
    verdict: bool | None = None

    def __call__(self) -> float:
        """Seconds for each coordinate."""
        count = Count(self.limit)
        with threads(self.threads):
            spent = seconds(lambda: self._run(count))
        per_entry = self.peer.per_entry
        self.timed = self.problem.n if self.limit == math.inf or not per_entry else count.calls // per_entry
        return spent / self.timed

    def _run(self, count: Count) -> None:
        with contextlib.suppress(EnoughError):
            self.verdict = self.check(count)

    def stopped_after(self, limit: float) -> float:
        """Seconds for each coordinate when stopped after so many evaluations."""
        self.limit = limit if self.peer.per_entry and limit < self.peer.per_entry * self.problem.n else math.inf
        return self()


def ready(peer: Peer, problem: Problem, effort: Effort) -> Contest:
    """The peer with the better number of threads, its verdict known, and stopped in time from now on."""
    contest = Contest(peer, problem, peer.prepare(problem))
    if peer.per_entry:
        short = SHORT * peer.per_entry
        contest.stopped_after(short)  # warm
        if peer.threaded:
            speed = {}
            for contest.threads in sorted({1, CORES}):
                speed[contest.threads] = statistics.median(contest.stopped_after(short) for _ in range(3))
            contest.threads = min(speed, key=lambda k: speed[k])
    spent = contest.stopped_after(short) if peer.per_entry else 0.0
    if spent * problem.n <= effort.longest:
        spent = contest.stopped_after(math.inf)
    if peer.per_entry:
        contest.limit = (
            math.inf if spent * problem.n <= 2 * effort.stretch else peer.per_entry * (effort.stretch // spent)
        )
    return contest


def verdict_on_planted(contest: Contest) -> bool | None:
    """What the peer says of a gradient with one wrong entry."""
    if contest.problem.n > MEDIUM:
        return None
    wrong = contest.problem.planted()
    again = Contest(contest.peer, wrong, contest.peer.prepare(wrong), contest.threads)
    again()
    return again.verdict


# --- fastgc ---


def ours(problem: Problem, **options: Any) -> fastgc.GradientReport:
    return fastgc.check_gradients(
        compiled.LOSSES[problem.loss], problem.gradients, problem.params, args=problem.args, crosscheck=False,
        engine="numba", **options,
    )  # fmt: skip


def names_exactly(report: fastgc.GradientReport, problem: Problem) -> bool:
    """Whether the report accuses the planted entry, and nothing else."""
    assert problem.wrong
    index = tuple(map(int, np.unravel_index(problem.wrong.position, problem.params[problem.wrong.name].shape)))
    accused = {(e.tensor, e.index) for tensor in report.tensors.values() for e in tensor.wrong_entries}
    return report.verdict == "fail" and accused == {(problem.wrong.name, index)}


def compilation(problem: Problem) -> Iterator[Row]:
    """What the first call of the loss and the first check in the process take more than the second."""
    loss, record = compiled.LOSSES[problem.loss], fastgc.record(problem.params)
    call = functools.partial(loss, record, *problem.args)
    check = functools.partial(ours, problem, samples=1, probes=0)
    yield Row("compilation", "of the loss, seconds", seconds(call) - seconds(call))
    yield Row("compilation", "of the loop beyond it, seconds", seconds(check) - seconds(check))


# --- the two parts ---


@dataclass(frozen=True)
class Line:
    """A peer's line of the table for one problem."""

    problem: str
    n: int
    peer: str
    kind: str
    threads: int | None
    microseconds: float  # for each coordinate
    ratio: float  # of its time to that of fastgc
    timed: int  # coordinates gone through when timed
    right: str  # verdict on the right gradient
    planted: str  # verdict on the one with a wrong entry

    def __str__(self) -> str:
        count = "" if self.threads is None else str(self.threads)
        wrong = [bool(self.right == "fail"), bool(self.planted == "pass")]
        right, planted = (
            f"{each}{' (wrong)' * bad}" for each, bad in zip((self.right, self.planted), wrong, strict=True)
        )
        return (
            f"{self.peer:<28}{count:>7}{self.microseconds:>12.2f}{self.ratio:>9.2f}{self.timed:>9,}"
            f"  {right:<14}{planted:<14}"
        )


HEADER = f"{'all entries':<28}{'threads':>7}{'us/entry':>12}{'/fastgc':>9}{'timed':>9}  {'right':<14}{'planted':<14}"


def entry_by_entry(problem: Problem, peers: list[Peer], effort: Effort) -> tuple[list[Line], list[Row]]:
    """All peers on one problem: the lines of the table, and the rows with targets."""
    full = functools.partial(ours, problem, samples="all")
    certified = functools.partial(ours, problem, samples=0, probes=20)
    report, wrong = full(), problem.planted()
    assert report.passed and all(t.checked == t.size for t in report.tensors.values()), report
    assert certified().passed
    found = ours(wrong, samples="all")
    assert names_exactly(found, wrong), found
    rounds = effort.rounds if problem.n <= MEDIUM else min(3, effort.rounds)
    contests = {p.name: ready(p, problem, effort) for p in peers if p.largest >= problem.n}
    judged = {name: contest for name, contest in contests.items() if contest.verdict is not None}
    planted = dict.fromkeys(contests) | {name: verdict_on_planted(contest) for name, contest in judged.items()}
    runs: dict[str, Callable[[], float]] = {
        "fastgc": lambda: seconds(full) / problem.n,
        "certified": lambda: seconds(certified),
        **contests,
    }
    times = in_turn({name: averaged(run) for name, run in runs.items()}, rounds)
    own = times["fastgc"]
    title = f"n = {problem.n:,}: {problem.name}"
    lines = [Line(title, problem.n, "fastgc", "", None, 1e6 * statistics.median(own), 1.0, problem.n, "pass", "fail")]
    for name, contest in contests.items():
        lines.append(
            Line(
                title, problem.n, name, contest.peer.kind, contest.threads, 1e6 * statistics.median(times[name]),
                ratio(times[name], own), contest.timed, MARK[contest.verdict], MARK[planted[name]],
            )
        )  # fmt: skip
    print(f"\n{title}, {rounds} rounds\n{HEADER}", *lines, sep="\n", flush=True)
    return lines, list(comparisons(title, problem.n, contests, times))


def comparisons(title: str, n: int, contests: Mapping[str, Contest], times: Mapping[str, list[float]]) -> Iterator[Row]:
    """The fastest peer of each kind against fastgc."""
    for kind, what in KINDS.items():
        names = [name for name, contest in contests.items() if contest.peer.kind == kind]
        if names:
            best = min(names, key=lambda name: statistics.median(times[name]))
            value = ratio(times[best], times["fastgc"])
            yield Row(title, f"{what} / fastgc", value, TARGETS[kind].get(n, ""))
    named = [name for name, contest in contests.items() if contest.peer.kind in ("central", "jax", "two-point")]
    best = min(named, key=lambda name: statistics.median(times[name]))
    value = n * ratio(times[best], times["certified"])
    yield Row(title, "fastest peer, all entries / certified check", value, CERTIFIED.get(n, ""))
    yield Row(title, "certified check, milliseconds", 1e3 * statistics.median(times["certified"]))


def whole_model(problem: Problem, available: set[str], rounds: int) -> Iterator[Row]:
    """Verdicts on the gradient as a whole, right and with one wrong entry."""
    title, wrong = f"whole model, n = {problem.n:,}", problem.planted()
    check = functools.partial(ours, problem, samples=0)
    report, found = check(), ours(wrong, samples=0)
    runs: dict[str, Callable[[], Any]] = {"fastgc": check}
    yield Row(title, "fastgc passes the right gradient", report.passed, "== 1")
    yield Row(title, "fastgc names the planted entry, and no other", names_exactly(found, wrong), "== 1")
    yield Row(title, "fastgc: evaluations", report.evaluations)
    if "torch" in available:
        runs |= {f"torch, {k}": torch_fast(problem, k) for k in sorted({1, CORES})}
        yield from torch_verdicts(title, problem, wrong)
    if "jax" in available:
        from jax_peers import whole

        runs["jax"] = whole(problem)
        yield Row(title, "jax check_grads passes the right gradient", runs["jax"]())
        yield Row(title, "jax check_grads passes the planted entry", whole(wrong)())
    times = in_turn({name: averaged(lambda run=run: seconds(run)) for name, run in runs.items()}, rounds)  # type: ignore[misc]
    for name, each in times.items():
        yield Row(title, f"{name}{' threads' * name.startswith('torch')}: milliseconds", 1e3 * statistics.median(each))
    fast = [name for name in times if name.startswith("torch")]
    if fast:
        best = min(fast, key=lambda name: statistics.median(times[name]))
        yield Row(title, "fastgc / torch fast mode", ratio(times["fastgc"], times[best]), WHOLE.get(problem.n, ""))


def torch_fast(problem: Problem, count: int) -> Callable[[], bool]:
    from torch_peers import GradCheck

    check = GradCheck(problem, fast=True)

    def run() -> bool:
        with threads(count):
            return check()

    run()
    return run


def torch_verdicts(title: str, problem: Problem, wrong: Problem) -> Iterator[Row]:
    from torch_peers import GradCheck

    assert wrong.wrong
    yield Row(title, "torch fast mode passes the right gradient", GradCheck(problem, fast=True)())
    check = GradCheck(wrong, fast=True)
    passes = check()
    index = tuple(map(int, np.unravel_index(wrong.wrong.position, wrong.params[wrong.wrong.name].shape)))
    yield Row(title, "torch fast mode passes the planted entry", passes)
    yield Row(title, "torch fast mode names the planted entry", not passes and str(index) in check.message)


# --- the run ---


def installed() -> set[str]:
    """The packages that are there; what is missing is said."""
    needed = {peer.needs for peer in PEERS}
    found = {name for name in needed if version(name)}
    for name in sorted(needed - found):
        print(f"{name} is not installed: left out")
    for name in found:
        importlib.import_module(name)
    return found


def problems(quick: bool) -> list[Problem]:
    sizes = [n for n in NETWORKS if n <= MEDIUM or not quick]
    found = [network(*NETWORKS[n]) for n in sizes] + [regression()] * (not quick)
    assert [problem.n for problem in found][: len(sizes)] == sizes
    return found


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", type=int, metavar="N", action="append", help="of the problems, the one with n = N")
    options.add_argument("--all", action="store_true", help="wait for the slowest peers, too, and time more rounds")
    chosen = options.parse_args()
    about, available = headline(), installed()
    peers = [peer for peer in PEERS if peer.needs in available]
    effort = QUICK if chosen.quick else ALL if chosen.all else USUAL
    lines: list[Line] = []
    rows: list[Row] = []
    for problem in problems(chosen.quick):
        if chosen.only and problem.n not in chosen.only:
            continue
        if not rows:
            rows += compilation(problem)
        found, compared = entry_by_entry(problem, peers, effort)
        print()
        lines += found
        rows += map(tell, compared)
        rows += map(tell, whole_model(problem, available, 3 * effort.rounds))
    return conclude(rows, chosen, about, lines=[asdict(line) for line in lines])


if __name__ == "__main__":
    sys.exit(main())
