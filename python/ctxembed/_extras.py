"""Imports packages that only an extra installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["require"]


def require(module: str, extra: str, user: str) -> Any:
    """Import an optional module.

    Parameters
    ----------
    module : str
        Its dotted name.
    extra : str
        The extra of ctxembed that installs it.
    user : str
        What needs it, as the subject of the message: ``"ctxembed.chunk"``.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        The package is not installed. The message names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # the package is there, and lacks something of its own
        raise ModuleNotFoundError(f"{user} needs {package}: pip install 'ctxembed[{extra}]'", name=package) from error
