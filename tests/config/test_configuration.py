"""From inputs and declarations to a configuration: layers, origins, defaults that follow from others, every clear sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from holdfast.errors import ConfigurationError
from holdfast.model.configuration import Configuration, daemon_options, require_runnable, resolve
from holdfast.model.inputs import Inputs
from holdfast.model.options import JobOptions
from holdfast.model.spec import Declaration, WorkerSpec

SOURCE, STORE = "zmq+rep://127.0.0.1:5555", "sqlite:///fee.db"


def declaration(cls: str = "Fee", work: Any = "handle", **options: Any) -> Declaration:
    given = {"source": SOURCE, "store": STORE} if work != "run" else {}
    return Declaration(cls, work, given | options, identity=False, key=False, creates=False, file="/srv/fee/fee.py", line=7)


def inputs(toml: str | None = None, environ: Mapping[str, str] | None = None, **more: Any) -> Inputs:
    made = Inputs(
        target="fee.py",
        directory="/srv/fee",
        app="/srv/fee/fee.py",
        toml_path=None if toml is None else "/srv/fee/holdfast.toml",
        toml_text=toml,
        environ=environ or {},
        euid=1000,
        home="/home/fee",
    )
    return replace(made, **more)


def no_secret(path: str, origin: str) -> str:
    raise AssertionError(f"{origin} wants to read {path}")


def resolved(made: Inputs, *declarations: Declaration, read_secret: Any = no_secret) -> Configuration:
    declared = list(declarations or [declaration()])
    return resolve(made, declared, [one.cls for one in declared], read_secret)


def complaint(made: Inputs, *declarations: Declaration, read_secret: Any = no_secret) -> str:
    with pytest.raises(ConfigurationError) as caught:
        resolved(made, *declarations, read_secret=read_secret)
    return str(caught.value)


# Layers


def test_each_layer_wins_over_the_one_below() -> None:
    fee = declaration(processes=2)
    toml, variable = "[jobs.Fee]\nprocesses = 3", {"HOLDFAST_JOBS_FEE_PROCESSES": "4"}
    layers = [
        (inputs(), declaration(), 1, "default"),
        (inputs(), fee, 2, "class fee.py:7"),
        (inputs(toml), fee, 3, "holdfast.toml:2"),
        (inputs(toml, variable), fee, 4, "HOLDFAST_JOBS_FEE_PROCESSES"),
        (inputs(toml, variable, flags={"jobs.Fee.processes": "5"}), fee, 5, "--set"),
    ]
    for made, declared, processes, origin in layers:
        configuration = resolved(made, declared)
        assert configuration.jobs["Fee"].options.processes == processes
        assert configuration.origins["jobs.Fee", "processes"] == origin


def test_the_daemon_has_the_same_layers() -> None:
    toml, variable = "[daemon]\nstop_timeout = 5", {"HOLDFAST_STOP_TIMEOUT": "6s"}
    layers = [
        (inputs(), 30.0, "default"),
        (inputs(toml), 5.0, "holdfast.toml:2"),
        (inputs(toml, variable), 6.0, "HOLDFAST_STOP_TIMEOUT"),
        (inputs(toml, variable, flags={"stop_timeout": "7s"}), 7.0, "--set"),
        (inputs(toml, variable, flags={"daemon.stop_timeout": "8s"}), 8.0, "--set"),
    ]
    for made, seconds, origin in layers:
        options, origins = daemon_options(made)
        assert options.stop_timeout == seconds
        assert origins["daemon", "stop_timeout"] == origin


def test_the_declared_name_is_below_the_file() -> None:
    assert daemon_options(inputs(declared_name="feed"))[0].name == "feed"
    assert daemon_options(inputs('[daemon]\nname = "other"', declared_name="feed"))[0].name == "other"


def test_the_environment_matches_jobs_whatever_their_case() -> None:
    toml = '[jobs.fee-two]\nclass = "Fee"'
    for name in ("HOLDFAST_JOBS_FEE_TWO_BATCH", "HOLDFAST_JOBS_fee_two_BATCH"):
        assert resolved(inputs(toml, {name: "9"})).jobs["fee-two"].options.batch == 9


def test_ours_and_others_variables_are_left_alone() -> None:
    assert resolved(inputs(environ={"HOLDFAST_FAULT": "after-commit", "PATH": "/bin", "holdfast_user": "x"})).jobs


# Which jobs


def test_without_tables_every_default_job_runs() -> None:
    jobs = resolve(inputs(), [declaration("A"), declaration("B", source="zmq+rep://*:6"), declaration("C")], ["A", "B"], no_secret).jobs
    assert list(jobs) == ["A", "B"]


def test_with_tables_exactly_those_run_and_one_class_may_run_twice() -> None:
    toml = '[jobs.Fee]\n[jobs.Second]\nclass = "Fee"\nsource = "zmq+pull://*:6666"'
    jobs = resolved(inputs(toml), declaration(), declaration("Other")).jobs
    assert [(job.name, job.cls) for job in jobs.values()] == [("Fee", "Fee"), ("Second", "Fee")]
    assert jobs["Second"].options.source == "zmq+pull://*:6666"


# Defaults that follow from others


def test_what_follows_from_source_and_store() -> None:
    with_store = resolved(inputs()).jobs["Fee"].options
    assert (with_store.threads, with_store.retries, with_store.dead_letter, with_store.overlap) == (1, 0, "store", True)
    without = resolved(inputs(), declaration(source="zmq+pull://*:5", store="")).jobs["Fee"].options
    assert (without.threads, without.retries, without.dead_letter, without.overlap) == (1, 5, "state_dir", True)
    loop = resolved(inputs(), declaration(work="run")).jobs["Fee"].options
    assert (loop.overlap, loop.retries) == (False, 5)


def test_no_option_of_a_job_is_none_and_a_worker_can_be_told() -> None:
    options = resolved(inputs()).jobs["Fee"].options
    assert all(getattr(options, option.name) is not None for option in fields(JobOptions))
    spec = WorkerSpec("Fee/0.1", "worker", "Fee", "Fee", 1, options, "/srv", 1.0)
    assert WorkerSpec.from_json(spec.to_json()) == spec


def test_paths_as_root_and_as_another_user() -> None:
    mine, roots = daemon_options(inputs())[0], daemon_options(inputs(euid=0))[0]
    own = "/home/fee/.local/state/holdfast/fee"
    assert (mine.run_dir, mine.state_dir, mine.log) == (own, own, f"{own}/fee.log")
    assert (roots.run_dir, roots.state_dir, roots.log) == ("/run/fee", "/var/lib/fee", "/var/lib/fee/fee.log")
    assert daemon_options(inputs(foreground=True))[0].log == "-"


def test_relative_paths_belong_to_the_folder() -> None:
    toml = '[daemon]\nrun_dir = "run"\nstate_dir = "../state"\nlog = "log/{date}.log"\nsettings = "fee.ini"'
    options = daemon_options(inputs(toml))[0]
    assert (options.run_dir, options.state_dir) == ("/srv/fee/run", "/srv/state")
    assert (options.log, options.settings) == ("/srv/fee/log/{date}.log", "/srv/fee/fee.ini")
    assert daemon_options(inputs('[daemon]\nlog = "-"'))[0].log == "-"


@pytest.mark.parametrize(
    ("toml", "app", "name"),
    [
        ('app = "fee.py"', "/srv/fee/fee.py", "fee"),
        ('app = "/opt/x/pay.py"', "/opt/x/pay.py", "pay"),
        ('app = "shop.fee"', "shop.fee", "fee"),
        ('app = "shop.fee"\nname = "x"', "shop.fee", "x"),
    ],
)
def test_the_app_and_the_name_that_follows(toml: str, app: str, name: str) -> None:
    options = daemon_options(inputs(f"[daemon]\n{toml}", app=""))[0]
    assert (options.app, options.name) == (app, name)


def test_a_module_that_is_the_target_is_the_same_app() -> None:
    made = inputs('[daemon]\napp = "shop.fee"', app="/srv/fee/shop/fee.py")
    assert daemon_options(made)[0].app == "/srv/fee/shop/fee.py"


# Clear sentences

WRONG_TOML = [
    ("[daemon]\nusr = 1", "holdfast.toml:2: unknown key 'usr' in [daemon]; did you mean 'user'?"),
    ("[daemon]\nbatch = 1", "holdfast.toml:2: 'batch' is an option of a job"),
    ("[deamon]\nx = 1", "holdfast.toml:1: unknown table 'deamon'; did you mean 'daemon'?"),
    ("user = 'x'", "holdfast.toml:1: unknown key 'user'; write it under [daemon]"),
    ("daemon = 1", "holdfast.toml:1: 'daemon' is not a table; write [daemon] on a line of its own"),
    ("[jobs]\nFee = 1", "holdfast.toml:2: 'Fee' is not a table"),
    ("[jobs.Fee]\nproceses = 2", "holdfast.toml:2: unknown key 'proceses' in [jobs.Fee]; did you mean 'processes'?"),
    ("[jobs.Fee]\nuser = 'x'", "holdfast.toml:2: unknown key 'user' in [jobs.Fee]; write it under [daemon]"),
    ("[jobs.Fe]", "holdfast.toml:1: there is no Job class 'Fe' in the app; did you mean 'Fee'?"),
    ("[jobs.X]\nclass = 'Fe'", "holdfast.toml:1: there is no Job class 'Fe' in the app; did you mean 'Fee'?"),
    ("[jobs.X]\nclass = 1", "holdfast.toml:2: class is not text in quotes"),
    ("[jobs.'a b']", "holdfast.toml:1: 'a b' is not a job's name"),
    ("\n\n[jobs.Fee]\nprocesses = '2x'", 'holdfast.toml:4, jobs.Fee.processes: "2x" is not a whole number such as 4'),
    ("[jobs.Fee]\nprocesses = 1.5", "holdfast.toml:2, jobs.Fee.processes: 1.5 is not a whole number such as 4"),
    ("[jobs.Fee]\nprocesses = true", "true is not a whole number such as 4"),
    ("[jobs.Fee]\nprocesses = -1", "-1 is too small; the least is 0"),
    ("[jobs.Fee]\nheartbeat = '1ms'", 'heartbeat: "1ms" is too small; the least is "100ms"'),
    ("[jobs.Fee]\ntimeout = '5 minutes'", 'timeout: "5 minutes" is not a duration such as'),
    ("[jobs.Fee]\nmax_message = '1M'", 'max_message: "1M" is not a size such as'),
    ("[jobs.Fee]\nbackoff = '5m..1s'", 'backoff: "5m..1s" is not two durations such as "1s..5m"'),
    ("[jobs.Fee]\ninbox = 1", "inbox: 1 is not true or false"),
    ("[jobs.Fee]\nspawn = 'frok'", 'spawn: "frok" is not "fork" or "exec"'),
    ("[daemon]\nlog_level = 'inof'", "did you mean 'info'?"),
    ("[daemon]\numask = 77", "holdfast.toml:2, daemon.umask: 77 is not text in quotes"),
    ("[daemon]\numask = '79'", 'daemon.umask: "79" is not an octal mask; write umask = "077"'),
    ("[daemon]\nname = 'a/b'", 'daemon.name: "a/b" cannot name a daemon'),
    ("[daemon]\napp = 'other.py'", "holdfast.toml is the configuration of other.py, not of fee.py"),
    ("[jobs.Fee]\nsource = 'zmq+rpe://h:1'", "holdfast.toml:2, jobs.Fee.source: unknown source scheme 'zmq+rpe'; did you mean 'zmq+rep'?"),
    ("[jobs.Fee]\nsource = ''", "Fee has no source; set source ="),
    ("[jobs.Fee]\nstore = 'mysql://h'", "names no host, or no database"),
    (
        "[jobs.Fee]\nstore = ''\ndead_letter = 'store'",
        'holdfast.toml:3, jobs.Fee.dead_letter: dead_letter = "store", and there is no store',
    ),
    ("[jobs.Fee]\ndead_letter = 'amqp://h/q'", "a URL to publish to names an exchange or a queue"),
    ("[jobs.Fee]\ndead_letter = 'somewhere'", 'write "store", "state_dir" or an amqp:// URL'),
    ("[jobs.Fee]\nmax_message = '128MiB'", "max_message is more than in_flight_bytes"),
    ("[jobs.Fee]\nordered = true", "only jobs behind RabbitMQ keep the order of a key"),
    ('[jobs.Fee]\nordered = true\nsource = "amqp://h/?queue=q"', "must have one consumer at a time"),
    ('[jobs.Fee]\nordered = true\nthreads = 2\nsource = "amqp://h/?queue=q&single_active_consumer=true"', "an ordered job has one thread"),
    ("[jobs.A]\nclass = 'Fee'\n[jobs.B]\nclass = 'Fee'", "B and A would both listen on tcp://127.0.0.1:5555"),
    ("[programs.x]\ncommand = 'php'", 'holdfast.toml:2: command is not a command such as ["php", "my.php"]'),
    ("[programs.x]\ncomand = ['php']", "unknown key 'comand' in [programs.x]; did you mean 'command'?"),
    ("[programs]\nx = 1", "'x' is not a table"),
]


def test_a_handler_that_wants_db_wants_a_store() -> None:
    fee = replace(declaration(), needs_db=True)
    assert resolved(inputs(), fee).jobs["Fee"].options.store
    says = complaint(inputs("[jobs.Fee]\nstore = ''"), fee)
    assert "holdfast.toml:2, jobs.Fee.store: Fee.handle wants db, and there is no store" in says
    assert "leave db out" in says


@pytest.mark.parametrize(("toml", "says"), WRONG_TOML)
def test_a_wrong_file_is_told_with_its_line(toml: str, says: str) -> None:
    assert says in complaint(inputs(toml))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"environ": {"HOLDFAST_RUNDIR": "x"}}, "unknown variable HOLDFAST_RUNDIR; did you mean 'HOLDFAST_RUN_DIR'?"),
        ({"environ": {"HOLDFAST_JOBS_FEE_BATHC": "1"}}, "did you mean 'HOLDFAST_JOBS_FEE_BATCH'?"),
        ({"environ": {"HOLDFAST_JOBS_FEED_BATCH": "1"}}, "unknown variable HOLDFAST_JOBS_FEED_BATCH; the jobs are Fee"),
        ({"environ": {"HOLDFAST_JOBS_FEE_BATCH": "many"}}, 'HOLDFAST_JOBS_FEE_BATCH: "many" is not a whole number'),
        ({"environ": {"HOLDFAST_UMASK": "x"}}, 'HOLDFAST_UMASK: "x" is not an octal mask'),
        ({"flags": {"jobs.Fee.batch": "0"}}, '--set jobs.Fee.batch: "0" is too small; the least is 1'),
        ({"flags": {"jobs.Fe.batch": "1"}}, "there is no job 'Fe'; did you mean 'Fee'?"),
        ({"flags": {"jobs.Fee.btch": "1"}}, "unknown option 'btch'; did you mean 'batch'?"),
        ({"flags": {"sotp_timeout": "1"}}, "unknown option 'sotp_timeout'; did you mean 'stop_timeout'?"),
        ({"flags": {"stop_timeout": "x"}}, '--set stop_timeout: "x" is not a duration'),
        ({"flags": {"name": "a b"}}, '--name: "a b" cannot name a daemon'),
    ],
)
def test_a_wrong_variable_or_flag_is_told_by_its_name(more: dict[str, Any], says: str) -> None:
    assert says in complaint(inputs(**more))


def test_a_wrong_class_attribute_is_told_with_file_and_line() -> None:
    assert 'class fee.py:7, jobs.Fee.timeout: "soon" is not a duration' in complaint(inputs(), declaration(timeout="soon"))
    assert "runs a loop of its own and takes no messages" in complaint(inputs(), declaration(work="run", source=SOURCE))


def test_no_app_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r'no app is named; write app = "fee.py" under'):
        daemon_options(inputs("[daemon]\nname = 'x'", app=""))


def test_all_mistakes_of_a_pass_are_told_together() -> None:
    toml = "[daemon]\nusr = 1\n[jobs.Fee]\nprocesses = 'x'\ntimeout = 'y'\nsource = 'z://1'"
    text = complaint(inputs(toml, {"HOLDFAST_X": "1"}, flags={"jobs.No.batch": "1"}))
    for part in ("6 things are wrong", "'usr'", '"x" is not', '"y" is not', "HOLDFAST_X", "no job 'No'"):
        assert part in text
    assert len(text.splitlines()) == 7


def test_programs_are_read_and_refused_at_the_start() -> None:
    configuration = resolved(inputs('[programs.thumbs]\ncommand = ["php", "my.php"]'))
    assert configuration.programs["thumbs"].command == ("php", "my.php")
    with pytest.raises(
        ConfigurationError, match=r"holdfast.toml:1: \[programs\] are not run in this version; leave out \[programs.thumbs\]"
    ):
        require_runnable(configuration)
    require_runnable(resolved(inputs()))


# Rights


def test_as_root_a_class_cannot_ask_for_a_port_below_1024() -> None:
    low = declaration(source="zmq+rep://0.0.0.0:80")
    assert "the class asks for port 80, which takes root's rights; write source" in complaint(inputs(euid=0), low)
    assert "in holdfast.toml, which is root's word" in complaint(inputs(euid=0), low)
    assert resolved(inputs("[jobs.Fee]\nsource = 'zmq+rep://*:80'", euid=0), low).jobs["Fee"].source
    assert resolved(inputs(euid=1000), low).jobs["Fee"].source
    assert resolved(inputs(euid=0), declaration(source="zmq+sub://h:80?connect=true")).jobs["Fee"].source


# Secrets

SECRET = "sqlite:////srv/geheim.db"


def test_references_are_followed_and_never_shown() -> None:
    reads = []

    def read(path: str, origin: str) -> str:
        reads.append((path, origin))
        return f"{SECRET}\n"

    for written in ("${DB}", "file:/run/secrets/db", "sqlite:///${file:/run/secrets/db}"):
        fee = declaration(store=written)
        configuration = resolved(inputs(environ={"DB": SECRET}), fee, read_secret=read)
        assert "geheim" in configuration.jobs["Fee"].options.store
        assert configuration.shown["jobs.Fee", "store"] == f'"{written}"'
        assert configuration.jobs["Fee"].shown["store"] == f'"{written}"'
    assert reads == [("/run/secrets/db", "class fee.py:7")] * 2


def test_references_work_anywhere() -> None:
    toml = '[daemon]\nname = "fee-${STAGE}"\nstop_timeout = "${LIMIT}"\n[jobs.Fee]\nprocesses = "${N}"\nsource = "zmq+rep://*:${PORT}"'
    configuration = resolved(inputs(toml, {"STAGE": "test", "LIMIT": "9s", "N": "3", "PORT": "7000"}))
    assert (configuration.daemon.name, configuration.daemon.stop_timeout) == ("fee-test", 9.0)
    assert (configuration.jobs["Fee"].options.processes, configuration.jobs["Fee"].source.port) == (3, 7000)  # type: ignore[union-attr]


def test_an_escaped_reference_is_plain_text() -> None:
    configuration = resolved(inputs("[jobs.Fee]\nstore = 'sqlite:///$${DB}-$x.db'"))
    assert configuration.jobs["Fee"].options.store == "sqlite:///${DB}-$x.db"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("${NOPE}", "holdfast.toml:2, jobs.Fee.store: the environment variable NOPE is not set; set NOPE"),
        ("${NO PE}", "is not a reference; write ${NAME}"),
        ("${", "is not a reference"),
        ("${}", "is not a reference"),
        ("file:secret", "holdfast.toml:2, jobs.Fee.store: file:secret is a relative path; write file:/"),
        ("sqlite:///${file:secret}", "file:secret is a relative path"),
    ],
)
def test_a_reference_that_leads_nowhere(written: str, says: str) -> None:
    assert says in complaint(inputs(f"[jobs.Fee]\nstore = '{written}'"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", "geheim"),
        ("store", "geheim://x"),
        ("source", "zmq+rep://geheim:x"),
        ("processes", "geheim"),
        ("dead_letter", "geheim"),
        ("spawn", "geheim"),
    ],
)
def test_what_a_reference_stands_for_is_not_shown_when_it_is_wrong(key: str, value: str) -> None:
    text = complaint(inputs(f"[jobs.Fee]\n{key} = '${{SECRET}}'", {"SECRET": value}))
    assert "geheim" not in text
    assert f"holdfast.toml:2, jobs.Fee.{key}" in text


def test_passwords_are_not_shown_when_the_url_is_wrong() -> None:
    assert "geheim" not in complaint(inputs("[jobs.Fee]\nstore = 'mysqk://www:geheim@h/d'"))
    assert "geheim" not in complaint(inputs("[jobs.Fee]\nprocesses = 'mysql://www:geheim@h/d'"))
