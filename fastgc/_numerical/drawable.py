"""Results that are shown as text, and as a picture on logarithmic axes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from fastgc._public import public
from fastgc._reports.figure import drawn
from fastgc._reports.page import figure
from fastgc._reports.picture import Picture

if TYPE_CHECKING:
    from fastgc._reports.figure import Axes


@public
class Drawable(ABC):
    """A result with a text, which is its repr, too, and a picture."""

    @abstractmethod
    def _picture(self) -> Picture:
        """The picture, without anything that draws it."""

    def __repr__(self) -> str:
        return str(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the result on logarithmic axes, as its class describes.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            The axes to draw on; by default those of a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed, with the command that installs it.
        """
        return drawn(self._picture(), ax)

    def _repr_html_(self) -> str:
        return figure(self._picture(), str(self))
