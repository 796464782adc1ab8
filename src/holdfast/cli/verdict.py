"""How a start ended, whoever tells it: the supervisor's report, or its control socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a start ended. `busy` is the PID of another supervisor that has the lock, and then nothing else counts."""

    exit: int = 0
    pid: int = 0
    error: str = ""
    trace: str = ""
    busy: int | None = None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Verdict:
        """From the last line of a report, or of an answer on the control socket."""
        result = answer.get("result")
        facts = {**(result if isinstance(result, dict) else {}), **answer}
        return cls(int(facts["exit"]), int(facts.get("pid") or 0), str(facts.get("error") or ""), str(facts.get("trace") or ""))
