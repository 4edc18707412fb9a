"""What random directions see in large models: counts of evaluations, detection limits and peak memory, with targets.

Run ``python bench/huge.py`` (some fifteen minutes; ``--quick`` about two). It prints a table, also writes it to a file
with ``--json FILE``, and exits with status 1 where a target is missed. ``--only limits`` runs one part.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from measure import Row, conclude, forget_peak, headline, parser, process, resident, tell
from numpy.typing import NDArray

import fastgc

Array = NDArray[Any]
Params = dict[str, Array]
Gradients = Callable[[Params], Params]
Problem = tuple[Callable[[Params], float], Callable[[Params], Params], Params]  # loss, gradients, parameters
DIAGNOSIS = 64  # evaluations that tell the kind of bug in a failing tensor, at most; not counted as those of a search


# --- models ---


def perceptron(
    rng: np.random.Generator, widths: Sequence[int], activation: str, batch: int = 32, biases: float = 0.1
) -> Problem:
    """Dense layers and cross-entropy."""
    depth = len(widths) - 1
    params: Params = {}
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        params[f"W{i}"] = rng.standard_normal((rows, columns)) * ((2 if activation == "relu" else 1) / rows) ** 0.5
        params[f"b{i}"] = biases * rng.standard_normal(columns)
    x, labels = rng.standard_normal((batch, widths[0])), rng.integers(widths[-1], size=batch)

    def forward(p: Params) -> list[Array]:
        layers = [x]
        for i in range(depth):
            z = layers[-1] @ p[f"W{i}"] + p[f"b{i}"]
            layers.append(z if i == depth - 1 else np.tanh(z) if activation == "tanh" else np.maximum(z, 0))
        return layers

    def gradients(p: Params) -> Params:
        layers, found = forward(p), {}
        d = cross_entropy_slope(layers[-1], labels)
        for i in reversed(range(depth)):
            found[f"W{i}"], found[f"b{i}"] = layers[i].T @ d, d.sum(axis=0)
            if i:
                d = (d @ p[f"W{i}"].T) * (1 - layers[i] ** 2 if activation == "tanh" else layers[i] > 0)
        return found

    return lambda p: cross_entropy(forward(p)[-1], labels), gradients, params


def cross_entropy(z: Array, labels: Array) -> float:
    z = z - z.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(labels.size), labels]))


def cross_entropy_slope(z: Array, labels: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    d = e / e.sum(axis=1, keepdims=True)
    d[np.arange(labels.size), labels] -= 1
    return d / labels.size


def pooled_image(
    rng: np.random.Generator, filters: int, size: int, classes: int = 5, batch: int = 8, biases: float = 0.1
) -> Problem:
    """A 3x3 convolution, maxima over 2x2 windows, a dense layer and cross-entropy; ``size`` is the pooled width."""
    images = rng.standard_normal((batch, 2 * size + 2, 2 * size + 2))
    labels = rng.integers(classes, size=batch)
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    x = patches.reshape(batch, size, 2, size, 2, 9).transpose(0, 1, 3, 2, 4, 5).reshape(batch, size * size, 4, 9)
    flat = size * size * filters
    params = {
        "filters": rng.standard_normal((9, filters)) / 3,
        "offsets": biases * rng.standard_normal(filters),
        "W": rng.standard_normal((flat, classes)) / flat**0.5,
        "b": biases * rng.standard_normal(classes),
    }

    def forward(p: Params) -> tuple[Array, Array, Array]:
        z = x @ p["filters"] + p["offsets"]
        best = z.argmax(axis=2)[:, :, None, :]
        pooled = np.take_along_axis(z, best, axis=2).reshape(batch, flat)
        return best, pooled, pooled @ p["W"] + p["b"]

    def gradients(p: Params) -> Params:
        best, pooled, z = forward(p)
        d = cross_entropy_slope(z, labels)
        found = {"W": pooled.T @ d, "b": d.sum(axis=0)}
        spread = np.zeros((batch, size * size, 4, filters))
        np.put_along_axis(spread, best, (d @ p["W"].T).reshape(batch, size * size, 1, filters), axis=2)
        found["filters"] = np.einsum("bpwk,bpwf->kf", x, spread)
        found["offsets"] = spread.sum(axis=(0, 1, 2))
        return found

    return lambda p: cross_entropy(forward(p)[2], labels), gradients, params


def residual_chain(rng: np.random.Generator, layers: int, width: int, batch: int = 8) -> Problem:
    """Many layers h + tanh(h W + b) / sqrt(layers), and a squared error."""
    params: Params = {}
    for i in range(layers):
        params[f"layer{i}.weight"] = rng.standard_normal((width, width)) / width**0.5
        params[f"layer{i}.bias"] = 0.1 * rng.standard_normal(width)
    x, y, share = rng.standard_normal((batch, width)), rng.standard_normal((batch, width)), layers**-0.5

    def forward(p: Params) -> tuple[Array, list[tuple[Array, Array]]]:
        h, kept = x, []
        for i in range(layers):
            a = np.tanh(h @ p[f"layer{i}.weight"] + p[f"layer{i}.bias"])
            kept.append((h, a))
            h = h + share * a
        return h, kept

    def gradients(p: Params) -> Params:
        h, kept = forward(p)
        d, found = 2 * (h - y) / h.size, {}
        for i in reversed(range(layers)):
            below, a = kept[i]
            dz = share * d * (1 - a**2)
            found[f"layer{i}.weight"], found[f"layer{i}.bias"] = below.T @ dz, dz.sum(axis=0)
            d = d + dz @ p[f"layer{i}.weight"].T
        return found

    return lambda p: float(np.mean((forward(p)[0] - y) ** 2)), gradients, params


def embedding(rng: np.random.Generator, rows: int, columns: int, outputs: int, dtype: Any, batch: int = 256) -> Problem:
    """A table of which each loss looks up some thousand rows, a dense layer, a squared error; all in memory."""
    words = 16
    params = {
        "table": filled(rng, (rows, columns), 1.0, dtype),
        "dense": filled(rng, (words * columns, outputs), (words * columns) ** -0.5, dtype),
    }
    ids = rng.integers(rows, size=(batch, words))
    y = rng.standard_normal((batch, outputs)).astype(dtype)

    def forward(p: Params) -> tuple[Array, Array]:
        h = p["table"][ids].reshape(batch, -1)
        return h, np.tanh(h @ p["dense"])

    def gradients(p: Params) -> Params:
        h, out = forward(p)
        d = (2 / y.size) * (out - y) * (1 - out**2)
        table = np.empty_like(p["table"])
        table.fill(0)  # in memory, where np.zeros would only promise it
        np.add.at(table, ids.ravel(), (d @ p["dense"].T).reshape(-1, columns).astype(dtype))
        return {"table": table, "dense": (h.T @ d).astype(dtype)}

    return lambda p: float(np.mean((forward(p)[1] - y) ** 2, dtype=np.float64)), gradients, params


def filled(rng: np.random.Generator, shape: tuple[int, int], scale: float, dtype: Any) -> Array:
    """Random numbers without a second array of that size."""
    out = np.empty(shape, dtype)
    for begin in range(0, shape[0], 1 << 14):
        part = out[begin : begin + (1 << 14)]
        part[...] = scale * rng.standard_normal(part.shape, np.float32)
    return out


# --- helpers ---


def probed(problem: Problem, gradients: Params | Gradients | None = None, **options: Any) -> fastgc.GradientReport:
    """The check by probes alone."""
    loss, slopes, params = problem
    options = {"samples": 0, "crosscheck": False, **options}
    return fastgc.check_gradients(loss, slopes(params) if gradients is None else gradients, params, **options)


def probe_evaluations(problem: Problem, name: str) -> int:
    """How often the loss is asked for with (nearly) all entries of a tensor displaced, if it is probed alone."""
    loss, gradients, params = problem
    moved: list[bool] = []

    def watched(p: Params) -> float:
        moved.append(np.count_nonzero(p[name] != params[name]) > 0.9 * params[name].size)
        return loss(p)

    probed((watched, gradients, params), tensors=[name])
    few = params[name].size <= 8  # then the noise is measured with all entries displaced
    return sum(moved) - (18 if few else 0)


def planted(gradients: Params, name: str, positions: Any, change: Callable[[Array], Array]) -> Params:
    """The gradient with some entries of one tensor changed."""
    wrong = gradients[name].copy()
    wrong.reshape(-1)[positions] = change(wrong.reshape(-1)[positions])
    return {**gradients, name: wrong}


def located(report: fastgc.GradientReport) -> set[tuple[str, int]]:
    """All entries reported as wrong, as name and position."""
    return {
        (name, int(np.ravel_multi_index(entry.index, tensor.shape)) if tensor.shape else 0)
        for name, tensor in report.tensors.items()
        for entry in tensor.wrong_entries
    }


def suspects_falsely(report: fastgc.GradientReport, wrong: set[tuple[str, int]]) -> bool:
    """Whether a report names an entry that is not wrong, or fails without naming any."""
    return not located(report) <= wrong or (report.verdict == "fail" and not located(report))


def doubt(report: fastgc.GradientReport, name: str) -> float:
    """The smallest error of one entry that shows, tolerances apart: twice the uncertainty."""
    return 2 * max(probe_of(report, name).uncertainties)


def probe_of(report: fastgc.GradientReport, name: str) -> Any:
    return report.tensors[name].probe


# --- parts ---


def one_million(quick: bool) -> Iterator[Row]:
    """A network of a million parameters: correct, with one wrong entry, with eight, with a wrong row or column."""
    for activation in ("tanh", "relu"):
        part = f"1,000,000 {activation}"
        problem = perceptron(np.random.default_rng(0), (1000, 1000, 10), activation)
        slopes = problem[1](problem[2])
        right = probed(problem, slopes)
        yield Row(part, "correct: passes", right.passed, "== 1")
        yield Row(part, "evaluations in all", right.evaluations, "<= 60")
        alone = max(probe_evaluations(problem, name) for name in slopes)
        yield Row(part, "evaluations of one tensor's probes, most", alone, "<= 18")
        bound = max(probe_of(right, name).relative_error for name in slopes)
        yield Row(part, "bound of the relative error, largest", bound, "<= 1e-6")
        missed = max(probe_of(right, name).miss_probability for name in ("W0", "W1"))
        yield Row(part, "an error of rtol of a weight matrix: missed with, at most", missed, "<= 1e-6")
        trials = 6 if quick else 25  # of each activation
        few = [_searched(problem, slopes, 1, seed) for seed in range(trials)]
        entry = "1 entry wrong by 1 %"
        yield Row(part, f"{entry}: exactly this named, share of {trials}", float(np.mean([x for x, _ in few])), "== 1")
        yield Row(part, f"{entry}: further evaluations, median", float(np.median([n for _, n in few])), "<= 24")
        yield Row(part, f"{entry}: further evaluations, most", max(n for _, n in few), "<= 40")
        many = [_searched(problem, slopes, 8, seed) for seed in range(3 if quick else 8)]
        entry = "8 entries wrong by 1 %"
        yield Row(part, f"{entry}: exactly these named, share", float(np.mean([exact for exact, _ in many])), "== 1")
        yield Row(part, f"{entry}: further evaluations, most", max(n for _, n in many), "<= 260")
        for line, where in (("row", 417), ("column", np.arange(1000) * 1000 + 417)):
            positions = np.arange(417_000, 418_000) if line == "row" else where
            report = probed(problem, planted(slopes, "W0", positions, lambda g: 1.5 * g))
            named = f"all of [{'417, :' if line == 'row' else ':, 417'}] is wrong" in report.tensors["W0"].reason
            yield Row(part, f"a {line} wrong by half: named", named, "== 1")
            further = report.evaluations - right.evaluations - DIAGNOSIS
            yield Row(part, f"a {line} wrong by half: further evaluations", further, "<= 120")


def _searched(problem: Problem, slopes: Params, count: int, trial: int) -> tuple[bool, int]:
    """Whether exactly the entries wrong by 1 %, of median magnitude or more, are named, and the evaluations of that.

    These are what the right gradient does not take with the same seed, which draws how the noise is measured too.
    """
    rng = np.random.default_rng(trial)
    name = ["W0", "W1", "W0", "b0"][trial % 4]
    magnitudes = np.abs(slopes[name]).reshape(-1)
    positions = rng.choice(np.flatnonzero(magnitudes >= np.median(magnitudes)), count, replace=False)
    report = probed(problem, planted(slopes, name, positions, lambda g: 1.01 * g), seed=trial)
    exact = located(report) == {(name, int(position)) for position in positions}
    return exact, report.evaluations - probed(problem, slopes, seed=trial).evaluations - DIAGNOSIS


_CASES = {
    "float64": {"dtype": "float64", "options": {}, "copies": 1},
    "float32 native": {"dtype": "float32", "options": {"precision": "native"}, "copies": 1},
    "float64 in place": {"dtype": "float64", "options": {"in_place": True}, "copies": 0},
    "float32 in place": {"dtype": "float32", "options": {"in_place": True}, "copies": 0},
    "float64, gradients called": {"dtype": "float64", "options": {}, "copies": 1, "called": True},
    "float64, one entry wrong": {"dtype": "float64", "options": {}, "copies": 1, "wrong": True},
}
_SCRATCH = 1.15  # of the largest tensor: a copy of it and what the loss takes; besides, its weights in one byte each


def one_hundred_million(quick: bool) -> Iterator[Row]:
    """A table of a hundred million entries (twenty, if quick), each case in a separate process."""
    evaluations: dict[str, int] = {}
    for case, setting in _CASES.items():
        found = json.loads(process(__file__, "--memory", case, *(["--quick"] if quick else [])))
        part = f"{found['entries'] / 1e6:,.0f},000,000 {case}"
        yield Row(part, "decided", found["verdict"] != "undecided", "== 1")
        if setting.get("wrong"):
            yield Row(part, "exactly the wrong entry named", found["named"], "== 1")
            further = found["evaluations"] - evaluations["float64"] - DIAGNOSIS
            yield Row(part, "further evaluations", further, "<= 40")
        else:
            yield Row(part, "passes", found["verdict"] == "pass", "== 1")
        evaluations[case] = found["evaluations"]
        yield Row(part, "evaluations", found["evaluations"])
        yield Row(part, "seconds", found["seconds"])
        yield Row(part, "parameters, MiB", found["params"] / 2**20)
        unit, largest = found["params"], found["largest"]
        yield Row(part, "peak memory / parameters", found["peak"] / unit)
        scratch = (found["peak"] - (2 + setting["copies"]) * unit) / largest
        stated = "parameters + gradient + copy" if setting["copies"] else "parameters + gradient"
        bound = _SCRATCH + 1 / np.dtype(setting["dtype"]).itemsize
        yield Row(part, f"peak beyond {stated}, in largest tensors", scratch, f"<= {bound}")


def memory_case(case: str, quick: bool) -> dict[str, Any]:
    """One check in this process, with the peak of its resident memory above what Python and NumPy take."""
    setting = _CASES[case]
    dtype = np.dtype(setting["dtype"])
    rows = 300_000 if quick else 1_500_000  # above 64 MiB: smaller arrays are copied even in place
    small = embedding(np.random.default_rng(0), 50, 64, 40, dtype)
    probed(small, **setting["options"])  # whatever is imported or compiled on first use
    before = resident("VmRSS")
    problem = embedding(np.random.default_rng(0), rows, 64, 400 if quick else 4000, dtype)
    loss, slopes, params = problem
    gradients: Any = slopes if setting.get("called") else slopes(params)
    wrong = ("table", 64 * (rows // 3) + 5)  # never looked up: its slope is 0
    if setting.get("wrong"):
        gradients[wrong[0]].reshape(-1)[wrong[1]] = 1e-3 * np.abs(gradients["dense"]).max()
    forget_peak()
    begin = time.perf_counter()
    report = fastgc.check_gradients(loss, gradients, params, samples=0, crosscheck=False, **setting["options"])
    return {
        "verdict": report.verdict,
        "named": located(report) == {wrong},
        "evaluations": report.evaluations,
        "seconds": time.perf_counter() - begin,
        "entries": sum(p.size for p in params.values()),
        "params": sum(p.nbytes for p in params.values()),
        "largest": max(p.nbytes for p in params.values()),
        "peak": resident("VmHWM") - before,
    }


def three_hundred_tensors(quick: bool) -> Iterator[Row]:
    """Ten million parameters in 300 tensors, which share directions."""
    problem = residual_chain(np.random.default_rng(0), 150, 80 if quick else 258)
    slopes = problem[1](problem[2])
    part = f"300 tensors, {sum(p.size for p in problem[2].values()):,}"
    together = probed(problem, slopes)
    yield Row(part, "correct: passes", together.passed, "== 1")
    yield Row(part, "evaluations", together.evaluations, "<= 300")
    names = list(np.random.default_rng(1).choice(list(slopes), 4 if quick else 12, replace=False))
    alone = {name: probed(problem, slopes, tensors=[name]) for name in names}
    entry = [probe_of(together, n).entry_limit / probe_of(alone[n], n).entry_limit for n in names]
    yield Row(part, "entry_limit / that of the tensor alone, largest", max(entry), "<= 2")
    bare = [doubt(together, n) / doubt(alone[n], n) for n in names]
    yield Row(part, "the same for twice the uncertainty, tolerances apart", max(bare))
    name = names[0]
    position = int(np.argsort(np.abs(slopes[name]).reshape(-1))[slopes[name].size // 2])
    report = probed(problem, planted(slopes, name, position, lambda g: 1.01 * g))
    yield Row(part, "1 entry wrong by 1 %: exactly this named", located(report) == {(name, position)}, "== 1")
    further = report.evaluations - together.evaluations - DIAGNOSIS
    yield Row(part, "1 entry wrong by 1 %: further evaluations", further, "<= 150")


def correct_networks(quick: bool) -> Iterator[Row]:
    """Correct ReLU, tanh and max-pool networks of 100 to a million parameters, checked with the defaults."""
    count = 60 if quick else 300
    verdicts: dict[str, list[str]] = {}
    sizes, unresolved = [], 0
    for seed in range(count):
        kind = ("relu", "tanh", "max-pool")[seed % 3]
        loss, gradients, params = correct_network(seed, kind, largest=1e5 if quick else 1e6)
        report = fastgc.check_gradients(loss, gradients, params, seed=seed)
        sizes.append(sum(p.size for p in params.values()))
        verdicts.setdefault(kind, []).append(report.verdict)
        unresolved += any("resolve nothing" in tensor.reason for tensor in report.tensors.values())
        if report.verdict == "fail":
            print(f"failed: seed {seed}, {kind}\n{report}", file=sys.stderr)
    part = f"{count} correct networks"
    yield Row(part, "parameters, fewest", min(sizes))
    yield Row(part, "parameters, median", float(np.median(sizes)))
    yield Row(part, "parameters, most", max(sizes))
    for kind, found in verdicts.items():
        yield Row(part, f"{kind}: failures", found.count("fail"), "== 0")
        yield Row(part, f"{kind}: undecided", found.count("undecided"), "== 0")
    yield Row(part, "with a tensor whose probes are too uncertain here", unresolved)


def correct_network(seed: int, kind: str, largest: float) -> Problem:
    """Mostly small: the square root of the logarithm of the size is uniform; the first six are of the largest size."""
    rng = np.random.default_rng(seed)
    size = 100 * (largest / 100) ** (rng.uniform() ** 2) if seed > 5 else largest
    batch, biases = int(rng.integers(1, 40)), (0.0, 0.1, 1.0)[seed % 5 % 3]
    if kind == "max-pool":
        filters = max(1, int(size**0.3 / 2))
        return pooled_image(
            rng, filters, max(1, int((size / (5 * filters)) ** 0.5)), batch=min(batch, 16), biases=biases
        )
    depth, classes = int(rng.integers(1, 5)), int(rng.integers(2, 12))
    width = max(3, int((size / depth) ** 0.5))
    return perceptron(rng, (width,) * (depth + 1) + (classes,), kind, batch, biases)


def honest_limits(quick: bool) -> Iterator[Row]:
    """Errors at three times the stated limit, and at a tenth of it, in one entry of correct networks.

    First what the probes resolve (twice the uncertainty, with a tolerance far below it), then the stated entry_limit
    (here the tolerance of an entry of median magnitude, which is where the error is planted).
    """
    trials = 60 if quick else 500
    strict = {"rtol": 1e-12}
    counts: Counter[str] = Counter()
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        kind = ("tanh", "relu", "max-pool")[trial % 3]
        problem = correct_network(trial + 1000, kind, largest=3e3)
        slopes = problem[1](problem[2])
        right = probed(problem, slopes, seed=trial, **strict)
        name = str(rng.choice([n for n in slopes if slopes[n].any() and np.isfinite(doubt(right, n))]))
        position = int(rng.integers(slopes[name].size))
        sign = rng.choice([-1.0, 1.0])

        def with_error(size: float, at: int) -> Gradients:  # a function: an array cannot be asked away from a kink
            return lambda p: planted(problem[1](p), name, at, lambda g: g + sign * size)  # noqa: B023 - within the turn

        def wrong(size: float, at: int, rtol: float) -> set[tuple[str, int]]:
            """The entry, if its error is above its tolerance: whatever the directions show, it is right to name it."""
            above = size > rtol * (abs(slopes[name].reshape(-1)[at]) + size)  # noqa: B023
            return {(name, at)} if above else set()  # noqa: B023

        limit = doubt(right, name)
        report = probed(problem, with_error(3 * limit, position), seed=trial, **strict)
        counts["seen"] += probe_of(report, name).seen
        counts["failed"] += report.tensors[name].verdict == "fail"
        counts["named"] += located(report) == {(name, position)}
        report = probed(problem, with_error(0.1 * limit, position), seed=trial, **strict)
        counts["tenth seen"] += probe_of(report, name).seen
        counts["tenth true"] += located(report) == {(name, position)}
        counts["tenth false"] += suspects_falsely(report, wrong(0.1 * limit, position, 1e-12))
        limit = doubt(probed(problem, slopes, seed=trial, probes=20, **strict), name)
        report = probed(problem, with_error(3 * limit, position), seed=trial, probes=20, **strict)
        counts["twenty seen"] += probe_of(report, name).seen
        right = probed(problem, slopes, seed=trial)
        counts["right"] += right.verdict == "fail"
        limit = probe_of(right, name).entry_limit
        median = int(np.argsort(np.abs(slopes[name]).reshape(-1))[slopes[name].size // 2])
        report = probed(problem, with_error(3 * limit, median), seed=trial)
        counts["stated named"] += located(report) == {(name, median)}
        report = probed(problem, with_error(0.1 * limit, median), seed=trial)
        counts["stated true"] += located(report) == {(name, median)}
        counts["stated false"] += suspects_falsely(report, wrong(0.1 * limit, median, 1e-5))
    part = f"limits, {trials} trials"
    shares = {key: count / trials for key, count in counts.items()}
    yield Row(part, "correct: failures", counts["right"], "== 0")
    yield Row(part, "3 x twice the uncertainty: seen", shares["seen"], ">= 0.99")
    yield Row(part, "3 x twice the uncertainty: tensor fails", shares["failed"], ">= 0.99")
    yield Row(part, "3 x twice the uncertainty: entry named exactly", shares["named"])
    yield Row(part, "3 x twice the uncertainty, 20 probes: seen", shares["twenty seen"], ">= 0.99")
    yield Row(part, "a tenth of twice the uncertainty: seen by a direction surer than others", shares["tenth seen"])
    yield Row(part, "a tenth of twice the uncertainty: this entry alone named, as it is wrong", shares["tenth true"])
    yield Row(part, "a tenth of twice the uncertainty: false suspicion", shares["tenth false"], "<= 0.01")
    yield Row(part, "3 x entry_limit, median entry: named exactly", shares["stated named"], ">= 0.99")
    yield Row(part, "a tenth of entry_limit, median entry: this alone named, as it is wrong", shares["stated true"])
    yield Row(part, "a tenth of entry_limit, median entry: false suspicion", shares["stated false"], "<= 0.01")


def small_beside_large(quick: bool) -> Iterator[Row]:
    """One wrong entry in a tensor with gradients a million times smaller than another's, and with a large offset."""
    trials = 10 if quick else 50
    for offset in (0.0, 1.0, 1e3, 1e6, 1e9):
        limits, halves, stated, other, silent = [], 0, 0, 0, 0
        for seed in range(trials):
            problem = two_sizes(seed, offset)
            slopes = problem[1](problem[2])
            order = np.argsort(np.abs(slopes["small"]))
            middle, above = int(order[500]), int(order[np.random.default_rng(seed).integers(500, 1000)])
            right = probed(problem, slopes, seed=seed)
            limit = probe_of(right, "small").entry_limit
            limits.append(limit / float(np.abs(slopes["small"][middle])))
            if not np.isfinite(limit):  # nothing is promised, and then it must be said
                stated += right.tensors["small"].verdict == "undecided"
                silent += right.tensors["small"].verdict == "pass"
                continue
            half = probed(problem, planted(slopes, "small", above, lambda g: 1.5 * g), seed=seed)
            halves += located(half) == {("small", above)}
            silent += half.passed and 0.5 * abs(slopes["small"][above]) > limit
            report = probed(problem, planted(slopes, "small", middle, lambda g, e=3 * limit: g + e), seed=seed)
            lost = right.tensors["small"].verdict == "undecided"  # the limit is above the slopes, and this was said
            stated += report.tensors["small"].verdict in (("fail", "undecided") if lost else ("fail",))
            other += report.tensors["large"].verdict == "fail"
        part = f"1e6 times larger beside, offset {offset:.0e}"
        yield Row(part, "entry_limit / median entry, median", float(np.median(limits)))
        yield Row(part, "entry wrong by half: exactly this named", halves / trials, ">= 0.99" if offset <= 1 else "")
        yield Row(part, "entry wrong by half: passes though above the limit", silent / trials, "<= 0.01")
        yield Row(part, "median entry wrong by 3 x entry_limit: fails (or was lost)", stated / trials, ">= 0.99")
        yield Row(part, "the other tensor fails", other / trials, "== 0")


