"""Whether the versions on a slot ever went back, told from the answers alone."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping

Said = tuple[str, int, int]
"""By which worker ("Add/0.17": the seventeenth worker that was made, for slot 0), when it handled the message, by which version."""


def went_back(answers: Iterable[Said]) -> list[str]:
    """Every place where an older version came after a newer one, in words.

    On one worker by time. From worker to worker of a slot in the order in which they were made: while the heir begins, the one before
    it still finishes what it has begun.
    """
    by_worker: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for worker, at, version in answers:
        by_worker[worker].append((at, version))
    found = [f"{worker} went back from {early} to {late}" for worker in by_worker for early, late in _falls(by_worker[worker])]
    for slot, workers in _slots(by_worker).items():
        versions = ([version for _, version in by_worker[worker]] for worker in workers)
        spans = [(min(one), max(one)) for one in versions]
        for (_, newest), (oldest, _) in itertools.pairwise(spans):
            if oldest < newest:
                found.append(f"slot {slot} went back from {newest} to {oldest}")
    return found


def _falls(said: list[tuple[int, int]]) -> list[tuple[int, int]]:
    versions = [version for _, version in sorted(said)]
    return [(early, late) for early, late in itertools.pairwise(versions) if late < early]


def _slots(workers: Mapping[str, object]) -> dict[str, list[str]]:
    slots: dict[str, list[str]] = defaultdict(list)
    for worker in sorted(workers, key=lambda name: int(name.rpartition(".")[2])):
        slots[worker.rpartition(".")[0]].append(worker)
    return slots
