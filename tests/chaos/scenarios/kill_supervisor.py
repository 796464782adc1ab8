"""The supervisor is killed under its guard; what was under way is asked for again by the clients, with its identity."""

from chaos.stage import Stage

SUMMARY = "SIGKILL of the supervisor every 3 s, under guard"
EVERY = 3.0
TOML = "[jobs.Add]\nprocesses = 2\n"
GUARDED = True


def disturb(stage: Stage) -> None:
    """Kill the supervisor; one that is not back yet is waited for, since the guard lets more and more time pass between starts."""
    while stage.next():
        old = stage.daemon.pid
        stage.kill(old)
        stage.until(lambda old=old: stage.daemon.pid != old and stage.serves(), "the supervisor is back")
    names = list(stage.daemon.processes().values())
    if names.count("hf:supervisor") != 1:
        stage.complain(f"{names.count('hf:supervisor')} supervisors at the end")
