"""One instance (G1): the lock, which is the truth; the PID file, which is a view of it; the list of children for the next start."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdfast.errors import ConfigurationError, NoRightsError
from holdfast.linux import process
from holdfast.linux.privileges import Identity, as_user
from holdfast.telemetry import events

MARK = "HOLDFAST_DAEMON"  # in the environment of all that comes from a supervisor


class BusyError(Exception):
    """Another supervisor holds the lock; `pid` is what it wrote there, for people to read, 0 when unknown."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"running already, PID {pid}")
        self.pid = pid


@dataclass(slots=True)
class Instance:
    """The run and state directories of one name, opened as the service user. Both locks are held for life, across an exec."""

    run_dir: str
    state_dir: str
    name: str
    identity: Identity | None  # the service user, when we are root
    locks: tuple[int, ...] = ()

    def make_directories(self) -> None:
        """Make what is missing; NoRightsError when that, or writing there, is not allowed."""
        for directory in (self.run_dir, self.state_dir):
            try:
                os.makedirs(directory, mode=0o755, exist_ok=True)
                if self.identity is not None and os.geteuid() == 0 and not os.path.islink(directory) and not os.listdir(directory):
                    os.chown(directory, self.identity.uid, self.identity.gid, follow_symlinks=False)
                with as_user(self.identity):
                    writable = os.access(directory, os.W_OK | os.X_OK, effective_ids=True)
            except OSError as error:
                raise NoRightsError(f"cannot use {directory}: {error.strerror}", remedy="set run_dir and state_dir in [daemon]") from error
            if not writable:
                user = self.identity.user if self.identity else "this user"
                read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
                why = "is on a read-only file system" if read_only else f"cannot be written by {user}"
                remedy = "" if read_only else ", or chown it"
                raise NoRightsError(f"{directory} {why}", remedy=f"set run_dir and state_dir in [daemon]{remedy}")

    def lock(self, app: str) -> None:
        """Take both locks or none; BusyError when an instance of this app has them, ConfigurationError when another app has.

        NoRightsError where a lock cannot be opened.
        """
        taken: list[int] = []
        for directory in dict.fromkeys((self.run_dir, self.state_dir)):
            path = os.path.join(directory, f"{self.name}.lock")
            with usable(path), as_user(self.identity):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            taken.append(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(fd)
                for one in taken:
                    os.close(one)
                self._explain(holder, app, directory)
        for fd in taken:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "app": app}).encode(), 0)
        self.locks = tuple(taken)

    def adopt(self, fds: list[int]) -> None:
        """Take over the locks of the program that was executed here before: they were never free in between."""
        for fd in fds:
            os.set_inheritable(fd, False)
        self.locks = tuple(fds)

    def _explain(self, holder: dict[str, object], app: str, directory: str) -> None:
        other = holder.get("app")
        if other and other != app:
            raise ConfigurationError(
                f"'{self.name}' in {directory} is in use by another app, {other}", remedy="give one of them another name in [daemon]"
            )
        pid = holder.get("pid")
        raise BusyError(pid if isinstance(pid, int) else 0)

    def write_pid(self) -> None:
        """Write the PID file whole, by rename, mode 0644; NoRightsError when that cannot be done."""
        with usable(os.path.join(self.run_dir, f"{self.name}.pid")):
            self._write(f"{self.name}.pid", f"{os.getpid()}\n", 0o644)

    def write_children(self, started: Mapping[int, int | None]) -> None:
        """Write down who must not outlive us: PID, start time, boot.

        A run directory that is full or cannot be written any more is told, and stops nothing: only a next start would miss the list.
        """
        boot = process.boot_id()
        rows = [{"pid": pid, "start_time": start, "boot_id": boot} for pid, start in started.items()]
        try:
            self._write(f"{self.name}.children", json.dumps(rows), 0o600)
        except OSError as error:
            events.log("children.unwritten", f"{self.run_dir}: {error.strerror}", level="warning")

    def mark(self) -> dict[str, str]:
        """What stands in the environment of each child, and of what it executes or forks: whose it is."""
        return {MARK: os.path.join(self.run_dir, self.name)}

    def end_leftovers(self) -> list[int]:
        """End what a dead supervisor has left, by pidfd; returns their PIDs: the children that it wrote down, and all that has its mark.

        Only where the start time is the same, and only processes of the service user: the list lies in a folder that this user can
        write, and root must not kill whatever it names.
        """
        try:
            with as_user(self.identity), open(os.path.join(self.run_dir, f"{self.name}.children")) as file:
                rows = json.load(file)
        except (OSError, ValueError):
            return []
        boot = process.boot_id()
        owner = self.identity.uid if self.identity is not None else os.geteuid()
        listed = [row["pid"] for row in rows if row.get("boot_id") == boot and _end(row["pid"], row["start_time"], owner)]
        return listed + [pid for pid, start_time in self._marked() if pid not in listed and _end(pid, start_time, owner)]

    def _marked(self) -> list[tuple[int, int | None]]:
        """What user code has forked or executed, with start times; but not who asks, should that be one of them."""
        ((name, value),) = self.mark().items()
        ours, pid = set(), os.getpid()
        while pid:
            ours.add(pid)
            pid = process.parent(pid) or 0
        seen = [(pid, process.start_time(pid)) for pid in process.everyone() if pid not in ours]
        return [(pid, start_time) for pid, start_time in seen if process.has_mark(pid, f"{name}={value}")]

    def remove(self) -> None:
        """Remove the views. The locks stay files for ever: unlinking a lock lets two hold it."""
        with as_user(self.identity):
            for ending in ("pid", "children", "sock"):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.run_dir, f"{self.name}.{ending}"))

    def _write(self, name: str, text: str, mode: int) -> None:
        path = os.path.join(self.run_dir, name)
        with as_user(self.identity):
            fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            try:
                os.fchmod(fd, mode)
                os.write(fd, text.encode())
                os.rename(f"{path}.new", path)
            except OSError:
                os.unlink(f"{path}.new")
                raise
            finally:
                os.close(fd)


@contextlib.contextmanager
def usable(path: str) -> Iterator[None]:
    """NoRightsError, which names the file, for an OSError inside."""
    try:
        yield
    except OSError as error:
        remedy = "remove what is there, or set run_dir and state_dir in [daemon]"
        raise NoRightsError(f"{path} cannot be used: {error.strerror}", remedy=remedy) from error


def _holder(fd: int) -> dict[str, object]:
    try:
        data = json.loads(os.pread(fd, 65536, 0) or b"{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _end(pid: int, start_time: int | None, owner: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        same = start_time is not None and process.start_time(pid) == start_time and process.owner(pid) == owner
        return same and process.pidfd_kill(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
