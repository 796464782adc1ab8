"""Reading what a configuration is made from: the target, holdfast.toml, files that hold secrets. Decides nothing."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace

from holdfast.errors import ConfigurationError, HoldfastError, NoRightsError, UsageError
from holdfast.linux.privileges import Identity, as_user, look_up
from holdfast.model.configuration import daemon_options
from holdfast.model.inputs import Inputs
from holdfast.model.options import DaemonOptions
from holdfast.model.references import ReadSecret
from holdfast.model.values import suggestion

TOML = "holdfast.toml"
#: What is in `flags` beside options.
CONFIG, DECLARED_NAME = "config", "declared_name"

_MOST_TEXT = 1 << 20
_WHERE_KEYS = ("name", "app", "run_dir", "state_dir")
_DAEMON_NAME = re.compile(r"^[^#\n]*\bDaemon\([^()#]*?\bname\s*=\s*(['\"])([^'\"\\\n]*)\1", re.MULTILINE)


def load(target: str, flags: Mapping[str, str], environ: Mapping[str, str], cwd: str, foreground: bool = False) -> Inputs:
    """Read what the target names: a .py file, a holdfast.toml, or a folder that holds one; "" is the working directory.

    UsageError when there is nothing of the kind, NoRightsError when it cannot be read. The text is read and not parsed.
    """
    options = {key: value for key, value in flags.items() if key not in (CONFIG, DECLARED_NAME)}
    app, toml = _find(target, flags.get(CONFIG, ""), cwd)
    return Inputs(
        target=target,
        directory=os.path.dirname(toml or app),
        app=app,
        toml_path=toml,
        toml_text=_read(toml) if toml else None,
        environ=dict(environ),
        flags=options,
        declared_name=flags.get(DECLARED_NAME, "") or _declared_name(app),
        euid=os.geteuid(),
        home=_home(environ),
        foreground=foreground,
    )


def name_and_run_dir(target: str, flags: Mapping[str, str], environ: Mapping[str, str], cwd: str = "") -> tuple[str, str]:
    """Where a daemon is to be found, also when its app or its configuration is broken or gone. HoldfastError when nothing tells."""
    options = whereabouts(target, flags, environ, cwd)
    return options.name, options.run_dir


def whereabouts(target: str, flags: Mapping[str, str], environ: Mapping[str, str], cwd: str = "") -> DaemonOptions:
    """`[daemon]` as well as it can be told. Only name and directories are to be relied on when something is broken."""
    cwd = cwd or os.getcwd()
    try:
        inputs = load(target, flags, environ, cwd)
    except HoldfastError:
        inputs = _without_files(target, flags, environ, cwd)
    with contextlib.suppress(HoldfastError):
        return daemon_options(inputs, read_secret)[0]
    return daemon_options(_reduced(inputs), read_secret)[0]


def read_secret(path: str, _origin: str) -> str:
    """What a file holds; ConfigurationError, naming the path and never the content, when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_TEXT)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", remedy="make the file, and let the daemon read it") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text", remedy="store the secret as text") from None
    return text


def secrets_as(identity: Identity | None) -> ReadSecret:
    """`read_secret`, but what a class attribute refers to is read as the service user: the class is not root's word."""

    def read(path: str, origin: str) -> str:
        with as_user(identity if origin.startswith("class ") else None):
            return read_secret(path, origin)

    return read


def service_identity(options: DaemonOptions) -> tuple[Identity | None, list[str]]:
    """Whom the daemon runs as (None: as whoever starts it), and remarks.

    ConfigurationError when root says nobody, or names an unknown user or group.
    """
    if os.geteuid() != 0:
        return None, _remarks(options)
    if not options.user:
        raise ConfigurationError(
            "started as root, and no user is set to run as",
            where="user",
            remedy='write user = "www-data" under [daemon] in holdfast.toml (or use --user), or user = "root" to insist',
        )
    _check_user(options.user)
    return look_up(options.user, options.group), []


def _remarks(options: DaemonOptions) -> list[str]:
    me = _user_name(os.geteuid())
    if not options.user or options.user == me:
        return []
    return [f"user = '{options.user}' means nothing unless root starts the daemon: it runs as {me}"]


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _check_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        near = suggestion(user, [entry.pw_name for entry in pwd.getpwall()])
        guess = f"{near} Or create it" if near.startswith("did you") else "create it, or name another"
        raise ConfigurationError(f"there is no user '{user}' on this machine", where="user", remedy=guess) from None


