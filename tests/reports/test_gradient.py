"""What people and programs read: the text, the dict and the JSON of a report, and its entries."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgc

Tensors = dict[str, np.ndarray]


def loss(params: Tensors) -> float:
    """Half the squares, so that the parameters are their own gradient."""
    return 0.5 * float(sum(np.vdot(p, p) for p in params.values()))


def report_on(factors: Mapping[str, Any], size: int = 5, **options: Any) -> Any:
    """Check tensors whose gradients are wrong by these factors."""
    params = {name: np.random.default_rng(i).uniform(1, 2, size) for i, name in enumerate(factors)}
    return fastgc.check_gradients(loss, {name: factors[name] * p for name, p in params.items()}, params, **options)


def rows(report: Any) -> list[list[str]]:
    """The table's cells, header first; columns are at least two spaces apart."""
    return [re.split(r"\s{2,}", line) for line in table(report)]


def table(report: Any) -> list[str]:
    """The lines of the table, header first, without remarks on lines of their own."""
    lines = str(report).splitlines()
    begin = next(k for k, line in enumerate(lines) if line.startswith("tensor "))
    return [line for line in lines[begin:] if not line.startswith(" ")][: 1 + min(20, len(report.tensors))]


def head(report: Any) -> list[str]:
    """The parts of the first lines."""
    begin = str(report).partition("\nnext: ")[0].partition("\ntensor ")[0]
    return re.split(r"\s{3,}", begin)


@pytest.fixture
def mixed() -> Any:
    """One tensor of each verdict and one without entries."""
    params = {"right": np.ones((2, 3)), "wrong": np.ones(4), "open": np.ones(()), "empty": np.ones((0, 2))}

    def staircase(p: Tensors) -> float:
        return float(np.vdot(p["right"], p["right"]) + p["wrong"].sum() + 50 * math.floor(20 * p["open"]))

    analytic = {"right": 2 * params["right"], "wrong": np.array([1, 3, 1, -2.0]), "open": np.array(1e3)}
    return fastgc.check_gradients(staircase, analytic | {"empty": np.ones((0, 2))}, params)


# --- text ---


def test_the_first_line_says_what_was_found_and_what_it_cost() -> None:
    report = report_on({"a": 1, "b": 1}, samples=3, probes=0, seed=7)
    assert head(report) == [
        "PASS  2 tensors agree",
        "6 of 10 entries checked one by one",
        f"{report.evaluations} evaluations",
        f"{report.seconds:.2f} s",
        "python",
        "seed 7",
    ]


def test_the_first_line_says_what_covers_the_rest() -> None:
    assert "3 of 5 entries checked one by one, all covered by probes\n      " in str(report_on({"a": 1}, samples=3))
    assert "probes" not in str(report_on({"a": 1}, samples="all")).splitlines()[0]


def test_large_numbers_are_grouped() -> None:
    text = str(report_on({"a": 1}, size=250_634, samples=2))
    assert "2 of 250,634 entries" in text
    assert "2/250,634" in text


@pytest.mark.parametrize(
    ("factors", "first"),
    [
        ({"a": 1}, "PASS  1 tensor agrees"),
        ({"a": 1, "b": 1}, "PASS  2 tensors agree"),
        ({"a": 2}, "FAIL  1 of 1 tensor disagrees: a (factor 2)"),
        ({"a": 2, "b": 1}, "FAIL  1 of 2 tensors disagrees: a (factor 2)"),
        ({"a": 2, "b": 3, "c": 1}, "FAIL  2 of 3 tensors disagree: b (factor 3), a (factor 2)"),
    ],
)
def test_one_and_several(factors: dict[str, float], first: str) -> None:
    assert head(report_on(factors))[0] == first


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("a", "UNDECIDED  1 of 1 tensor cannot be decided: a"),
        ("ab", "UNDECIDED  2 of 2 tensors cannot be decided: a, b"),
    ],
)
def test_one_and_several_undecided(names: str, first: str) -> None:
    params = {name: np.ones(()) for name in names}
    report = fastgc.check_gradients(
        lambda p: float(sum(math.floor(20 * v) for v in p.values())), {name: np.array(20.0) for name in names}, params
    )
    assert head(report)[0] == first


def test_the_first_line_names_the_worst_tensors_with_the_kinds_of_their_bugs() -> None:
    signs = np.array([2, 1, 1, 1, 1])
    report = report_on({"right": 1, "sign": -1, "zero": 0, "entry": signs, "b.c": 1.5, "d": 1.1})
    assert [tensor.verdict for tensor in report.tensors.values()].count("fail") == 5
    assert head(report)[0] == ("FAIL  5 of 6 tensors disagree: sign (sign), zero (zero), entry (sparse) and 2 more")
    decay = report_on({"a": 1 + 1 / np.random.default_rng(0).uniform(1, 2, 40)}, size=40)
    assert head(decay)[0].endswith("disagrees: a (missing term)")


