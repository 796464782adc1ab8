"""Dropping root for good, and looking whether it is really gone."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast.errors import ConfigurationError, InternalError
from holdfast.linux.process import PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, prctl


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a process runs as."""

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def look_up(user: str, group: str = "") -> Identity:
    """The identity behind names; ConfigurationError when user or group is unknown."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(f"there is no user '{user}' on this machine", where="user", remedy="create it or name another") from None
    gid = entry.pw_gid
    if group:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise ConfigurationError(
                f"there is no group '{group}' on this machine", where="group", remedy="create it or name another"
            ) from None
    return Identity(user, entry.pw_uid, gid, tuple(sorted(os.getgrouplist(user, gid))), entry.pw_dir)


def drop(identity: Identity) -> None:
    """Become this user for ever: bounding set, groups, gids, uids, no_new_privs; then verify. InternalError when anything is left.

    Order matters: once the uid is gone the groups cannot be changed any more.
    """
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    if identity.uid != 0:
        for capability in range(last + 1):
            prctl(PR_CAPBSET_DROP, capability)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    verify(identity)


def verify(identity: Identity) -> None:
    """Compare /proc/self/status with the identity and try to get root back; InternalError when they differ or it works."""
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":", 1) for line in file)
    wrong = []
    if {int(n) for n in status["Uid"].split()} != {identity.uid}:
        wrong.append(f"uids {status['Uid'].split()}")
    if {int(n) for n in status["Gid"].split()} != {identity.gid}:
        wrong.append(f"gids {status['Gid'].split()}")
    if sorted(int(n) for n in status["Groups"].split()) != sorted(identity.groups):
        wrong.append(f"groups {status['Groups'].split()}")
    if status["NoNewPrivs"].strip() != "1":
        wrong.append("no_new_privs is not set")
    if identity.uid != 0:
        wrong += [f"{name} {status[name].strip()}" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status[name], 16)]
        wrong += _root_again()
    if wrong:
        raise InternalError(f"privileges were not dropped to {identity.user}: {', '.join(wrong)}")


def _root_again() -> list[str]:
    try:
        os.setuid(0)
    except PermissionError:
        return []
    return ["setuid(0) still works"]


@contextmanager
def as_user(identity: Identity | None) -> Iterator[None]:
    """Do file work with the service user's effective ids, so that its symlinks lead root nowhere. None: as ourselves."""
    if identity is None or os.geteuid() != 0 or identity.uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups(identity.groups)
    os.setegid(identity.gid)
    os.seteuid(identity.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
