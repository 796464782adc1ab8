"""A status for people. Takes what `status --json` prints; whatever is missing is left out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from holdfast.cli.output import columns, paint
from holdfast.model.urls import masked

_COLOURS = {"running": "green", "ready": "green", "active": "green", "stopped": "dim", "dead": "red", "unknown": "red", "failed": "red"}
_COUNTERS = (
    ("handled", "handled"),
    ("failed", "failed"),
    ("retried", "retried"),
    ("dead", "dead letters"),
    ("duplicates", "duplicates"),
    ("in_flight", "in flight"),
    ("rate_1m", "a second"),
)
_WORKER = (
    ("PID", "pid"),
    ("STATE", "state"),
    ("GEN", "generation"),
    ("THREADS", "threads"),
    ("IN FLIGHT", "in_flight"),
    ("HANDLED", "handled"),
    ("MEMORY", "rss_bytes"),
    ("UP", "uptime_s"),
    ("RESTARTS", "restarts"),
)


def lines(facts: Mapping[str, Any]) -> list[str]:
    """The daemon, then each job with its workers."""
    result = [_daemon(facts)]
    for job in facts.get("jobs") or ():
        result += ["", *_job(job)]
    programs = [[str(p.get("name", "")), str(p.get("state", "")), str(p.get("pid") or "-")] for p in facts.get("programs") or ()]
    return [*result, *(["", *columns([["PROGRAM", "STATE", "PID"], *programs])] if programs else [])]


def _daemon(facts: Mapping[str, Any]) -> str:
    state = str(facts.get("state", "unknown"))
    words = [str(facts.get("name", "")), paint(state, _COLOURS.get(state, "yellow"), sys.stdout)]
    if facts.get("pid"):
        words.append(f"pid {facts['pid']}")
    if facts.get("guard_pid"):
        words.append(f"guarded by pid {facts['guard_pid']}")
    if facts.get("uptime_s") is not None:
        words.append(f"up {age(facts['uptime_s'])}")
    if facts.get("generation") is not None:
        words.append(f"generation {facts['generation']}")
    if facts.get("version"):
        words.append(f"holdfast {facts['version']}")
    return "  ".join(words) + (f"\n  {facts['reason']}" if facts.get("reason") else "")


def _job(job: Mapping[str, Any]) -> list[str]:
    state = str(job.get("state", "unknown"))
    places = [masked(str(job[key])) for key in ("source", "store") if job.get(key)]
    words = [
        str(job.get("name", "")),
        paint(state, _COLOURS.get(state, "yellow"), sys.stdout),
        " -> ".join(places),
        job.get("guarantee", ""),
    ]
    result = ["  ".join(str(word) for word in words if word)]
    if job.get("reason"):
        result.append(f"  {job['reason']}{_since(job.get('since'))}")
    result.append("  " + ", ".join(_counters(job)))
    outbox = job.get("outbox") or {}
    if outbox.get("messages"):
        why = f": {outbox['trouble']}" if outbox.get("trouble") else ""
        result.append(f"  outbox: {outbox['messages']} wait, the oldest for {age(outbox.get('age_s') or 0)}{why}")
    workers = job.get("workers") or ()
    if workers:
        rows = [[_cell(key, worker.get(key)) for _, key in _WORKER] for worker in workers]
        result += columns([[title for title, _ in _WORKER], *rows], "  ")
    return result


def _since(moment: float | None) -> str:
    """For a person who looks at the log next, so in local time."""
    return f", since {datetime.fromtimestamp(moment).astimezone():%Y-%m-%d %H:%M:%S}" if moment is not None else ""


def _counters(job: Mapping[str, Any]) -> list[str]:
    latency = job.get("latency_ms") or {}
    counted = [f"{_number(job[key])} {word}" for key, word in _COUNTERS if key in job]
    return counted + [f"{name} {_number(latency[name])} ms" for name in ("p50", "p99") if latency.get(name)]


def _number(value: float) -> str:
    """Three digits are all that a reader takes from a measured number; counts are whole."""
    return str(value) if isinstance(value, int) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "rss_bytes":
        return memory(value)
    return age(value) if key == "uptime_s" else str(value)


def age(seconds: float) -> str:
    """The two largest units: 2h 5m."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])


def memory(count: float) -> str:
    """In MiB, as people compare it."""
    return f"{count / (1 << 20):.1f} MiB"
