"""A source without a network, for tests of jobs and of Holdfast itself."""

from __future__ import annotations

from holdfast.sources.memory import MemorySource

__all__ = ["MemorySource", "source"]


def source(*bodies: bytes, answers: bool = True) -> MemorySource:
    """A memory source with these messages waiting."""
    result = MemorySource(answers=answers)
    for body in bodies:
        result.put(body)
    return result
