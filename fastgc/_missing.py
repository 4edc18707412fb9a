"""The message for a missing package that only some functions need."""

from __future__ import annotations

# The packages of each extra, with the ranges that the distribution declares. The command names these packages, not the
# extra, so that it is right wherever fastgc was installed from.
EXTRAS = {
    "plot": ("matplotlib>=3.8.4",),
    "frame": ("pandas>=2.2.2",),
    "workers": ("joblib>=1.5", "cloudpickle>=3.0"),
    "torch": ("torch>=2.4",),
    "jax": ("jax>=0.4.38",),
}

TITLES = {"torch": "PyTorch", "jax": "JAX"}  # of packages that call themselves by another name


def missing(user: str, extra: str) -> ImportError:
    """The error for a function (``user``) that needs the packages of an extra, with the command that installs them."""
    packages = [requirement.partition(">=")[0] for requirement in EXTRAS[extra]]
    named = " and ".join(TITLES.get(package, package) for package in packages)
    quoted = " ".join(f'"{requirement}"' for requirement in EXTRAS[extra])
    return ImportError(f"{user} needs {named}: python -m pip install {quoted}")