@pytest.mark.parametrize("factor", [1, 2])
def test_one_of_a_kind_is_never_plural(factor: float) -> None:
    texts = [
        str(report_on({"a": factor}, size=1)),
        str(report_on({f"t{i}": factor for i in range(21)}, size=1)),
        str(report_on({"a": np.array([1, factor, 1])}, size=3)),
        str(fastgc.check_gradients(lambda p: math.floor(20 * float(p)), np.array(20.0), np.array(factor / 1.0))),
        str(fastgc.check_gradients(lambda p: abs(float(p)), np.array(factor - 1.0), np.array(0.0))),
    ]
    plural = r"\b1 (of 1 )?(checked |more )?(entries|tensors|evaluations|threads)\b"
    assert [found[0] for text in texts for found in re.finditer(plural, text)] == []


def test_a_row_for_each_tensor_with_both_errors() -> None:
    report = report_on({"a": 1 + 1e-6, "b": np.linspace(1, 2, 40)}, size=40, samples="all")
    header, *lines = rows(report)
    assert header == ["tensor", "shape", "checked", "max rel err", "rel err (all)", "verdict"]
    assert [line[0] for line in lines] == ["b", "a"]
    for line in lines:
        tensor = report.tensors[line[0]]
        assert line[1:3] == ["(40,)", "40/40"]
        assert float(line[3]) == pytest.approx(tensor.max_relative_error, rel=0.051)
        assert float(line[4]) == pytest.approx(tensor.relative_error, rel=0.051)
    assert lines[0][5] == "FAIL"
    assert lines[1][5:] == ["pass"]


def test_both_errors_of_a_sampled_tensor_are_of_what_the_row_says() -> None:
    """The first is of the checked entries; the second of all, from the probes, and without them of the checked ones."""
    right, off = rows(report_on({"a": 1}, size=100, samples=8))[1], report_on({"a": 1.5}, size=100, samples=8)
    assert right[2] == "8/100"
    assert right[4].startswith("< ")
    tensor = off.tensors["a"]
    assert float(rows(off)[1][3]) == pytest.approx(tensor.max_relative_error, rel=0.051)
    assert float(rows(off)[1][4].lstrip("~ ")) == pytest.approx(tensor.probe.relative_error, rel=0.051)
    assert 0.05 < tensor.probe.relative_error < 0.8
    blind = report_on({"a": 1.5}, size=100, samples=8, probes=0)
    assert rows(blind)[1][4].endswith(" of checked")
    assert float(rows(blind)[1][4].split()[0]) == pytest.approx(blind.tensors["a"].relative_error, rel=0.051)


def test_columns_are_aligned() -> None:
    lines = table(report_on({"a": 1, "a.long.name": 1, "c": 2}, size=3))
    ends = [re.search(r"\s(\d+/\d+|checked)\s", line).end(1) for line in lines]
    assert len(set(ends)) == 1
    assert not any(line != line.rstrip() for line in lines)


def test_the_worst_come_first() -> None:
    factors = {"small": 1.01, "right": 1, "large": 3.0, "sign": -1, "middle": 1.2}
    assert [line[0] for line in rows(report_on(factors))[1:]] == ["sign", "large", "middle", "small", "right"]


