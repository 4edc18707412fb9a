"""Reports as JSON: columns of entries, the published schema, and the same report read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import fastgc
from fastgc._reports.entries import Entries
from tests.support.reports import REPORTS, many_entries

SCHEMA = json.loads(resources.files("fastgc").joinpath("report.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("entries", ["all", "wrong"])
@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_the_json_of_every_report_follows_the_schema(make: Callable[[], Any], entries: Any) -> None:
    found = json.loads(make().to_json(entries=entries))
    VALIDATOR.validate(found)
    assert set(found) == {"schema", "passed", *made_of(make())}
    assert found == make().to_dict(entries) | {"seconds": found["seconds"]}


def made_of(report: Any) -> set[str]:
    return set(type(report).__dataclass_fields__)


@pytest.mark.parametrize("key", ["verdict", "environment", "seed"])
def test_the_schema_sees_what_is_missing(key: str) -> None:
    found = REPORTS["fail"]().to_dict()
    del found[key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        VALIDATOR.validate(found)


def test_the_environment_says_what_the_report_was_made_with() -> None:
    found = REPORTS["pass"]().to_dict()["environment"]
    assert found["fastgc"] == fastgc.__version__
    assert found["numpy"] == np.__version__
    assert all(found[key] for key in ("python", "platform"))
    assert len(found["date"].split("-")) == 3


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_a_report_read_back_shows_the_same(make: Callable[[], Any], tmp_path: Path) -> None:
    report, path = make(), tmp_path / "report.json"
    report.to_json(path)
    other = fastgc.load_report(path)
    assert type(other) is type(report)
    assert str(other) == str(report)
    assert other.to_html() == report.to_html()
    assert other.to_markdown() == report.to_markdown()
    assert other.to_json() == report.to_json()
    assert other.environment == report.environment


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_without_right_entries_the_text_is_the_same(make: Callable[[], Any], tmp_path: Path) -> None:
    report = make()
    report.to_json(tmp_path / "wrong.json", entries="wrong")
    other: Any = fastgc.load_report(tmp_path / "wrong.json")
    assert str(other) == str(report).partition("\nanalytic (* differs)")[0]  # both matrices, which lack entries
    for part, first in zip(other._contents().parts, report._contents().parts, strict=True):
        assert (
            list(map(repr, part.entries)) == list(map(repr, part.wrong_entries)) == list(map(repr, first.wrong_entries))
        )


def test_many_entries_take_little_room(tmp_path: Path) -> None:
    """Below 60 bytes each, a third of what a dict for each would take."""
    report = many_entries(20_000)
    text = report.to_json(tmp_path / "report.json")
    assert len(text) < 60 * 20_000
    VALIDATOR.validate(json.loads(text))
    entries = json.loads(text)["tensors"]["w"]["entries"]
    assert entries["index"] is None and "relative_error" not in entries
    other: Any = fastgc.load_report(tmp_path / "report.json")
    mine, read = report.tensors["w"].entries, other.tensors["w"].entries
    assert set(read.columns) == set(mine.columns)
    for key, column in mine.columns.items():
        np.testing.assert_array_equal(read.columns[key], column)
    assert str(other) == str(report)


def test_some_of_many_entries_keep_their_places(tmp_path: Path) -> None:
    whole = many_entries(20_000)
    tensor = whole.tensors["w"]
    part = tensor.entries.part(np.arange(1, 20_000, 3))
    wrong = part.part(np.flatnonzero(part.columns["verdict"] == "fail")[::-1])
    report = replace(whole, tensors={"w": replace(tensor, entries=part, wrong_entries=wrong)})
    report.to_json(tmp_path / "report.json")
    other: Any = fastgc.load_report(tmp_path / "report.json")
    assert list(other.tensors["w"].entries[:50]) == list(part[:50])
    assert list(other.tensors["w"].wrong_entries) == list(wrong)


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    report = many_entries(2_000)
    columns = dict(report.tensors["w"].entries.columns)
    for key in ("analytic", "uncertainty"):
        columns[key] = columns[key].copy()
        columns[key][:3] = np.nan, np.inf, -np.inf
    columns["relative_error"] = np.where(np.isfinite(columns["analytic"]), columns["relative_error"], np.nan)
    tensor = report.tensors["w"]
    entries = Entries("w", tensor.shape, tensor.entries.local, columns)
    replace(report, tensors={"w": replace(tensor, entries=entries)}).to_json(tmp_path / "report.json")
    other: Any = fastgc.load_report(tmp_path / "report.json")
    for key in ("analytic", "uncertainty"):
        np.testing.assert_array_equal(other.tensors["w"].entries.columns[key], columns[key])


# --- what is no report ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is no JSON, and no report"),
        ("[1]", "is no report: it has no 'schema'"),
        ('{"verdict": "pass"}', "is no report: it has no 'schema'"),
        ('{"schema": 99}', "has the schema 99; this version of fastgc reads 1"),
        ('{"schema": 1, "verdict": "pass"}', "is no complete report: KeyError"),
        ('{"schema": 1, "tensors": {"w": 3}}', "is no complete report"),
    ],
)
def test_what_is_no_report_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        fastgc.load_report(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        fastgc.load_report("no such file.json")


def test_other_words_for_the_entries_are_refused() -> None:
    with pytest.raises(ValueError, match="entries is 'right'; it must be one of 'all', 'wrong'"):
        REPORTS["pass"]().to_json(entries="right")
