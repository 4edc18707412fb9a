"""What a check costs when nothing is warm: whole processes, and the compilation inside one.

1. A plain NumPy loss (n = 2,762, all entries, crosscheck=False) in a process of its own, against the plain in-place
   loop in one. Target: at most 1.1 times that plus 60 ms.
2. A jitted loss in a process of its own: engine="auto" against calling it from Python and against the compiled loop,
   for the samples taken by default and for all entries. Target: at most 1.1 times the faster of the two plus 60 ms.
3. Compilation of the loop beyond the loss's own, for losses of 2, 8 and 60 tensors: what the first check takes more
   than the third, the loss having been called before. Targets: at most 1.0 s up to 8 tensors; and what the second check
   takes more than the third is at most 0.05 s (nothing is compiled for a loss already seen).

4. A new jitted loss of three tensors: CPU seconds of its first check in a process, against those of Numba's compilation
   of the same loss for plain arrays (at most 1.6 times as many), and in a second process, where Numba has cached the
   loss (``cache=True``), beyond imports (at most 0.6 s).

Medians of processes run in turn, the bytecode of all modules cached. Run ``python bench/cold.py [--quick] [--json
FILE]``; the exit status is 1 if a target is missed.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import networks
from loops import agree, flat, in_place
from measure import Row, conclude, headline, parser, process, seconds, tell, timed_in_turn

FACTOR, ADDED = 1.1, 0.060  # the targets of the first two parts
COMPILE, SEEN = 1.0, 0.05  # seconds, those of the third
RATIO, SECOND = 1.6, 0.6  # those of the fourth


def problem() -> networks.Problem:
    return networks.network(*networks.NETWORKS[2_762])


# --- what runs in a process of its own ---


def by_loop(compiled: bool) -> Callable[[], bool]:
    """The in-place loop, over the NumPy loss or calling the jitted one from Python."""

    def run() -> bool:
        given = problem()
        loss, params = given.loss, given.params
        if compiled:
            from compiled import LOSSES

            import fastgc

            loss, params = LOSSES[loss], fastgc.record(params)
        return agree(flat(given.gradients(given.params, *given.args)), flat(in_place(loss, params, given.args)))

    return run


def by_fastgc(compiled: bool, **options: Any) -> Callable[[], bool]:
    def run() -> bool:
        import fastgc

        given = problem()
        loss = given.loss
        if compiled:
            from compiled import LOSSES

            loss = LOSSES[loss]
        report = fastgc.check_gradients(
            loss, given.gradients, given.params, args=given.args, crosscheck=False, **options
        )
        return report.passed

    return run


ENGINES = ("auto", "python", "numba")
PROCESSES: dict[str, Callable[[], bool]] = {
    "NumPy loss: in-place loop": by_loop(compiled=False),
    "NumPy loss: fastgc": by_fastgc(compiled=False, samples="all"),
    "jitted loss: in-place loop": by_loop(compiled=True),
    **{f"jitted loss, all entries: {e}": by_fastgc(compiled=True, samples="all", engine=e) for e in ENGINES},
    **{f"jitted loss, default samples: {e}": by_fastgc(compiled=True, engine=e) for e in ENGINES},
}


def compile_times(tensors: int) -> dict[str, float]:
    """Seconds of a loss's first call and of three checks of it, then the same for another loss of the same layout."""
    import numpy as np

    import fastgc

    rng = np.random.default_rng(0)
    params = {f"t{i}": rng.normal(size=(3, 2) if i % 2 else 4) for i in range(tensors)}
    fastgc.check_gradients(
        *_quadratic(1, 1.0), {"t0": params["t0"]}, engine="numba", crosscheck=False
    )  # what all share
    found = {}
    for which, factor in (("first", 1.0), ("another", 2.0)):
        loss, gradients = _quadratic(tensors, factor)
        record = fastgc.record(params)
        found[f"{which}: loss"] = seconds(lambda: loss(record)) - seconds(lambda: loss(record))  # noqa: B023
        for number in range(3):

            def check() -> None:
                report = fastgc.check_gradients(loss, gradients, params, engine="numba", crosscheck=False)  # noqa: B023
                assert report.passed, report

            found[f"{which}: check {number}"] = seconds(check)
    return found


def _quadratic(tensors: int, factor: float) -> tuple[Any, Callable[..., Any]]:
    """A jitted sum of squares of all tensors, and its gradient."""
    import numba

    terms = " + ".join(f"np.sum(params['t{i}'] ** 2)" for i in range(tensors))
    space: dict[str, Any] = {}
    exec(f"import numpy as np\ndef loss(params):\n    return {factor} * ({terms})", space)
    return numba.njit(space["loss"]), lambda params: {name: 2 * factor * each for name, each in params.items()}


TERMS = "np.sum(np.tanh(np.tanh(x @ {W1} + {b1}) @ {W2}) ** 2)"


def new_loss(folder: str, checked: bool) -> float:
    """CPU seconds, without imports, of the first check of a loss of three tensors, or of its first call with arrays."""
    import importlib
    import time

    import numpy as np
    import scipy.optimize  # noqa: F401  # of the second opinion

    import fastgc

    for name in ("check_gradients", "record"):
        getattr(fastgc, name)
    sys.path.insert(0, folder)
    module = importlib.import_module("checked" if checked else "alone")
    shapes = {"W1": (4, 3), "b1": (3,), "W2": (3, 2)}
    params, x = {name: np.full(shape, 0.1) for name, shape in shapes.items()}, np.ones((5, 4))
    begin = time.process_time()
    if checked:
        assert fastgc.check_gradients(module.loss, module.gradients, params, args=(x,)).passed
    else:
        module.loss(*params.values(), x)
    return time.process_time() - begin