def _find(target: str, config: str, cwd: str) -> tuple[str, str | None]:
    """The app file, if the target is one, and the holdfast.toml, if there is one."""
    app, toml = "", os.path.normpath(os.path.join(cwd, config)) if config else None
    path = os.path.normpath(os.path.join(cwd, target)) if target else cwd
    if not target and toml:
        pass
    elif os.path.isdir(path):
        toml = toml or _toml_in(path, target)
    elif path.endswith(".py"):
        app = path
        beside = os.path.join(os.path.dirname(path), TOML)
        toml = toml or (beside if os.path.exists(beside) else None)
    elif path.endswith(".toml"):
        toml = path
    else:
        _must_exist(path, target)
        raise UsageError(
            f"'{target}' is neither a .py file nor a holdfast.toml", remedy="name one of these, or the folder of a holdfast.toml"
        )
    for file, given in ((app, target), (toml, config or target)):
        if file:
            _must_exist(file, given)
    return app, toml


def _toml_in(folder: str, target: str) -> str:
    path = os.path.join(folder, TOML)
    if not os.path.exists(path):
        what = f"{target} is a folder without a {TOML}" if target else f"there is no {TOML} here"
        raise UsageError(what, remedy="name the app: holdfast VERB fee.py")
    return path


def _must_exist(path: str, given: str) -> None:
    try:
        os.stat(path)
    except PermissionError:
        raise NoRightsError(f"{given} cannot be reached by this user", remedy="let it enter the folders above") from None
    except (OSError, ValueError):
        raise UsageError(f"there is no file {given}", remedy="name a .py file, a holdfast.toml, or the folder of one") from None
    if os.path.isdir(path):
        raise UsageError(f"{given} is a folder", remedy="name a file")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read(_MOST_TEXT)
    except PermissionError:
        raise NoRightsError(f"{path} cannot be read by this user", remedy="change its mode") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"not UTF-8: {error.reason} at byte {error.start}", where=path, remedy="save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _declared_name(app: str) -> str:
    """The name in `Daemon(…, name="fee")`, told without running the file, so that every form of a command finds the same daemon."""
    try:
        with open(app, encoding="utf-8", errors="replace") as file:
            found = _DAEMON_NAME.search(file.read(_MOST_TEXT))
    except OSError:
        return ""
    return found[2] if found else ""


def _home(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    if os.path.isabs(home):
        return home
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def _without_files(target: str, flags: Mapping[str, str], environ: Mapping[str, str], cwd: str) -> Inputs:
    """For a target that is gone: its name is all that is left."""
    path = os.path.normpath(os.path.join(cwd, target)) if target else cwd
    toml = next((one for one in (path, os.path.join(os.path.dirname(path), TOML)) if one.endswith(".toml") and os.path.isfile(one)), None)
    text = None
    if toml:
        with contextlib.suppress(OSError), open(toml, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_TEXT)
    options = {key: value for key, value in flags.items() if key not in (CONFIG, DECLARED_NAME)}
    return Inputs(
        target=target,
        directory=os.path.dirname(path),
        app=path if path.endswith(".py") else "",
        toml_path=toml,
        toml_text=text,
        environ=dict(environ),
        flags=options,
        declared_name=flags.get(DECLARED_NAME, ""),
        euid=os.geteuid(),
        home=_home(environ),
    )


def _reduced(inputs: Inputs) -> Inputs:
    """The same with what tells the place of the daemon and nothing else; lines of [daemon] that are not TOML are left out."""
    keep = {f"HOLDFAST_{key.upper()}" for key in _WHERE_KEYS}
    environ = {name: value for name, value in inputs.environ.items() if not name.startswith("HOLDFAST_") or name in keep}
    flags = {key: value for key, value in inputs.flags.items() if key.removeprefix("daemon.") in _WHERE_KEYS}
    kept = _daemon_lines(inputs.toml_text or "")
    named = "name" in kept or "name" in flags or "HOLDFAST_NAME" in environ
    if named and not inputs.app and "app" not in kept:
        kept["app"] = 'app = "unknown.py"'
    return replace(inputs, environ=environ, flags=flags, toml_text="\n".join(["[daemon]", *kept.values()]))


def _daemon_lines(text: str) -> dict[str, str]:
    """Lines of [daemon] that are whole statements, by key. `app` is among them: another app's daemon must not be taken for this one."""
    kept: dict[str, str] = {}
    inside = False
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            inside = re.fullmatch(r"\s*\[\s*daemon\s*\]\s*(#.*)?", line) is not None
            continue
        key = line.partition("=")[0].strip()
        if inside and key in _WHERE_KEYS:
            with contextlib.suppress(tomllib.TOMLDecodeError):
                tomllib.loads(line)
                kept[key] = line
    return kept
