"""Whether doors can be shut here."""

import socket

from holdfast.linux import door


def shuts_doors() -> bool:
    """Whether the kernel lets us, as whom we run, put a filter on a listening socket."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            door.shut(listener)
        except PermissionError:
            return False
        return True
