"""The testing kit: store and source in memory, a clock that stands still, a daemon in a private folder, a proxy that cuts."""

from holdfast.sources.memory import MemorySource
from holdfast.testing.clock import FakeClock
from holdfast.testing.daemon import DaemonProcess, eventually, free_port
from holdfast.testing.proxy import Proxy
from holdfast.testing.source import source
from holdfast.testing.store import Store, store

__all__ = ["DaemonProcess", "FakeClock", "MemorySource", "Proxy", "Store", "eventually", "free_port", "source", "store"]
