"""The testing kit: a store in memory, a source in memory, a clock that stands still, a real daemon in a private folder,
a proxy that cuts.

Clients with an oracle are in `holdfast.testing.crowd`.
"""

from holdfast.sources.memory import MemorySource
from holdfast.testing.clock import FakeClock
from holdfast.testing.daemon import DaemonProcess, eventually, free_port
from holdfast.testing.proxy import Proxy
from holdfast.testing.source import source
from holdfast.testing.store import Store, store

__all__ = ["DaemonProcess", "FakeClock", "MemorySource", "Proxy", "Store", "eventually", "free_port", "source", "store"]
