"""Which of two listeners on one TCP address gets the new connections.

Listeners that share an address by SO_REUSEPORT are a group, in which the kernel numbers them in the order in which they began
to *listen* (one that is only bound is no member). A program of one instruction, attached to any member and kept by the group, says
the number of the one that gets the next connection; connections that are there already stay where they are. Tried on Linux 6.18:

- Without a program a newcomer has its share from the moment it listens. So: `steer(old, 0)` before the new one listens, always,
  `steer(old, 1)` once somebody serves the new one.
- When the older one is closed (by everybody who has it) the newer becomes number 0. The program `1` then names nobody, and the
  kernel falls back to its own choice: of one member that one, so no connection is refused. But a third that joined then would be
  number 1 and get every connection before anybody serves it. So `release` when the older one has gone: the group is
  as it was in the beginning, and the next `steer(…, 0)` comes before the next newcomer listens anyway.
- When the newer one is closed while the program says 1, the older gets the connections again.
- Of three, the last takes the number of the first that leaves: never more than two.
"""

from __future__ import annotations

import socket

from holdfast.linux import classic

_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68


def steer(member: socket.socket, number: int) -> None:
    """From now on every new connection to this address goes to the listener with this number; any member tells all of the group.

    OSError (EINVAL) for a socket without SO_REUSEPORT, and for UNIX sockets.
    """
    classic.attach(member, _SO_ATTACH_REUSEPORT_CBPF, [(classic.RETURN, 0, 0, number)])


def release(member: socket.socket) -> None:
    """The kernel chooses again, by a hash of the addresses; also when it did so already."""
    classic.detach(member, _SO_DETACH_REUSEPORT_BPF)
