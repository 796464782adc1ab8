"""Targets and files: what a command finds, what it says when it finds nothing, and what it still knows when all is broken."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest

from holdfast.errors import ConfigurationError, HoldfastError, NoRightsError, UsageError
from holdfast.linux.privileges import look_up
from holdfast.model.configuration import daemon_options
from holdfast.model.options import DaemonOptions
from holdfast.supervisor import trust
from holdfast.supervisor.inputs import load, name_and_run_dir, read_secret, secrets_as, service_identity, whereabouts

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs as somebody else")
HOME = {"HOME": "/home/fee"}


@pytest.fixture
def open_folder(folder: Path, open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that anybody may enter, with a package and an interpreter that are in nobody's hands, wherever the tests run."""
    assert open_path == folder
    package = folder / "package"
    package.mkdir(mode=0o755)
    (package / "process.py").touch(mode=0o644)
    monkeypatch.setattr(trust, "_package", lambda: str(package))
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fee.py").write_text("from holdfast import Daemon\n")
    return tmp_path


def test_an_app_alone(folder: Path) -> None:
    found = load("fee.py", {}, HOME, str(folder))
    assert (found.app, found.directory, found.toml_path) == (str(folder / "fee.py"), str(folder), None)


@pytest.mark.parametrize("target", ["fee.py", "holdfast.toml", ".", ""])
def test_every_target_leads_to_the_same_daemon(folder: Path, target: str) -> None:
    (folder / "holdfast.toml").write_text('[daemon]\nname = "feed"\napp = "fee.py"\nrun_dir = "run"\n')
    found = load(target, {}, HOME, str(folder))
    assert (found.directory, found.toml_path) == (str(folder), str(folder / "holdfast.toml"))
    assert daemon_options(found)[0].app == str(folder / "fee.py")
    assert name_and_run_dir(target, {}, HOME, str(folder)) == ("feed", str(folder / "run"))


def test_another_configuration(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "test.toml").write_text('[daemon]\nname = "x"')
    found = load("fee.py", {"config": "other/test.toml", "name": "y"}, HOME, str(folder))
    assert (found.toml_name, found.directory, found.flags) == ("test.toml", str(other), {"name": "y"})
    assert load("", {"config": "other/test.toml"}, HOME, str(folder)).toml_path == str(other / "test.toml")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nope.py", "there is no file nope.py"),
        ("nope.toml", "there is no file nope.toml"),
        ("nope", "there is no file nope"),
        ("folder", "folder is a folder without a holdfast.toml; name the app"),
        ("", "there is no holdfast.toml here"),
        ("fee.txt", "'fee.txt' is neither a .py file nor a holdfast.toml"),
        ("dir.py", "dir.py is a folder without"),
    ],
)
def test_a_target_that_is_none(folder: Path, target: str, says: str) -> None:
    (folder / "folder").mkdir()
    (folder / "dir.py").mkdir()
    (folder / "fee.txt").touch()
    with pytest.raises(UsageError, match=says) as caught:
        load(target, {}, HOME, str(folder))
    assert caught.value.exit_status == 2


def test_a_configuration_that_is_no_text(folder: Path) -> None:
    (folder / "holdfast.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"holdfast.toml: not UTF-8"):
        load("fee.py", {}, HOME, str(folder))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('Daemon(Fee, name="feed").main()', "feed"),
        ("    Daemon(\n        Fee,\n        name='feed',\n    ).main()", "feed"),
        ("Daemon(Fee).main()", ""),
        ('# Daemon(Fee, name="no")', ""),
        ("Daemon(Fee, name=NAME)", ""),
        ('MyDaemon(name="no")', ""),
    ],
)
def test_the_name_that_the_app_declares_is_found_without_running_it(folder: Path, text: str, name: str) -> None:
    (folder / "fee.py").write_text(f"raise SystemExit('never run')\n{text}\n")
    assert load("fee.py", {}, HOME, str(folder)).declared_name == name
    assert load("fee.py", {"declared_name": "said"}, HOME, str(folder)).declared_name == "said"


BROKEN = '[daemon]\nname = "feed" # the name\nrun_dir = "run"\nlog = \nuser = "nobody" oops\n[jobs.Fee]\nname = "no"\nrun_dir = 1'


@pytest.mark.parametrize("target", ["fee.py", "holdfast.toml", ""])
def test_a_broken_file_still_tells_where_the_daemon_is(folder: Path, target: str) -> None:
    (folder / "holdfast.toml").write_text(BROKEN)
    assert name_and_run_dir(target, {}, HOME | {"HOLDFAST_NONSENSE": "1"}, str(folder)) == ("feed", str(folder / "run"))
    assert name_and_run_dir(target, {"name": "x", "jobs.No.batch": "y"}, HOME, str(folder)) == ("x", str(folder / "run"))


def test_a_value_that_is_wrong_does_not_hide_the_daemon(folder: Path) -> None:
    (folder / "holdfast.toml").write_text('[daemon]\nrun_dir = "run"\nstop_timeout = "soon"')
    assert name_and_run_dir("fee.py", {}, HOME, str(folder)) == ("fee", str(folder / "run"))


