"""Objects whose attributes are computed when somebody first asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self


class Deferred:
    """A base of dataclasses without slots, and without defaults of those attributes that come late."""

    @classmethod
    def deferred(cls, rest: Callable[[], Mapping[str, object]], **known: object) -> Self:
        """An object with these attributes; the first question for another one computes the ``rest``, all at once."""
        found = object.__new__(cls)
        vars(found).update(known, _rest=rest)
        return found

    def __getattr__(self, name: str) -> Any:
        """An attribute that is not there yet."""
        rest = vars(self).get("_rest")
        if rest is None and name in vars(self):  # another thread has computed it
            return vars(self)[name]
        if rest is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        vars(self).update({key: value for key, value in rest().items() if key not in vars(self)}, _rest=None)
        return getattr(self, name)

    def __getstate__(self) -> dict[str, object]:
        """All attributes, for pickles and copies."""
        if (rest := vars(self).get("_rest")) is not None:
            vars(self).update(rest(), _rest=None)
        return {key: value for key, value in vars(self).items() if key != "_rest"}
