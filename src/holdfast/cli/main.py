"""`holdfast VERB [TARGET] [options]`: from the words of a command line to an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import holdfast
from holdfast.cli import output
from holdfast.cli.command import Command, call_of, parser_of
from holdfast.cli.commands import VERBS, all_commands, command_of
from holdfast.errors import HoldfastError, NoRightsError, UsageError

_USAGE = "usage: holdfast VERB [TARGET] [options]"
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; never raises for what a user can do wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = command_of(words[0]) if words else None
    try:
        status = _run(command, words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has had enough; keep the interpreter from complaining about it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        return _failed(command, error)


def _run(command: Command | None, words: list[str]) -> int:
    if command is not None:
        arguments = parser_of(command).parse_intermixed_args(words[1:])
        return command.run(arguments, call_of(arguments))
    return _without_command(words)


def _without_command(words: list[str]) -> int:
    """help, --help, --version, and what is no command at all."""
    if words and words[0] in {"--version", "-V", "version"}:
        output.say(f"holdfast {holdfast.__version__}")
        return 0
    if words and words[0] in {"help", "--help", "-h"}:
        return _help(words[1] if len(words) > 1 and words[0] == "help" else "")
    if not words:
        print(_overview(), file=sys.stderr)
        return UsageError.exit_status
    raise _unknown(words[0])


def _help(verb: str) -> int:
    """Of a verb, or of all that there is."""
    meant = command_of(verb)
    if meant is None and verb not in {"", "help"}:
        raise _unknown(verb)
    output.say(parser_of(meant).format_help().rstrip() if meant else _overview())
    return 0


def _unknown(verb: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(verb, [*VERBS, "help"], 1)
    return UsageError(f"unknown command '{verb}'", remedy=f"did you mean '{near[0]}'?" if near else "see 'holdfast help'")


def _overview() -> str:
    rows = [[command.name, command.summary] for command in all_commands()] + [["help", "Show this, or with a VERB the help of it."]]
    return "\n".join(
        [
            "Holdfast turns a Python class into a daemon that never drops a message it has acknowledged.",
            "",
            _USAGE,
            "       python fee.py VERB [options]",
            "",
            "TARGET is the app (fee.py), a holdfast.toml, or its folder; without one, ./holdfast.toml.",
            "",
            *output.columns(rows, "  "),
            "",
            "'holdfast VERB --help' shows the options of a command, 'holdfast --version' the version.",
        ]
    )


def _failed(command: Command | None, error: Exception) -> int:
    if isinstance(error, PermissionError):
        error = NoRightsError(_said(error))
    elif isinstance(error, OSError):
        error = HoldfastError(_said(error))
    if not isinstance(error, HoldfastError):
        import traceback

        traceback.print_exception(error)
        output.note("this is a bug of holdfast; please report it with the lines above")
        return 70
    output.complain(error)
    return (command.statuses if command else {}).get(error.exit_status, error.exit_status)


def _said(error: OSError) -> str:
    what = error.strerror or str(error)
    return f"{what}: {error.filename}" if error.filename else what
