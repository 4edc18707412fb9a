"""The options of a check of a Jacobian: those of a gradient, and which columns are measured."""

from __future__ import annotations

from dataclasses import dataclass

from fastgc._arguments import number, one_of, whole
from fastgc._gradient.options import CheckOptions
from fastgc._words import Columns


@dataclass(frozen=True, kw_only=True)
class JacobianOptions(CheckOptions):
    """How a Jacobian is checked: the options of `fastgc.check_jacobian`, under the same names.

    Raises
    ------
    TypeError, ValueError
        Naming the option, its value and what it may be.
    """

    rtol: float | None = None
    atol: float | None = None
    columns: Columns = None

    def __post_init__(self) -> None:
        number("rtol", self.rtol)
        number("atol", self.atol)
        super().__post_init__()
        if isinstance(self.columns, str):
            one_of("columns", self.columns, ("all",))
        else:
            whole("columns", self.columns, least=1, optional=True)

    def refuse_array(self, name: str, given: object) -> None:
        """Raise a ValueError where a derivative given as an array cannot go with the options."""
        if self.points > 1 and not (given is None or callable(given)):
            raise ValueError(
                f"points={self.points} needs {name} as a function, to have it at every point; got an array"
            )
