"""Classic BPF: small programs for sockets, which need no right and no compiler."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence

LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS: of the packet, at k
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip when true, when false, k: `struct sock_filter`."""


def attach(sock: socket.socket, option: int, program: Sequence[Instruction]) -> None:
    """Give the socket this program, in place of the one it may have; OSError when the kernel refuses."""
    code = array.array("B", b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    address, _length = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), address))


def detach(sock: socket.socket, option: int) -> None:
    """Take the program away; also when there is none."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, 0)
    except FileNotFoundError:
        return