def write_losses(folder: str) -> None:
    """The loss as a check calls it, with its gradient, and for plain arrays: modules, so that Numba caches them."""
    head = "import numba\nimport numpy as np\n@numba.njit(cache=True)\n"
    names = {name: f"params['{name}']" for name in ("W1", "b1", "W2")}
    texts = {
        "alone": f"{head}def loss(W1, b1, W2, x):\n    return {TERMS.format(W1='W1', b1='b1', W2='W2')}\n",
        "checked": f"{head}def loss(params, x):\n    return {TERMS.format(**names)}\n"
        "def gradients(params, x):\n"
        "    h = np.tanh(x @ params['W1'] + params['b1'])\n"
        "    o = np.tanh(h @ params['W2'])\n"
        "    do = 2 * o * (1 - o**2)\n"
        "    dh = do @ params['W2'].T * (1 - h**2)\n"
        "    return {'W1': x.T @ dh, 'b1': dh.sum(axis=0), 'W2': h.T @ do}\n",
    }
    for name, text in texts.items():
        Path(folder, f"{name}.py").write_text(text, encoding="utf-8")


# --- the parts ---


def whole_processes(rounds: int) -> Iterator[Row]:
    runs = {name: (lambda name=name: process(__file__, "--case", name)) for name in PROCESSES}
    runs["import numpy, numba"] = lambda: process("-c", "import numpy, numba")
    for run in runs.values():  # files into the cache of the system; each asserts its verdict
        run()
    times = timed_in_turn(runs, rounds)
    for name, each in times.items():
        yield Row("whole processes", f"{name}, seconds", statistics.median(each))
    yield limited("NumPy loss: fastgc", times["NumPy loss: fastgc"], times["NumPy loss: in-place loop"])
    for what in ("all entries", "default samples"):
        auto, python, numba = (times[f"jitted loss, {what}: {engine}"] for engine in ENGINES)
        faster = min((python, numba), key=statistics.median)
        yield limited(f"jitted loss, {what}: auto", auto, faster)


def limited(what: str, above: Sequence[float], below: Sequence[float]) -> Row:
    """What a process takes more than the factor allows, in pairs."""
    beyond = statistics.median(a - FACTOR * b for a, b in zip(above, below, strict=True))
    return Row("whole processes", f"{what}: ms beyond {FACTOR} x the other", 1e3 * beyond, f"<= {1e3 * ADDED:g}")


def compilation(tensors: int, rounds: int) -> Iterator[Row]:
    def measured() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:  # where no kernel is found compiled
            times: dict[str, float] = json.loads(process(__file__, "--tensors", str(tensors), NUMBA_CACHE_DIR=folder))
            return times

    found = [measured() for _ in range(rounds)]

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(value, found))

    part = f"compilation, {tensors} tensors"
    bound = f"<= {COMPILE}" if tensors <= 8 else ""
    yield Row(part, "of the loss itself, seconds", median(lambda t: t["first: loss"]))
    yield Row(
        part, "beyond it, first check, seconds", median(lambda t: t["first: check 0"] - t["first: check 2"]), bound
    )
    yield Row(part, "second check, seconds", median(lambda t: t["first: check 1"] - t["first: check 2"]), f"<= {SEEN}")
    beyond = median(lambda t: t["another: check 0"] - t["another: check 2"])
    yield Row(part, "beyond it, another loss of the same layout, seconds", beyond, bound)
    yield Row(part, "a warm check, seconds", median(lambda t: t["first: check 2"]))


def new_losses(rounds: int) -> Iterator[Row]:
    found: dict[str, list[float]] = {"alone": [], "first": [], "second": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            write_losses(folder)
            for name, case in (("alone", "alone"), ("first", "checked"), ("second", "checked")):
                said = process(__file__, "--new", folder, case, NUMBA_CACHE_DIR=folder)
                found[name].append(json.loads(said))
    alone, first, second = (statistics.median(found[name]) for name in ("alone", "first", "second"))
    part = "a new loss of 3 tensors"
    yield Row(part, "Numba's compilation for arrays, CPU seconds", alone)
    yield Row(part, "first check, in units of that", first / alone, f"<= {RATIO}")
    yield Row(part, "first check in a second process, CPU seconds", second, f"<= {SECOND}")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--case", choices=list(PROCESSES), help="only this, in this process")
    options.add_argument(
        "--tensors", type=int, help="only the compilation of such a loss, in this process; prints JSON"
    )
    options.add_argument("--new", nargs=2, metavar=("FOLDER", "CASE"), help="only a new loss, here; prints JSON")
    chosen = options.parse_args()
    if chosen.new:
        print(json.dumps(new_loss(chosen.new[0], chosen.new[1] == "checked")))
        return 0
    if chosen.case:
        assert PROCESSES[chosen.case](), chosen.case
        return 0
    if chosen.tensors:
        print(json.dumps(compile_times(chosen.tensors)))
        return 0
    about, rounds = headline(), 3 if chosen.quick else 11
    rows = [tell(row) for row in whole_processes(rounds)]
    for tensors in (2, 8, 60):
        rows += map(tell, compilation(tensors, rounds if tensors < 60 else min(rounds, 3)))
    rows += map(tell, new_losses(rounds))
    return conclude(rows, chosen, about, rounds=rounds)


if __name__ == "__main__":
    sys.exit(main())
