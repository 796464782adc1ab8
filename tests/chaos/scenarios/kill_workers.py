"""Workers are killed; messages have no identity of their own, so it is the ingress that doubles nothing."""

from chaos.stage import Stage

SUMMARY = "SIGKILL of a worker every 500 ms, two at work"
EVERY = 0.5
TOML = "[jobs.Add]\nprocesses = 2\ncrash_limit = 1000000\n"
MORE = ""


def disturb(stage: Stage) -> None:
    """Kill the eldest worker."""
    while stage.next():
        workers = stage.daemon.workers()
        if workers:
            stage.kill(max(workers, key=lambda worker: worker["uptime_s"])["pid"])
