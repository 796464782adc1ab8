"""What `status` shows: the fleet, the boards and the tally, read without asking anybody."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.linux import process
from holdfast.model import board
from holdfast.model.crash_loop import Health
from holdfast.model.fleet import Fleet
from holdfast.model.job_options import JobConfig
from holdfast.model.life import Life, Worker
from holdfast.model.notify import JobLook
from holdfast.model.slots import JobFleet
from holdfast.model.spec import guarantee
from holdfast.supervisor.boards import Totals
from holdfast.supervisor.entries import Entries
from holdfast.supervisor.family import Child

NS = 1_000_000_000


def jobs(
    configured: Mapping[str, JobConfig],
    fleet: Fleet,
    members: Mapping[str, Child],
    entries: Entries,
    totals: Mapping[str, Totals],
    now: float,
) -> list[dict[str, Any]]:
    """One object a job, as design and reference say."""
    return [_job(job, fleet, members, entries, totals[name], now) for name, job in configured.items()]


def looks(names: Iterable[str], fleet: Fleet, members: Mapping[str, Child]) -> list[JobLook]:
    """The least that there is to say of each job."""
    found = []
    for name in names:
        job = fleet.jobs.get(name)
        mine = [worker for worker in fleet.workers.values() if worker.job == name]
        found.append(JobLook(name, *_state(fleet, job, mine, members), len(job.ordinary()) if job is not None else 0))
    return found


def _job(job: JobConfig, fleet: Fleet, members: Mapping[str, Child], entries: Entries, totals: Totals, now: float) -> dict[str, Any]:
    mine = [worker for worker in fleet.workers.values() if worker.job == job.name]
    with_doors = entries.jobs()
    readings = {worker.id: reading(members.get(worker.id), now) for worker in mine}
    total, minute = totals.copy(), 0
    for one in readings.values():
        total.add(one)
        minute += one.last_minute
    held = entries.tally(job.name)["held"] if job.name in with_doors else sum(_in_hand(one) for one in readings.values())
    state, reason = _state(fleet, fleet.jobs.get(job.name), mine, members)
    names = ("handled", "failed", "retried", "dead", "duplicates")
    return {
        "name": job.name,
        "state": state,
        **({"reason": reason} if reason else {}),
        **({"since": _paused_since(fleet.jobs.get(job.name), mine, members, now)} if state == "paused" else {}),
        "source": job.shown.get("source", "").strip('"'),
        "listening": entries.endpoint(job.name) if job.name in with_doors else "",
        "store": job.shown.get("store", "").strip('"'),
        "guarantee": guarantee(job.options, job.declaration.identity),
        **{name: total.counters[name] for name in names},
        "in_flight": held,
        "rate_1m": round(minute / 60, 2),
        "latency_ms": {"p50": board.percentile_ms(total.latency, 0.5), "p99": board.percentile_ms(total.latency, 0.99)},
        **({"outbox": _outbox(totals.outbox)} if job.options.outbox or job.queue is not None else {}),
        "ingress": entries.tally(job.name) if job.name in with_doors else {},
        "workers": [_worker(worker, members.get(worker.id), readings[worker.id], totals, job, now) for worker in mine],
    }


def _outbox(told: Mapping[str, Any]) -> dict[str, Any]:
    """Depth, and the age of the oldest in seconds."""
    oldest = told.get("oldest")
    age = max(0.0, round(time.time() - float(oldest), 1)) if oldest is not None else 0.0
    trouble = {"trouble": told["trouble"]} if told.get("trouble") else {}
    return {"messages": told.get("messages", 0), "age_s": age, **trouble}


def _worker(worker: Worker, child: Child | None, one: board.Reading, totals: Totals, job: JobConfig, now: float) -> dict[str, Any]:
    pid = child.pid if child is not None else 0
    return {
        "id": worker.id,
        "pid": pid,
        "role": "quarantine" if worker.quarantine else "worker",
        "state": worker.life.name.lower(),
        "generation": worker.generation,
        "threads": 1 if worker.quarantine else job.options.threads or 1,
        "in_flight": _in_hand(one),
        "handled": one.counters["handled"],
        "rss_bytes": process.rss_bytes(pid) if pid else 0,
        "uptime_s": round(now - child.started, 3) if child is not None else 0.0,
        "restarts": totals.restarts.get(worker.slot, 0),
    }


def _state(fleet: Fleet, job: JobFleet | None, mine: list[Worker], members: Mapping[str, Child]) -> tuple[str, str]:
    if fleet.stopping:
        return "stopping", ""
    if job is not None and job.crashes.health is not Health.WELL:
        trying = job.crashes.health is Health.TRYING
        return "failed", "its workers died again and again; " + ("one is tried" if trying else "it waits before the next try")
    lacking = [slot.lacks for slot in job.ordinary().values() if slot.lacks] if job is not None else []
    paused = [str(members[w.id].facts["paused"]) for w in mine if w.id in members and "paused" in members[w.id].facts]
    if paused or lacking:
        return "paused", [*paused, *lacking][0]
    if job is None:
        return "starting", ""
    slots = list(job.ordinary().values())
    active = [slot for slot in slots if slot.incumbent is not None and slot.incumbent.life is Life.ACTIVE]
    if len(active) == len(slots):
        return "running", ""
    return ("degraded" if active else "starting"), f"{len(active)} of {len(slots)} workers are active"


def _paused_since(job: JobFleet | None, mine: list[Worker], members: Mapping[str, Child], now: float) -> float | None:
    """Seconds since the epoch."""
    lacking = [slot.lacks_since for slot in job.ordinary().values() if slot.lacks] if job is not None else []
    if lacking:
        return time.time() - (now - min(lacking))
    return next((members[w.id].facts.get("paused_since") for w in mine if w.id in members and "paused" in members[w.id].facts), None)


def reading(child: Child | None, now: float) -> board.Reading:
    """A child's board, empty when it has none."""
    return board.read(child.board.view, int(now * NS)) if child is not None and child.board is not None else board.Reading()


def _in_hand(one: board.Reading) -> int:
    return sum(len(begun.seqs) for begun in one.begun)
