"""Reports read from the files that they were saved to."""

from __future__ import annotations

import json
from pathlib import Path

import fastgc
from fastgc._reports.saved import SCHEMA, Saved, made, summary_from


def load_report(path: str | Path) -> fastgc.GradientReport | fastgc.JacobianReport | fastgc.ProblemReport:
    """The report that ``to_json`` wrote to a file, with the same text, pictures and pages.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    GradientReport, JacobianReport or ProblemReport
        Without the entries that were left out (``to_json(entries="wrong")``).

    Raises
    ------
    ValueError
        If the file holds no report, or one of another version of the schema.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import fastgc
    >>> report = fastgc.check_gradients(lambda p: p @ p, lambda p: 2 * p, np.ones(3))
    >>> path = pathlib.Path(tempfile.mkdtemp(), "report.json")
    >>> _ = report.to_json(path)
    >>> str(fastgc.load_report(path)) == str(report)
    True
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON, and no report: {error}") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise ValueError(f"{path} is no report: it has no 'schema'")
    if found["schema"] != SCHEMA:
        raise ValueError(f"{path} has the schema {found['schema']!r}; this version of fastgc reads {SCHEMA}")
    try:
        return _problem(found) if "sections" in found else _report(found)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is no complete report: {type(error).__name__}: {error}") from error


def _problem(found: Saved) -> fastgc.ProblemReport:
    sections = {name: _report(each) for name, each in found["sections"].items()}
    return fastgc.ProblemReport(found["verdict"], sections, tuple(found["notes"]))


def _report(found: Saved) -> fastgc.GradientReport | fastgc.JacobianReport:
    if "tensors" not in found:
        shape = tuple(found["output_shape"]) + tuple(found["input_shape"])
        jacobian: fastgc.JacobianReport = summary_from(fastgc.JacobianReport, found, "jacobian", shape)
        return jacobian
    tensors = {
        name: summary_from(fastgc.TensorSummary, each, name, tuple(each["shape"]))
        for name, each in found["tensors"].items()
    }
    report: fastgc.GradientReport = made(fastgc.GradientReport, {**found, "tensors": tensors})
    return report
