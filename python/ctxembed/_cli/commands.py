"""All commands."""

from __future__ import annotations

# Each adds its commands to the application, in the order of the help.
# isort: off
from ctxembed._cli import embed_command, plan_command, search_command, collection_commands
from ctxembed._cli import eval_command, export_command, migrate_command, machine_commands, limiter_command, mcp_command

# isort: on
from ctxembed._cli.app import app

__all__ = [
    "app",
    "collection_commands",
    "embed_command",
    "eval_command",
    "export_command",
    "limiter_command",
    "machine_commands",
    "mcp_command",
    "migrate_command",
    "plan_command",
    "search_command",
]