def two_sizes(seed: int, offset: float) -> Problem:
    rng = np.random.default_rng(seed)
    params = {"large": rng.standard_normal((40, 30)), "small": rng.standard_normal(1000)}
    weights = {"large": rng.standard_normal((40, 30)), "small": 1e-6 * rng.standard_normal(1000)}

    def loss(p: Params) -> float:
        return offset + float(sum(np.sum(w * np.sin(p[name])) for name, w in weights.items()))

    return loss, lambda p: {name: w * np.cos(p[name]) for name, w in weights.items()}, params


def equal_errors(quick: bool) -> Iterator[Row]:
    """Entries of a linear loss wrong by one size and random signs, at the limit: missed by one direction, and by three.

    The limit bounds the probability: by 3 in 100 for one direction, by 1 in 1,000 for three.
    """
    trials = 500 if quick else 10_000
    slopes = np.random.default_rng(0).standard_normal(50)
    problem: Problem = (lambda p: float(slopes @ p["w"])), (lambda p: {"w": slopes}), {"w": np.ones(50)}
    for probes, chance in ((1, 0.03), (3, 1e-3)):
        for count in (2, 3, 16):
            missed = 0
            for trial in range(trials):
                signs = np.random.default_rng(trial).choice([-1.0, 1.0], count)
                right = probe_of(probed(problem, {"w": slopes}, seed=trial, probes=probes), "w")
                wrong = slopes.copy()
                wrong[:count] += right.norm_limit * right.norm * signs / count**0.5
                missed += not probe_of(probed(problem, {"w": wrong}, seed=trial, probes=probes), "w").seen
            bound = chance + 4 * (chance / trials) ** 0.5
            part = f"{count} equal errors, {trials} trials"
            yield Row(part, f"at the limit, probes={probes}: missed", missed / trials, f"<= {bound:.2g}")


