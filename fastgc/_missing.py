"""What is said where a package that only some functions need is not installed."""

from __future__ import annotations

# By extra of the distribution, with the ranges that it declares: pip is told of the packages themselves, so that the
# command is right wherever fastgc itself came from.
EXTRAS = {
    "plot": ("matplotlib>=3.8.4",),
    "workers": ("joblib>=1.5", "cloudpickle>=3.0"),
    "torch": ("torch>=2.4",),
    "jax": ("jax>=0.4.38",),
}

_WORDS = {"torch": "PyTorch", "jax": "JAX"}  # for packages whose own name is another


def missing(user: str, extra: str) -> ImportError:
    """The error that names what needs the packages of an extra, and the command that installs them."""
    packages = [requirement.partition(">=")[0] for requirement in EXTRAS[extra]]
    named = " and ".join(_WORDS.get(package, package) for package in packages)
    quoted = " ".join(f'"{requirement}"' for requirement in EXTRAS[extra])
    return ImportError(f"{user} needs {named}: python -m pip install {quoted}")
