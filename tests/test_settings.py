"""Where settings come from, which wins, and what is said about one that cannot be."""

import tomllib
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.settings import as_toml, configure, from_environment, gather, line_of


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes server.toml, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "server.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return "server.toml"

    return write


def test_precedence(file):
    name = file("keep_alive = 1\nbacklog = 1\nchdir = 'file'\n")
    environ = {"GEVENTGATE_KEEP_ALIVE": "2", "GEVENTGATE_BACKLOG": "2", "OTHER": "x"}
    settings = gather({"keep_alive": 3.0}, environ, name)
    config = configure(settings)
    assert (config.head_timeout, config.chdir, config.backlog, config.keep_alive) == (10.0, "file", 2, 3.0)
    assert [settings[name].source for name in ("head_timeout", "chdir", "backlog", "keep_alive")] == [
        "",
        "server.toml, line 3: chdir",
        "GEVENTGATE_BACKLOG",
        "--keep-alive",
    ]


def test_the_environment_may_name_the_file_and_the_command_line_another(file, tmp_path):
    (tmp_path / "other.toml").write_text("backlog = 9\n")
    name = file("backlog = 1\n")
    assert gather({}, {"GEVENTGATE_CONFIG": name})["backlog"].value == 1
    assert gather({}, {"GEVENTGATE_CONFIG": name}, "other.toml")["backlog"].value == 9


def test_nothing_said_is_the_defaults():
    assert configure(gather({}, {})) == Config()


ENVIRONMENT = [
    ("KEEP_ALIVE", "75", 75.0),
    ("KEEP_ALIVE", "0.5", 0.5),
    ("BACKLOG", "17", 17),
    ("PATCH", "no", False),
    ("PATCH", "TRUE", True),
    ("PATCH", "0", False),
    ("LOG_LEVEL", "DEBUG", "debug"),
    ("CHDIR", "/srv/a,b", "/srv/a,b"),
    ("CHDIR", "", ""),
    ("BIND", ":8000", (":8000",)),
    ("BIND", ":8000, unix:/run/a ,", (":8000", "unix:/run/a")),
    ("WS_ORIGINS", "", ()),
]


@pytest.mark.parametrize(("variable", "text", "value"), ENVIRONMENT)
def test_environment(variable, text, value):
    setting = gather({}, {f"GEVENTGATE_{variable}": text})[variable.lower()]
    assert (setting.value, type(setting.value)) == (value, type(value))


BAD_ENVIRONMENT = [
    ("GEVENTGATE_KEEP_ALIVE", "soon", "GEVENTGATE_KEEP_ALIVE is 'soon', and should be a number"),
    ("GEVENTGATE_KEEP_ALIVE", "", "GEVENTGATE_KEEP_ALIVE is '', and should be a number"),
    ("GEVENTGATE_KEEP_ALIVE", "-1", "GEVENTGATE_KEEP_ALIVE is -1, and should be 0 or more"),
    ("GEVENTGATE_KEEP_ALIVE", "nan", "GEVENTGATE_KEEP_ALIVE is nan, and should be 0 or more"),
    ("GEVENTGATE_BACKLOG", "1.5", "GEVENTGATE_BACKLOG is '1.5', and should be a whole number"),
    ("GEVENTGATE_BACKLOG", "1_0", "GEVENTGATE_BACKLOG is '1_0', and should be a whole number"),
    ("GEVENTGATE_PATCH", "maybe", "GEVENTGATE_PATCH is 'maybe', and should be True or False"),
    ("GEVENTGATE_LOG_LEVEL", "\x1b[31m", "GEVENTGATE_LOG_LEVEL is '\\x1b[31m', and should be one of debug"),
    ("GEVENTGATE_LOG_LEVEL", "loud", "GEVENTGATE_LOG_LEVEL is loud, and should be one of debug"),
    ("GEVENTGATE_BIND", ",", "GEVENTGATE_BIND is '', and should be at least one address"),
    ("GEVENTGATE_KEEP_ALIFE", "1", "GEVENTGATE_KEEP_ALIFE is no setting: did you mean GEVENTGATE_KEEP_ALIVE?"),
    ("GEVENTGATE_keep_alive", "1", "GEVENTGATE_keep_alive is no setting: did you mean GEVENTGATE_KEEP_ALIVE?"),
    ("GEVENTGATE_", "1", "GEVENTGATE_ is no setting"),
    ("GEVENTGATE_PORTS", "1", "GEVENTGATE_PORTS is no setting"),
]


@pytest.mark.parametrize(("variable", "text", "message"), BAD_ENVIRONMENT)
def test_bad_environment(variable, text, message):
    with pytest.raises(ConfigError) as caught:
        gather({}, {variable: text})
    assert str(caught.value).startswith(message)


def test_what_kubernetes_sets_is_not_for_us():
    """Of a service that is called geventgate."""
    assert from_environment({
        "GEVENTGATE_SERVICE_HOST": "10.0.0.11", "GEVENTGATE_SERVICE_PORT": "80", "GEVENTGATE_SERVICE_PORT_HTTP": "80",
        "GEVENTGATE_PORT": "tcp://10.0.0.11:80", "GEVENTGATE_PORT_80_TCP": "tcp://10.0.0.11:80",
        "GEVENTGATE_PORT_80_TCP_PROTO": "tcp", "GEVENTGATE_PORT_80_TCP_PORT": "80",
        "GEVENTGATE_PORT_80_TCP_ADDR": "10.0.0.11",
    }) == {}  # fmt: skip


