"""``python -m ctxembed`` and the ``ctxembed`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from ctxembed._cli import run

    run()


if __name__ == "__main__":
    main()
