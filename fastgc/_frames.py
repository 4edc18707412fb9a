"""Tracebacks without the frames of this package: a user looks for the line of theirs that raised."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

_PACKAGE = str(Path(__file__).parent)
_IMPORTS = "<frozen importlib"  # the frames of imports, between those of the modules
_CONTEXTS = contextlib.__file__  # those of functions that run in a context


def users_frames(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of fastgc, of imports and of contexts; None if it has no others."""
    if traceback is None:
        return None
    rest = users_frames(traceback.tb_next)
    if traceback.tb_frame.f_code.co_filename.startswith((_PACKAGE, _IMPORTS, _CONTEXTS)):
        return rest
    return TracebackType(rest, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)
