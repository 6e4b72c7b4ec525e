"""All commands."""

from __future__ import annotations

# The order is that of the help.
from ctxembed._cli.app import app
from ctxembed._cli import embed_command, plan_command, search_command, collection_commands, machine_commands  # isort: skip

__all__ = ["app", "collection_commands", "embed_command", "machine_commands", "plan_command", "search_command"]
