"""Opening a ZeroMQ socket with every bound that libzmq knows."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from dataclasses import replace

import zmq

from holdfast.ingress.request import Limits, Listen
from holdfast.telemetry import events

KINDS = {"rep": zmq.ROUTER, "pull": zmq.PULL, "sub": zmq.SUB}

#: Messages that libzmq reads ahead, for each peer: what a job's clients can make us hold beyond `in_flight` is
#: max_clients x (RECEIVE_AHEAD x max_message). A ROUTER at the default of 1000 took 503 MiB from 50 peers.
RECEIVE_AHEAD = 16

#: Descriptors kept for the loop, libzmq, the workers.
OWN_FILES = 256

# A client whose host has vanished is noticed by the kernel (TCP keepalive) and not by ZeroMQ heartbeats: peers on
# libzmq 4.0 and 4.1 do not answer those and were cut with a request pending; and the kernel wakes nobody for it.
_KEEPALIVE = ((zmq.TCP_KEEPALIVE, 1), (zmq.TCP_KEEPALIVE_IDLE, 60), (zmq.TCP_KEEPALIVE_INTVL, 15), (zmq.TCP_KEEPALIVE_CNT, 4))


def open_socket(context: zmq.Context[zmq.Socket[bytes]], wanted: Listen) -> zmq.Socket[bytes]:
    """A socket of the wanted kind that does nothing yet: whoever counts its connections must be there first."""
    sock = context.socket(KINDS[wanted.transport])
    _bound(sock, wanted)
    return sock


def begin(sock: zmq.Socket[bytes], wanted: Listen, listener: int | None) -> None:
    """Listen on `listener`, which the socket owns from then on; or connect. ValueError or zmq.ZMQError when it cannot be."""
    if wanted.connect:
        sock.connect(wanted.endpoint)
    else:
        _listen(sock, wanted, listener)


def _bound(sock: zmq.Socket[bytes], wanted: Listen) -> None:
    limits = wanted.limits
    sock.set(zmq.LINGER, 0)
    sock.set(zmq.RCVHWM, RECEIVE_AHEAD)
    sock.set(zmq.MAXMSGSIZE, limits.max_message)
    sock.set(zmq.HANDSHAKE_IVL, max(1, int(limits.handshake * 1000)))
    for option, value in _KEEPALIVE:
        sock.set(option, value)
    if wanted.transport == "sub":
        for topic in wanted.topics or ("",):
            sock.set(zmq.SUBSCRIBE, topic.encode())
    if wanted.transport == "rep":
        # Without MANDATORY a ROUTER drops what a slow client does not read, and says nothing.
        sock.set(zmq.ROUTER_MANDATORY, 1)
        sock.set(zmq.SNDHWM, _send_ahead(limits))
        # HANDOVER: the latest connection of a fixed identity has it. Without, a client that comes back before libzmq has
        # forgotten its old connection (a vanished host, or just unread messages of it while the job is full) is ignored for
        # ever, and the next frame it sends is taken for its identity. The price: answers, parked ones too, go to whoever has
        # the identity now. So two clients must not share one, and a client that keeps its own across reconnects must tell
        # answers apart (ZMQ_REQ_CORRELATE, or an envelope frame of its own: both are echoed). Those without a fixed
        # identity, which is the default, get a new one with each connection: theirs are never mistaken.
        sock.set(zmq.ROUTER_HANDOVER, 1)


def _listen(sock: zmq.Socket[bytes], wanted: Listen, listener: int | None) -> None:
    """libzmq accepts on the supervisor's socket; the address is then only parsed, so a long path needs no tricks here."""
    if listener is None:
        raise ValueError(f"no listener for {wanted.endpoint}")
    os.set_blocking(listener, False)
    sock.set(zmq.USE_FD, listener)
    sock.bind("ipc://listener" if wanted.endpoint.startswith("ipc:") else wanted.endpoint)


def limit(sock: zmq.Socket[bytes], limits: Limits) -> None:
    """Tell libzmq of other limits. It copies its options when it binds, so this concerns the pipes that are there and nobody new;
    MAXMSGSIZE (tried) cannot be changed at all, and is that of the socket's beginning.
    """
    if sock.type == zmq.ROUTER:
        sock.set(zmq.SNDHWM, _send_ahead(limits))


def _send_ahead(limits: Limits) -> int:
    return min(1000, limits.in_flight_per_client)


def affordable(limits: Limits, granted: int, job: str) -> Limits:
    """The same with no more clients than there are descriptors for.

    At the limit of open files libzmq would neither accept nor wait: its thread would spin. So the limit is never reached:
    each door may use half of what the loop's own needs and the clients `granted` to other doors leave.
    """
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(1, (soft - OWN_FILES - granted) // 2)
    if limits.max_clients <= most:
        return limits
    events.log("clients.limited", f"the limit of open files allows {most} of max_clients", "warning", job=job)
    return replace(limits, max_clients=most)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody took."""
    for fd in fds:
        os.close(fd)
