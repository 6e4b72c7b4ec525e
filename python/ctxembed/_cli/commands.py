"""All commands."""

from __future__ import annotations

# Each adds its commands to the application, in the order of the help.
from ctxembed._cli import embed_command, plan_command, search_command, collection_commands, machine_commands  # isort: skip
from ctxembed._cli.app import app

__all__ = ["app", "collection_commands", "embed_command", "machine_commands", "plan_command", "search_command"]