FILES = [
    ("", {}),
    ("# nothing\n", {}),
    ("keep_alive = 75 # seconds\n", {"keep_alive": 75}),
    ("bind = ':1'\n", {"bind": (":1",)}),
    ("bind = [':1',\n ':2',\n]\n", {"bind": (":1", ":2")}),
    ("ws_origins = ['https://a,b']\n", {"ws_origins": ("https://a,b",)}),
    ("patch = false\r\nlog_level = 'debug'\r\n", {"patch": False, "log_level": "debug"}),
    ("'keep_alive' = 1\n\"backlog\" = 2\n", {"keep_alive": 1, "backlog": 2}),
]


@pytest.mark.parametrize(("text", "said"), FILES)
def test_file(file, text, said):
    settings = gather({}, {}, file(text))
    assert {name: setting.value for name, setting in settings.items() if setting.source} == said


BAD_FILES = [
    ("\n\nkeep_alive = '5'\n", "server.toml, line 3: keep_alive is '5', and should be a number"),
    ("keep_alive = true\n", "server.toml, line 1: keep_alive is True, and should be a number"),
    ("backlog = 1.0\n", "server.toml, line 1: backlog is 1.0, and should be a whole number"),
    ("keep_alive = -1\n", "server.toml, line 1: keep_alive is -1, and should be 0 or more"),
    ("keep_alive = inf\n", "server.toml, line 1: keep_alive is inf, and should be 0 or more"),
    ("head_timeout = 0\n", "server.toml, line 1: head_timeout is 0, and should be more than 0"),
    ("bind = []\n", "server.toml, line 1: bind is '', and should be at least one address"),
    ("bind = [8000]\n", "server.toml, line 1: bind is (8000,), and should be a tuple of texts"),
    ("bind = {a = 1}\n", "server.toml, line 1: bind is {'a': 1}, and should be a tuple of texts"),
    ("umask = 0o22\n", "server.toml, line 1: umask is 18, and should be a text"),
    ("chdir = 2026-01-01\n", "server.toml, line 1: chdir is datetime.date(2026, 1, 1), and should be a text"),
    ("log_level = 'DEBUG'\n", "server.toml, line 1: log_level is DEBUG, and should be one of debug"),
    ("# a\n keep_alife = 1\n", "server.toml, line 2: keep_alife is no setting: did you mean keep_alive?"),
    ("keep-alive = 1\n", "server.toml, line 1: keep-alive is no setting: did you mean keep_alive?"),
    ("\n[geventgate]\nbind = ':1'\n", "server.toml, line 2: geventgate is no setting"),
    ("a.b = 1\n", "server.toml, line 1: a is no setting"),
    ('"a\\nb" = 1\n', "server.toml, line 1: 'a\\nb' is no setting"),
    ('log_level = "a\\nb"\n', "server.toml, line 1: log_level is 'a\\nb', and should be one of debug"),
    ('log_level = "a\\u2028b"\n', "server.toml, line 1: log_level is 'a\\u2028b', and should be one of debug"),
    ("bind = " + "[" * 5000, "--config server.toml: nested too deeply"),
    ("chdir = '''\nbacklog = -1\n'''\nbacklog = -2\n", "server.toml, line 4: backlog is -2"),
    ("bind = [\n'a', # backlog = 3\n]\nbacklog = -2\n", "server.toml, line 4: backlog is -2"),
    ("backlog = \n", "server.toml, line 1, column 11: Invalid value"),
    ("backlog = 1\nbacklog = 2\n", "server.toml, line 2, column 12: Cannot overwrite a value"),
    ("bind = [\n", "server.toml: "),
    (b"chdir = '\xff'\n", "--config server.toml: not UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_bad_file(file, text, message):
    with pytest.raises(ConfigError) as caught:
        gather({}, {}, file(text))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"--config .*/none\.toml: No such file or directory"):
        gather({}, {}, f"{tmp_path}/none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        gather({}, {}, str(tmp_path))


def test_a_bad_value_is_refused_though_another_source_overrides_it(file):
    with pytest.raises(ConfigError, match="line 1"):
        gather({"backlog": 5}, {}, file("backlog = -1\n"))


def test_what_is_printed_says_the_same(file):
    given = {"chdir": 'a "b" \\c\né\U0010ffff', "bind": (":1", "unix:/a b"), "patch": False, "keep_alive": 0.1}
    text = as_toml(gather(given, {"GEVENTGATE_BACKLOG": "5"}))
    assert len(text.splitlines()) == len(fields(Config))
    again = gather({}, {}, file(text))
    assert configure(again) == Config(**given, backlog=5)
    lines = {line.partition(" ")[0]: line.rpartition("# ")[2] for line in text.splitlines()}
    assert (lines["chdir"], lines["backlog"], lines["min_rate"]) == ("--chdir", "GEVENTGATE_BACKLOG", "default")


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@given(TEXT, st.integers(0, 9), st.integers(0, 9))
def test_the_line_of_a_key(text, before, count):
    """Whatever lies before it: comments, or a text of many lines that holds the key itself."""
    escaped = text.replace("\\", "").replace("'", "").replace("\r", "")
    clean = "".join(char for char in escaped if char in "\n\t" or (char >= " " and char != "\x7f"))
    block = "other = '''\n" + "backlog = 1\n" * count + clean + "'''\n"
    document = "\n" * before + block + "backlog = 2\n"
    assert tomllib.loads(document)["backlog"] == 2
    assert document.split("\n")[line_of("backlog", document) - 1] == "backlog = 2"
    assert line_of("backlog", document) == document[: document.rindex("backlog")].count("\n") + 1