def test_failures_come_before_what_is_open_and_that_before_passes(mixed: Any) -> None:
    assert [line[0] for line in rows(mixed)[1:]][:2] == ["wrong", "open"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_the_worst(value: float) -> None:
    report = report_on({"b": 1.5, "a": np.array([1, 1, value, 1, 1]), "c": 1})
    assert [line[0] for line in rows(report)[1:]] == ["a", "b", "c"]
    assert f"worst: a[2]  analytic {value}" in str(report)


def test_the_worst_entry_has_a_line() -> None:
    report = report_on({"a": np.array([1, 1, 1.5, 1, 1.1])})
    worst = report.tensors["a"].worst
    assert worst.index == (2,)
    line = next(line for line in str(report).splitlines() if line.startswith("worst: "))
    assert line == (
        f"worst: a[2]  analytic {worst.analytic:.6g}  numerical {worst.numerical:.6g} "
        f"+- {worst.uncertainty:.0e}  (step {worst.step:.1e})"
    )


def test_indices_read_as_they_are_typed() -> None:
    params = {"m": np.ones((2, 3, 4)), "s": np.ones(())}
    for name, index, shown in (("m", (1, 2, 3), "m[1, 2, 3]  "), ("s", (), "s  ")):
        wrong = {key: p.copy() for key, p in params.items()}
        wrong[name][index] = 7
        assert f"worst: {shown}analytic 7 " in str(fastgc.check_gradients(loss, wrong, params))


@pytest.mark.parametrize(("count", "rest"), [(20, None), (22, "and 2 more tensors: 2 pass"), (120, "and 100 more")])
def test_at_most_twenty_tensors_are_shown(count: int, rest: str | None) -> None:
    report = report_on({f"t{i}": 2 if i == count - 1 else 1 for i in range(count)})
    lines = str(report).splitlines()
    assert sum(bool(re.match(r"t\d+ ", line)) for line in lines) == 20
    assert table(report)[1].startswith(f"t{count - 1} ")
    assert any(line.startswith(rest) for line in lines) if rest else not any("more tensor" in line for line in lines)


def test_the_hidden_tensors_are_counted_by_verdict() -> None:
    report = report_on({f"t{i}": 2 if i < 23 else 1 for i in range(30)})
    assert "and 10 more tensors: 3 fail, 7 pass" in str(report)


def test_no_array_is_ever_dumped() -> None:
    text = str(report_on({"a": 3}, size=1000, samples="all"))
    assert len(text.splitlines()) < 15
    assert max(map(len, text.splitlines())) <= 100
    assert "array(" not in text


def test_notes_end_the_text() -> None:
    report = report_on({"a": 1, "b": 1}, tensors="a")
    assert len(report.notes) == 1
    assert str(report).splitlines()[-1] == f"note: {report.notes[0]}"
    assert "'b'" in report.notes[0]


def test_the_text_is_that_of_the_exception() -> None:
    params = np.ones(3)
    with pytest.raises(fastgc.GradientMismatch, match="factor of 2") as caught:
        fastgc.assert_gradients(lambda p: p @ p, 4 * params, params)
    assert str(caught.value) == str(caught.value.report)


# --- a tensor of size 0 ---


def test_a_tensor_without_entries_has_a_row_and_passes(mixed: Any) -> None:
    empty = mixed.tensors["empty"]
    assert (empty.verdict, empty.size, empty.checked, empty.shape) == ("pass", 0, 0, (0, 2))
    assert empty.worst is empty.sensitivity is empty.diagnosis is None
    assert len(empty.entries) == len(empty.wrong_entries) == 0
    assert empty.max_relative_error == empty.max_absolute_error == empty.relative_error == 0
    row = next(line for line in rows(mixed) if line[0] == "empty")
    assert row == ["empty", "(0, 2)", "0/0", "-", "-", "pass"]


def test_a_report_on_nothing_but_size_0() -> None:
    report = fastgc.check_gradients(lambda p: 1.0, {"a": np.empty(0)}, {"a": np.empty(0)})
    assert report.verdict == "pass"
    assert str(report).startswith("PASS  1 tensor agrees   0 of 0 entries")
    assert "worst" not in str(report)
    assert json.loads(report.to_json()) == report.to_dict()


# --- dict and JSON ---

KEYS = {
    "GradientReport": {"verdict", "passed", "tensors", "evaluations", "seconds", "seed", "engine", "crosscheck"},
    "TensorSummary": {
        "name", "shape", "size", "checked", "verdict", "reason", "max_relative_error", "max_absolute_error",
        "relative_error", "worst", "entries", "wrong_entries", "probe", "diagnosis",
    },
    "Entry": {
        "tensor", "index", "point", "analytic", "numerical", "uncertainty", "step", "relative_error", "verdict",
        "reason",
    },
    "Diagnosis": {"kind", "message", "factor", "axis", "indices", "evidence", "alternatives"},
    "Evidence": {"entries", "wrong", "extra", "deviation"},
}  # fmt: skip


def plain(value: Any) -> Any:
    """An attribute as the dict should hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def columns_of(entries: Any) -> dict[str, list[Any]]:
    """A list for each attribute of the entries."""
    keys = KEYS["Entry"] - {"tensor"}
    return {key: [plain(getattr(entry, key)) for entry in entries] for key in keys}


def compare(thing: Any, found: Any) -> None:
    """Every key is an attribute and holds what the attribute holds, all the way down."""
    kind = type(thing).__name__
    if kind == "Entries":
        assert found == columns_of(thing)
    elif isinstance(thing, Mapping):
        assert list(found) == list(thing)
        for key in thing:
            compare(thing[key], found[key])
    elif isinstance(thing, Sequence) and not isinstance(thing, (str, tuple)):
        assert len(found) == len(thing)
        for each, other in zip(thing, found, strict=True):
            compare(each, other)
    elif isinstance(found, Mapping):
        assert KEYS.get(kind, set()) <= found.keys(), kind
        for key in found.keys() - {"schema", "wrong_entries"}:
            compare(getattr(thing, key), found[key])
        if "wrong_entries" in found:
            assert [thing.entries[row] for row in found["wrong_entries"]] == list(thing.wrong_entries)
    else:
        assert found == plain(thing)
        assert type(found) in (str, int, float, bool, list, type(None))


def test_the_keys_are_the_attribute_names(mixed: Any) -> None:
    found = mixed.to_dict()
    assert found["schema"] == 1
    compare(mixed, found)


def test_the_keys_of_a_diagnosis_are_the_attribute_names() -> None:
    report = report_on({"a": 3})
    found = report.to_dict()
    assert found["tensors"]["a"]["diagnosis"].keys() >= KEYS["Diagnosis"]
    compare(report, found)


def refuse_constant(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def test_the_round_trip_is_equal(mixed: Any) -> None:
    assert json.loads(mixed.to_json(), parse_constant=refuse_constant) == mixed.to_dict()


@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_numbers_that_are_not_finite_are_words(value: float, word: str) -> None:
    report = report_on({"a": np.array([1, value, 1, 1, 1])})
    text = report.to_json()
    assert json.loads(text, parse_constant=refuse_constant) == report.to_dict()
    entries = json.loads(text)["tensors"]["a"]["entries"]
    assert entries["analytic"][1] == word
    assert entries["verdict"][1] == "fail"
    assert float(entries["analytic"][1]) == value or math.isnan(value)


def test_numbers_survive_to_the_last_bit() -> None:
    report = report_on({"a": 1 + 1e-9}, size=30)
    entries = json.loads(report.to_json())["tensors"]["a"]["entries"]
    assert entries["numerical"] == [entry.numerical for entry in report.tensors["a"].entries]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_receives_the_same_text(tmp_path: Path, kind: Any) -> None:
    report = report_on({"weights–β": 1})
    path = tmp_path / "report.json"
    text = report.to_json(kind(path))
    assert path.read_text(encoding="utf-8").rstrip("\n") == text
    assert json.loads(path.read_text(encoding="utf-8")) == report.to_dict()
    assert text == report.to_json()


def test_numbers_of_numpy_become_plain_ones() -> None:
    report = report_on({"a": 1}, seed=np.int64(3), samples=np.int64(2), step=np.float64(1e-5), rtol=np.float32(1e-4))
    assert json.loads(report.to_json()) == report.to_dict()
    assert report.to_dict()["seed"] == 3


def test_jsons_of_one_seed_differ_only_in_their_seconds() -> None:
    first, second = (report_on({"a": 1, "b": 2}).to_dict() for _ in range(2))
    assert first | {"seconds": 0} == second | {"seconds": 0}


# --- entries, made when they are asked for ---


@pytest.fixture
def entries() -> Any:
    return fastgc.check_gradients(loss, {"w": np.ones((3, 4))}, {"w": np.ones((3, 4))}).tensors["w"].entries


def test_entries_are_a_sequence(entries: Any) -> None:
    assert isinstance(entries, Sequence)
    assert len(entries) == 12
    whole = list(entries)
    assert all(isinstance(entry, fastgc.Entry) for entry in whole)
    assert [entry.index for entry in whole] == [(i, j) for i in range(3) for j in range(4)]
    assert entries[0] == whole[0]
    assert entries[-1] == whole[-1]
    assert list(reversed(entries)) == whole[::-1]
    assert whole[5] in entries
    assert entries.index(whole[5]) == 5
    assert entries.count(whole[5]) == 1
    assert entries[np.int64(2)] == whole[2]


@pytest.mark.parametrize("where", [slice(2, 5), slice(None, None, -1), slice(-3, None), slice(5, 2), slice(0, 99, 4)])
def test_slices_are_sequences_of_the_same_entries(entries: Any, where: slice) -> None:
    part = entries[where]
    assert isinstance(part, Sequence)
    assert list(part) == list(entries)[where]
    assert list(part[1:]) == list(entries)[where][1:]


@pytest.mark.parametrize("where", [12, -13, 10**6])
def test_an_index_outside_is_an_error(entries: Any, where: int) -> None:
    with pytest.raises(IndexError):
        entries[where]


def test_an_entry_holds_plain_numbers_and_is_frozen(entries: Any) -> None:
    entry = entries[3]
    kinds = {field.name: type(getattr(entry, field.name)) for field in dataclasses.fields(entry)}
    assert kinds == {
        "tensor": str, "index": tuple, "point": int, "analytic": float, "numerical": float, "uncertainty": float,
        "step": float, "relative_error": float, "verdict": str, "reason": str,
    }  # fmt: skip
    assert all(type(i) is int for i in entry.index)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.analytic = 0.0


def test_entries_are_not_dumped_by_their_repr() -> None:
    report = report_on({"a": 1}, size=1000, samples="all")
    assert len(repr(report.tensors["a"].entries)) < 100
    assert len(repr(report.tensors["a"])) < 2000


def test_an_entry_of_a_single_number_has_an_empty_index() -> None:
    report = fastgc.check_gradients(lambda p: float(p) ** 2, np.array(4.0), np.array(2.0))
    assert report.tensors["params"].entries[0].index == ()
