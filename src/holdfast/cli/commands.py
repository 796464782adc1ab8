"""The table of commands, in the order in which `holdfast help` shows them."""

from __future__ import annotations

from holdfast.cli import check, config, failed, foreground, guard, reload, restart, scale, stacks, start, status, stop, upgrade
from holdfast.cli.command import Command

_MODULES = (start, stop, restart, reload, upgrade, status, foreground, guard, scale, stacks, check, config, failed)

COMMANDS: dict[str, Command] = {module.COMMAND.name: module.COMMAND for module in _MODULES}