def complex_steps(quick: bool) -> Iterator[Row]:
    """A smooth network of a million parameters by the complex step: round-off of a direction, and one wrong entry."""
    rng, part = np.random.default_rng(0), "1,000,000 complex"
    params = {"W0": rng.standard_normal((1000, 1000)) / 30, "W1": rng.standard_normal((1000, 10)) / 30}
    x, y = rng.standard_normal((32, 1000)), rng.standard_normal((32, 10))

    def loss(p: Params) -> Any:
        return np.sum((np.tanh(x @ p["W0"]) @ p["W1"] - y) ** 2)

    def gradients(p: Params) -> Params:
        hidden = np.tanh(x @ p["W0"])
        d = 2 * (hidden @ p["W1"] - y)
        return {"W0": x.T @ ((d @ p["W1"].T) * (1 - hidden**2)), "W1": hidden.T @ d}

    problem: Problem = (loss, gradients, params)
    slopes = gradients(params)
    right = probed(problem, slopes, stencil="complex_step")
    errors = [max(map(abs, probe_of(right, name).residuals)) / probe_of(right, name).norm for name in slopes]
    yield Row(part, "correct: passes", right.passed, "== 1")
    yield Row(part, "error of a direction, of the gradient's norm, largest", max(errors), "<= 1e-14")
    yield Row(part, "evaluations in all", right.evaluations)
    exact, further, trials = 0, [], 3 if quick else 25
    for trial in range(trials):
        size = np.abs(slopes["W0"]).reshape(-1)
        position = int(np.random.default_rng(trial).choice(np.flatnonzero(size >= np.median(size))))
        wrong = planted(slopes, "W0", np.array([position]), lambda g: 1.01 * g)
        report = probed(problem, wrong, seed=trial, stencil="complex_step")
        exact += located(report) == {("W0", position)}
        further.append(report.evaluations - right.evaluations - DIAGNOSIS)
    yield Row(part, f"1 entry wrong by 1 %: exactly it named, share of {trials}", exact / trials, "== 1")
    yield Row(part, "1 entry wrong by 1 %: further evaluations, median", float(np.median(further)), "<= 6")


PARTS = {
    "complex": complex_steps,
    "million": one_million,
    "equal": equal_errors,
    "memory": one_hundred_million,
    "tensors": three_hundred_tensors,
    "networks": correct_networks,
    "limits": honest_limits,
    "small": small_beside_large,
}


# --- table ---


def main() -> int:
    """Run the parts, print the table, and say by the exit status whether all targets were met."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", choices=list(PARTS), action="append", help="run this part (may be repeated)")
    arguments.add_argument("--memory", choices=list(_CASES), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.memory:
        print(json.dumps(memory_case(options.memory, options.quick)))
        return 0
    about, rows, spent = headline(), [], {}
    for name in options.only or PARTS:
        begin = time.perf_counter()
        rows += [tell(row) for row in PARTS[name](options.quick)]
        spent[name] = time.perf_counter() - begin
        print(f"{name}: {spent[name]:.1f} s", flush=True)
    return conclude(rows, options, about, seconds=spent)


if __name__ == "__main__":
    sys.exit(main())
