"""Root is dropped for good, groups included, and the drop is verified (G8)."""

import os

import pytest

from holdfast.errors import ConfigurationError, InternalError
from holdfast.linux import privileges

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to drop")


def _in_child(work: object) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        except InternalError:
            os._exit(3)
        except BaseException:
            os._exit(4)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@root_only
def test_a_dropped_process_has_nothing_of_root() -> None:
    def work() -> None:
        privileges.drop(privileges.look_up("nobody"))
        assert os.getresuid() == (65534,) * 3
        assert os.getresgid() == (65534,) * 3
        assert 0 not in os.getgroups()

    assert _in_child(work) == 0


@root_only
def test_a_group_that_was_kept_is_noticed() -> None:
    def work() -> None:
        identity = privileges.look_up("nobody")
        privileges.drop(identity)
        privileges.verify(privileges.Identity("nobody", identity.uid, identity.gid, (*identity.groups, 12345), ""))

    assert _in_child(work) == 3


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigurationError, match="no user 'no-such-user'"):
        privileges.look_up("no-such-user")
    with pytest.raises(ConfigurationError, match="no group 'no-such-group'"):
        privileges.look_up("root", "no-such-group")
