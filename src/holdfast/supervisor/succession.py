"""One program of ours after another in the same process: what is handed over, the exec, and the beginning of the next one.

The kernel keeps the PID, the children, the locks, the umask, the working directory, the subreaper flag, and every descriptor that is
inherited. Signals are blocked from before the exec until the next program has its handlers: those that come in between wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import holdfast
from holdfast.errors import InternalError
from holdfast.linux.channel import to_memfd
from holdfast.model.fleet_state import FleetState
from holdfast.supervisor.commands import Commands
from holdfast.supervisor.daemon import Read, Supervisor, jitter
from holdfast.supervisor.ground import Ground, become_reaper
from holdfast.supervisor.instance import Instance
from holdfast.supervisor.loop import Loop, block_signals
from holdfast.supervisor.offspring import ITSELF, STANDARD_LIBRARY_ONLY, Launch, Program
from holdfast.supervisor.reload import Answer, Asker
from holdfast.supervisor.report import Report
from holdfast.supervisor.state import Envelope, GroundState, State
from holdfast.telemetry import events

Reader = Callable[[dict[str, Any], Ground], Read]


class Succession:
    """What the next program needs beside what the supervisor knows: the command line's document, and what is to be executed."""

    def __init__(self, document: dict[str, Any], program: Program, commands: Commands) -> None:
        self._document = document
        self._program = program
        self._commands = commands

    def envelope(self, supervisor: Supervisor, signals: bytes = b"") -> Envelope:
        """Everything, as it is now."""
        ground = supervisor.ground
        state = State(
            before=ground.version,
            ground=GroundState(
                self._document, self._program, ground.options, ground.identity, tuple(ground.instance.locks), ground.terminal
            ),
            started=supervisor.started,
            fleet=FleetState.of(supervisor.fleet),
            generations=supervisor.generations.state(),
            children=supervisor.family.state(),
            entries=supervisor.entries.state(),
            logs=supervisor.logs.state(),
            effects=supervisor.effects.state(),
            totals=supervisor.totals,
            numbers=supervisor.numbers,
            settings_numbers=supervisor.settings_numbers,
            respawns=supervisor.respawns,
            watch=supervisor.watch.state(),
            server=self._commands.state(),
            waiting=supervisor.reloads.state(),
            signals=signals,
        )
        return Envelope.of(state, ITSELF)

    def checker(self, ground: Ground, state: int, said: int) -> Launch:
        """How the new program is looked at: with a copy of the state, and with its output in a memory file."""
        return dataclasses.replace(ground.launch("check", {}, "/", fds={"state": state}, log_fd=said), program=self._program)

    def execute(self, supervisor: Supervisor) -> NoReturn:
        """Become the new program. OSError when that is not possible; then nothing has changed."""
        signals = supervisor.loop.hold_signals()
        try:
            envelope = self.envelope(supervisor, signals)
            events.log("upgrade.exec", f"from {supervisor.ground.version}")
            _hand_over(self._program, envelope, self._document["environ"])
        except BaseException:
            supervisor.loop.let_signals()
            for number in signals:
                self._commands.signalled(number)
            raise

    def begin_afresh(self, ground: Ground) -> NoReturn:
        """Start again from nothing but the locks, when all has ended."""
        block_signals()
        os.dup2(ground.terminal, 1)
        os.dup2(ground.terminal, 2)
        boot = to_memfd("supervisor-boot", json.dumps(self._document).encode())
        locks = ground.instance.locks
        words = ("--boot", str(boot), "--locks", ",".join(map(str, locks)))
        _execute(self._program, words, (boot, *locks), self._document["environ"])


def restored(envelope: Envelope, reader: Reader) -> tuple[Supervisor, Commands, State]:
    """The supervisor as it was, in this program. Nobody is told anything and nothing is reaped before it is there."""
    for fd in envelope.descriptors:
        os.set_inheritable(fd, False)
    state = envelope.opened()
    ground = _ground(state.ground)
    commands = Commands(Report(None))
    current = next(one for one in state.generations.known if one.number == state.generations.current)
    read = reader(state.ground.document, ground)
    supervisor = Supervisor(ground, current, read, Loop(commands.signalled), commands.concluded, lambda _text: None)
    supervisor.succession = Succession(state.ground.document, state.ground.program, commands)
    _fill(supervisor, state)
    commands.restore(state.server, supervisor)
    become_reaper()
    return supervisor, commands, state