def test_an_app_that_is_gone_still_has_a_name(folder: Path) -> None:
    (folder / "fee.py").unlink()
    assert name_and_run_dir("fee.py", {"run_dir": "/x"}, HOME, str(folder)) == ("fee", "/x")
    (folder / "holdfast.toml").write_text('[daemon]\nname = "feed"\napp = "fee.py"\nrun_dir = "run"')
    assert name_and_run_dir("fee.py", {}, HOME, str(folder)) == ("feed", str(folder / "run"))


def test_another_apps_daemon_is_never_taken_for_this_one(folder: Path) -> None:
    (folder / "holdfast.toml").write_text('[daemon]\nname = "feed"\napp = "fee.py"')
    (folder / "other.py").touch()
    with pytest.raises(ConfigurationError, match=r"is the configuration of fee.py, not of other.py"):
        whereabouts("other.py", {}, HOME, str(folder))


def test_nothing_at_all_is_an_error(folder: Path) -> None:
    with pytest.raises(HoldfastError):
        whereabouts("", {}, HOME, str(folder))


def test_a_secret_that_cannot_be_read_is_told_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("geheim\n")
    assert read_secret(str(tmp_path / "secret"), "holdfast.toml:1") == "geheim\n"
    with pytest.raises(ConfigurationError, match=r"cannot read .*/nope: No such file"):
        read_secret(str(tmp_path / "nope"), "holdfast.toml:1")


@root_only
def test_a_class_attribute_reads_secrets_as_the_service_user(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("geheim")
    (tmp_path / "secret").chmod(0o600)
    read = secrets_as(look_up("nobody"))
    assert read(str(tmp_path / "secret"), "holdfast.toml:3") == "geheim"
    with pytest.raises(ConfigurationError, match="Permission denied"):
        read(str(tmp_path / "secret"), "class fee.py:7")
    assert os.geteuid() == 0


# Whom it runs as


@root_only
def test_root_must_say_whom_it_runs_as() -> None:
    with pytest.raises(ConfigurationError, match='started as root, and no user is set to run as; write user = "www-data"') as caught:
        service_identity(DaemonOptions())
    assert caught.value.exit_status == 2
    assert service_identity(DaemonOptions(user="root")) == (look_up("root"), [])
    assert service_identity(DaemonOptions(user="nobody")) == (look_up("nobody"), [])


@root_only
def test_an_unknown_user_or_group_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no user 'nobdy' on this machine; did you mean 'nobody'\? Or create it"):
        service_identity(DaemonOptions(user="nobdy"))
    with pytest.raises(ConfigurationError, match="there is no group 'no-such-group'"):
        service_identity(DaemonOptions(user="nobody", group="no-such-group"))


def test_without_root_a_user_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("daemon").pw_uid)
    assert service_identity(DaemonOptions()) == (None, [])
    assert service_identity(DaemonOptions(user="daemon")) == (None, [])
    identity, remarks = service_identity(DaemonOptions(user="www-data"))
    assert identity is None
    assert remarks == ["user = 'www-data' means nothing unless root starts the daemon: it runs as daemon"]


# What root relies on


@root_only
def test_what_the_service_user_can_change_is_refused(open_folder: Path) -> None:
    nobody, folder = look_up("nobody"), open_folder
    toml = folder / "holdfast.toml"
    toml.write_text("[daemon]\n")
    inputs = load("fee.py", {}, HOME, str(folder))
    trust.check(inputs, inputs.app, nobody)
    toml.chmod(0o666)
    with pytest.raises(NoRightsError, match=r"nobody can write the configuration, .*holdfast.toml, and root would rely on it"):
        trust.check(inputs, inputs.app, nobody)
    toml.chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(NoRightsError, match="the configuration's folder"):
        trust.check(inputs, inputs.app, nobody)
    toml.unlink()
    alone = load("fee.py", {}, HOME, str(folder))
    trust.check(alone, alone.app, nobody)
    (folder / "package" / "process.py").chmod(0o666)
    with pytest.raises(NoRightsError, match="the package"):
        trust.check(alone, alone.app, nobody)
    trust.check(inputs, inputs.app, None)


@root_only
def test_what_the_service_user_cannot_read_is_told(open_folder: Path) -> None:
    nobody, folder = look_up("nobody"), open_folder
    inputs = load("fee.py", {}, HOME, str(folder))
    (folder / "fee.py").chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"nobody cannot read the app, .*fee.py; give nobody the right"):
        trust.check(inputs, inputs.app, nobody)
    (folder / "fee.py").unlink()
    with pytest.raises(ConfigurationError, match=r"there is no file .*fee.py; correct app"):
        trust.check(inputs, inputs.app, nobody)
    folder.chmod(0o700)
    with pytest.raises(ConfigurationError, match=r"nobody cannot read the (package|working directory)"):
        trust.check(inputs, inputs.app, nobody)
