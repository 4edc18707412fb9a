"""What all reports can do: be shown, drawn, saved, and handed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from fastgc._public import public
from fastgc._reports.contents import Contents
from fastgc._words import PASS, PictureKind, Verdict, Which

if TYPE_CHECKING:
    from fastgc._reports.figure import Axes


@public
class Report:
    """What a `GradientReport` and a `JacobianReport` can do. What a method needs is imported when it is called.

    Attributes
    ----------
    verdict : "pass" | "fail" | "undecided"

    Examples
    --------
    >>> import numpy as np
    >>> import fastgc
    >>> def first_line(report: fastgc.Report) -> str:
    ...     return str(report).splitlines()[0]
    >>> first_line(fastgc.check_jacobian(lambda x: 2 * x, 2 * np.eye(3), np.ones(3)))
    'PASS  every checked entry agrees   9 of 9 entries (3 outputs, 3 inputs) checked one by one'
    """

    verdict: Verdict

    @property
    def passed(self) -> bool:
        """Whether the verdict is "pass"."""
        return self.verdict == PASS

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return str(self)

    def _contents(self) -> Contents:
        """What pages and pictures show."""
        raise NotImplementedError

    def to_dict(self, entries: Which = "all") -> dict[str, Any]:
        """The report as dicts, lists, strings and finite numbers; "nan", "inf" and "-inf" stand for the others.

        The keys are the names of the attributes. Entries are columns: a list for each attribute; ``wrong_entries`` are
        rows of these. See `to_json`.
        """
        from fastgc._reports.saved import SCHEMA, plain

        return {"schema": SCHEMA, "passed": self.passed, **plain(self, entries)}

    def to_json(self, path: str | Path | None = None, entries: Which = "all") -> str:
        """The report as JSON text, which is also written to ``path`` if that is given; `load_report` reads it.

        Parameters
        ----------
        path : str or Path, optional
            The file.
        entries : "all" | "wrong"
            Which entries are written.

        Notes
        -----
        ``fastgc/report.schema.json`` in the package describes the keys. From 1,000 entries of a tensor on, a column of
        few different values is ``{"values": [...], "codes": [...]}``, ``relative_error``, which follows from
        ``analytic`` and ``numerical``, is left out, and ``index`` is null where every entry stands in its place.
        """
        from fastgc._arguments import one_of
        from fastgc._reports.saved import written

        one_of("entries", entries, get_args(Which))
        return _saved(written(self.to_dict(entries)), path)

    def to_html(self, path: str | Path | None = None) -> str:
        """The report as one HTML page without scripts, which is also written to ``path`` if that is given."""
        from fastgc._reports.page import page

        return _saved(page(self._contents()), path)

    def to_markdown(self) -> str:
        """The report for a pull request, in GitHub's and GitLab's Markdown."""
        from fastgc._reports.markdown import markdown

        return markdown(self._contents())

    def to_dataframe(self) -> Any:
        """A row for each checked entry, in columns by the attributes of `Entry`: pandas, or else polars.

        Raises
        ------
        ImportError
            If neither is installed, with the command that installs one.
        """
        from fastgc._reports.frame import frame

        return frame([part.entries for part in self._contents().parts])

    @np.errstate(all="ignore")
    def plot(self, kind: PictureKind = "scatter", tensor: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw a picture of a tensor's entries with matplotlib.

        Parameters
        ----------
        kind : "scatter" | "map" | "steps" | "errors"
            The analytic against the numerical values; wrong, undecided, right and unseen entries by their place;
            errors of difference quotients by step, for one entry; errors by place.
        tensor : str, optional
            Its name; by default the worst one (for "steps", of those with a `ladder`).
        ax : matplotlib Axes, optional
            The axes to draw on; by default those of a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError
            For an unknown kind or tensor, and for "steps" where no entry was measured at several steps.
        ImportError
            If matplotlib is not installed, with the command that installs it.
        """
        from fastgc._reports.figure import drawn
        from fastgc._reports.picture import picture

        return drawn(picture(self._contents().part(tensor, by_step=kind == "steps"), kind), ax)

    def _repr_html_(self) -> str:
        from fastgc._reports.page import fragment

        return fragment(self._contents())


def _saved(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return text
