"""The table of commands, in the order in which `holdfast help` shows them."""

from __future__ import annotations

from holdfast.cli import check, config, failed, foreground, guard, restart, start, status, stop
from holdfast.cli.command import Command

COMMANDS: dict[str, Command] = {
    module.COMMAND.name: module.COMMAND for module in (start, stop, restart, status, foreground, guard, check, config, failed)
}