def go_back(envelope: Envelope, error: BaseException) -> int:
    """This program cannot go on: let the one before do it, if that is another one; else the exit status, for a guard or systemd."""
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="replace"))
    if not envelope.refused and envelope.writer != ITSELF:
        back = dataclasses.replace(envelope, refused=f"{type(error).__name__}: {error}")
        environ = envelope.state["ground"]["document"]["environ"]
        with contextlib.suppress(OSError):
            _hand_over(envelope.writer, back, environ)
    return InternalError.exit_status


def _ground(state: GroundState) -> Ground:
    options = state.options
    return Ground(
        options=options,
        identity=state.identity,
        instance=Instance(options.run_dir, options.state_dir, options.name, state.identity, state.locks),
        environ=dict(state.document["environ"]),
        foreground=state.document["foreground"],
        version=holdfast.__version__,
        pid=os.getpid(),
        terminal=state.terminal,
        guard=state.document.get("guard", 0),
    )


def _fill(supervisor: Supervisor, state: State) -> None:
    supervisor.fleet = state.fleet.fleet(jitter)
    supervisor.generations.restore(state.generations)
    supervisor.family.restore(state.children)
    supervisor.entries.restore(state.entries)
    supervisor.logs.restore(state.logs)
    supervisor.effects.restore(state.effects)
    supervisor.watch.restore(state.watch)
    supervisor.totals, supervisor.respawns = state.totals, state.respawns
    supervisor.numbers, supervisor.settings_numbers = state.numbers, state.settings_numbers
    supervisor.resume(state.started)


def go_on(supervisor: Supervisor, commands: Commands, state: State, refused: str) -> None:
    """Tell who waits, reap who has died meanwhile, take the signals that have come."""
    version = supervisor.ground.version
    if refused:
        supervisor.reloads.not_upgraded(state.waiting, commands.asker, f"the new program could not go on: {refused}; the old one goes on")
    else:
        events.log("upgrade.done", f"from {state.before} to {version}; a reload follows")
        from holdfast.linux.code import ingress_digest  # which parses sources: not before an upgrade

        supervisor.reloads.ingress_digest = ingress_digest()
        supervisor.reloads.restore(state.waiting, commands.asker, lambda asker: _of_upgrade(supervisor, asker, state.before))
    supervisor.family.reap()
    supervisor.loop.take_signals()
    for number in state.signals:
        commands.signalled(number)


def _of_upgrade(supervisor: Supervisor, asker: Asker, before: str) -> Asker:
    """Hears of the reload as the second half of an upgrade."""
    version = supervisor.ground.version

    def answer(verdict: Answer) -> None:
        if verdict["exit"]:
            asker.answer({**verdict, "error": f"framework upgraded from {before} to {version}, application kept: {verdict['error']}"})
        else:
            result = {**verdict["result"], "changes": [*verdict["result"]["changes"]], "before": before, "version": version}
            supervisor.reloads.upgraded(asker, {**verdict, "result": result})

    return dataclasses.replace(asker, answer=answer)


def _hand_over(program: Program, envelope: Envelope, environ: dict[str, str]) -> NoReturn:
    state = to_memfd("state", envelope.to_bytes())
    try:
        _execute(program, ("--state", str(state)), (state, *envelope.descriptors), environ)
    finally:
        os.close(state)


def _execute(program: Program, words: Iterable[str], fds: Iterable[int], environ: dict[str, str]) -> NoReturn:
    """Nothing but these descriptors, and the three standard ones, reaches it."""
    kept = list(fds)
    for fd in kept:
        os.set_inheritable(fd, True)
    try:
        os.execve(program.executable, program.words("supervisor", *words, flags=STANDARD_LIBRARY_ONLY), environ)
    finally:
        for fd in kept:
            os.set_inheritable(fd, False)
