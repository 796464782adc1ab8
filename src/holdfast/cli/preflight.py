"""What must hold before anything is started: inputs that can be read, [daemon], a user to run as, nothing that root must not trust."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.cli import output
from holdfast.cli.command import Call
from holdfast.linux.privileges import Identity
from holdfast.model.configuration import daemon_options
from holdfast.model.inputs import Inputs
from holdfast.model.options import DaemonOptions
from holdfast.supervisor import inputs as reading
from holdfast.supervisor import trust


@dataclass(frozen=True, slots=True)
class Ground:
    """What a command stands on."""

    inputs: Inputs
    options: DaemonOptions
    identity: Identity | None  # None: as whoever starts it


def examine(call: Call, *, foreground: bool = False) -> Ground:
    """Look at everything that can be known without the app. HoldfastError says what is wrong."""
    inputs = call.load(foreground=foreground)
    options, _origins = daemon_options(inputs, reading.read_secret)
    identity, remarks = reading.service_identity(options)
    for remark in remarks:
        output.note(remark)
    trust.check(inputs, options.app, identity)
    return Ground(inputs, options, identity)
