"""Addresses of limiters: ``unix:PATH`` and ``tcp:HOST:PORT``."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import Final

__all__ = ["LimiterAddress", "parse_limiter_address"]

_TCP: Final = re.compile(r"(\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_LONGEST_PATH: Final = 107
"""Bytes: the system calls take no longer path of a Unix socket."""


@dataclass(frozen=True)
class LimiterAddress:
    """Where a limiter listens.

    Parameters
    ----------
    path : str or None
        Of a Unix socket; None for TCP.
    host : str
        Of TCP, without brackets.
    port : int
        Of TCP.
    """

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        """Write the address as it is parsed."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


def parse_limiter_address(value: object, *, any_port: bool = False) -> LimiterAddress:
    """Parse ``unix:PATH`` or ``tcp:HOST:PORT``. ``any_port`` allows port 0, to listen on a free one.

    Raises
    ------
    TypeError, ValueError
        It is no str, or none of the two.
    """
    if not isinstance(value, str):
        raise TypeError(f"the address of a limiter must be a str, got {type(value).__name__}")
    scheme, _, rest = value.partition(":")
    if scheme == "unix" and rest and "\0" not in rest:
        if not hasattr(socket, "AF_UNIX"):
            raise ValueError(f"{value!r}: this system has no Unix sockets: use tcp:127.0.0.1:PORT")
        if len(os.fsencode(rest)) > _LONGEST_PATH:
            raise ValueError(
                f"{value!r}: the path of a Unix socket has {_LONGEST_PATH} bytes at most, this one has "
                f"{len(os.fsencode(rest))}"
            )
        return LimiterAddress(path=rest)
    found = _TCP.fullmatch(rest) if scheme == "tcp" else None
    if found is not None:
        port = int(found["port"])
        if (0 if any_port else 1) <= port < 65_536:
            return LimiterAddress(host=found["v6"] or found["host"], port=port)
    raise ValueError(f"the address of a limiter must be unix:PATH or tcp:HOST:PORT, got {value!r:.200}")
