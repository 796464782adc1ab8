"""The commands, in the order in which `holdfast help` shows them.

Each is imported when it is asked for: a command to a daemon under load takes its processor time from that daemon and its clients.
"""

from __future__ import annotations

import importlib

from holdfast.cli.command import Command

VERBS = ("start", "stop", "restart", "reload", "upgrade", "status", "foreground", "guard", "scale", "stacks", "check", "config", "failed")


def command_of(verb: str) -> Command | None:
    """The command of this name; None when there is none."""
    if verb not in VERBS:
        return None
    found: Command = importlib.import_module(f"holdfast.cli.{verb}").COMMAND
    return found


def all_commands() -> list[Command]:
    """Every one."""
    return [command for verb in VERBS if (command := command_of(verb)) is not None]
