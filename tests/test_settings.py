import re
import stat
from dataclasses import fields
from pathlib import Path

import pytest
from redis.asyncio.connection import SSLConnection

from gateway.auth.secret_file import resolve_secret
from gateway.errors import ConfigurationError
from gateway.model.limits import Limits
from gateway.model.retention import Retention
from gateway.settings import Settings
from gateway.stores.factory import open_store
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite.store import SqliteStore

SECRET = "a secret of the tests that is long enough"
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "settings.md").read_text()


def test_an_empty_environment_gives_the_defaults():
    settings = Settings.from_env({})
    assert settings.store == "sqlite:.realtime/realtime.db"
    assert (settings.secret_key, settings.env, settings.url) == ("", "development", None)
    assert settings.concurrency == 20
    assert settings.limits.record_bytes == 1 << 20


def test_the_environment_is_read():
    settings = Settings.from_env(
        {
            "REALTIME_STORE": "memory:",
            "REALTIME_SECRET_KEY": SECRET,
            "REALTIME_ENV": "production",
            "REALTIME_URL": "ws://gateway:8400",
            "REALTIME_CONCURRENCY": "7",
        }
    )
    assert settings == Settings("memory:", SECRET, "production", "ws://gateway:8400", 7)


def test_who_executes_is_a_setting():
    assert Settings.from_env({}).runner == "process"
    assert Settings.from_env({"REALTIME_RUNNER": "celery"}).runner == "celery"


def test_what_is_kept_is_read_and_everything_is_kept_by_default():
    assert Settings.from_env({}).retention == Retention(None, None, None, None)
    env = {
        "REALTIME_RETENTION_AGE_S": "3600",
        "REALTIME_RETENTION_RECORDS": "1000",
        "REALTIME_RETENTION_BYTES": "1048576",
        "REALTIME_RUN_TTL_S": "86400",
    }
    retention = Settings.from_env(env).retention
    assert retention == Retention(age_s=3600, records=1000, bytes=1 << 20, run_ttl_s=86400)
    assert open_store("memory:", retention)._retention == retention
    for name in env:
        with pytest.raises(ConfigurationError, match=f"{name} is '0'; it is a whole number"):
            Settings.from_env({name: "0"})


def test_empty_variables_are_as_good_as_none():
    empty = dict.fromkeys(("REALTIME_STORE", "REALTIME_URL", "REALTIME_CONCURRENCY"), "")
    assert Settings.from_env(empty) == Settings()


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "²", " 3"])
def test_the_concurrency_is_a_whole_number_from_one(value):
    with pytest.raises(ConfigurationError, match=r"REALTIME_CONCURRENCY is .* whole number from 1"):
        Settings.from_env({"REALTIME_CONCURRENCY": value})


def test_the_environment_has_one_of_two_names():
    with pytest.raises(ConfigurationError, match="REALTIME_ENV is 'staging'"):
        Settings.from_env({"REALTIME_ENV": "staging"})


@pytest.mark.parametrize(
    ("url", "path", "durability"),
    [
        ("sqlite:data/realtime.db", "data/realtime.db", "full"),
        ("sqlite:/var/lib/realtime.db", "/var/lib/realtime.db", "full"),
        ("sqlite:///var/lib/realtime.db", "/var/lib/realtime.db", "full"),
        ("sqlite:a.db?durability=normal", "a.db", "normal"),
        ("sqlite:my files/a.db", "my files/a.db", "full"),
        ("sqlite:a:b.db", "a:b.db", "full"),
    ],
)
def test_a_store_of_sqlite_is_named_by_its_path(url, path, durability):
    store = open_store(url)
    assert isinstance(store, SqliteStore)
    assert str(store.path) == path
    assert store._durability == durability


def test_the_memory_store_has_no_path():
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not known"),
        ("redis://localhost?speed=high", "no option speed"),
        ("redis://:hidden@localhost?wait=some", "wait is 'some'; it is a number of replicas"),
        ("redis://localhost?prefix={a}", "prefix '{a}' is empty or has a brace"),
        ("redis://a:1,b:2/0", "more than one address"),
        ("redis://localhost:port/0", "a URL that is wrong"),
        ("redis+sentinel://a,b", "the name of the master"),
        ("redis+cluster://a,b/0?db=1", "a cluster has no db but 0"),
        ("redis+other://a", "redis\\+other:// is not known"),
        ("postgres:x", "not known: use sqlite:PATH, memory: or redis://HOST:PORT/0"),
        ("ws://gateway:8400", "REALTIME_URL"),
        ("realtime.db", "not known"),
        ("sqlite:", "needs a path"),
        ("sqlite:?durability=full", "needs a path"),
        ("sqlite:a.db?durability=none", "full or normal"),
        ("sqlite:a.db?speed=high", "no option speed"),
    ],
)
def test_a_store_that_is_none_is_refused_with_what_it_may_be(url, message):
    with pytest.raises(ConfigurationError, match=message) as refused:
        open_store(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "kind", "addresses"),
    [
        ("redis://localhost", "server", (("localhost", 6379),)),
        ("rediss://u:p@a:7000/3?prefix=x&wait=2&ssl_cert_reqs=none", "server", (("a", 7000),)),
        ("redis+sentinel://a,b:7000/mine", "sentinel", (("a", 26379), ("b", 7000))),
        ("rediss+cluster://:hidden@a,b:7000", "cluster", (("a", 6379), ("b", 7000))),
    ],
)
def test_a_store_may_be_redis_servers(url, kind, addresses):
    store = open_store(url)
    parsed = store._servers.url
    assert (parsed.kind, parsed.addresses) == (kind, addresses)
    assert (parsed.connection is SSLConnection) == url.startswith("rediss")
    assert "hidden" not in f"{parsed} {parsed!r}"
    if "prefix" in url:
        assert (parsed.prefix, parsed.wait) == ("x", 2)
        assert parsed.options == {
            "username": "u",
            "password": "p",
            "db": 3,
            "ssl_cert_reqs": "none",
        }


def test_a_redis_store_needs_a_secret_that_its_processes_share():
    with pytest.raises(ConfigurationError, match="every gateway and worker of a Redis store"):
        resolve_secret(Settings(store="redis://localhost"))


def test_a_secret_that_is_set_is_taken():
    assert resolve_secret(Settings(secret_key=SECRET)) == SECRET


@pytest.mark.parametrize("env", ["development", "production"])
def test_a_short_secret_is_refused_everywhere(env):
    with pytest.raises(ConfigurationError, match="has 5 bytes"):
        resolve_secret(Settings(secret_key="short", env=env))


def test_production_makes_no_secret_of_its_own(tmp_path):
    settings = Settings(store=f"sqlite:{tmp_path}/a.db", env="production")
    with pytest.raises(ConfigurationError, match="REALTIME_SECRET_KEY is not set"):
        resolve_secret(settings)
    assert list(tmp_path.iterdir()) == []


def test_development_makes_a_secret_once_and_keeps_it_to_itself(tmp_path):
    settings = Settings(store=f"sqlite:{tmp_path}/sub/a.db")
    secret = resolve_secret(settings)
    assert len(secret) >= 43
    assert resolve_secret(settings) == secret
    kept = tmp_path / "sub" / "secret_key"
    assert kept.read_text() == secret
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    elsewhere = Settings(store=f"sqlite:{tmp_path}/other/a.db")
    assert resolve_secret(elsewhere) != secret


def test_a_kept_secret_that_was_damaged_is_refused(tmp_path):
    (tmp_path / "secret_key").write_text("short")
    with pytest.raises(ConfigurationError, match="has 5 bytes"):
        resolve_secret(Settings(store=f"sqlite:{tmp_path}/a.db"))


def test_a_store_in_memory_has_a_secret_for_its_life_only():
    settings = Settings(store="memory:")
    assert resolve_secret(settings) != resolve_secret(settings)


def test_a_worker_without_a_secret_is_told_to_set_one(tmp_path, monkeypatch):
    # A secret of its own making would be refused by the gateway, with a message that says less.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="REALTIME_SECRET_KEY"):
        resolve_secret(Settings(url="ws://elsewhere:8400"))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_beside_its_gateway_takes_the_secret_that_is_kept_there(tmp_path):
    store = f"sqlite:{tmp_path}/a.db"
    secret = resolve_secret(Settings(store=store))
    assert resolve_secret(Settings(store=store, url="ws://localhost:8400")) == secret


# The limits.


@pytest.mark.parametrize("field", fields(Limits), ids=lambda field: field.name)
def test_every_limit_is_read_from_the_environment_and_told(field):
    name = f"REALTIME_{field.name.upper()}"
    value = "3000000" if field.name in ("record_bytes", "data_frame_bytes") else "7"
    more = {"REALTIME_DATA_FRAME_BYTES": "9000000"} if field.name == "record_bytes" else {}
    read = getattr(Settings.from_env({name: value} | more).limits, field.name)
    assert read == float(value)
    assert type(read) is type(field.default)
    assert f"`{name}`" in PAGE, f"docs/settings.md leaves {name} out"
    assert f"        {field.name}: " in Limits.__doc__


def test_an_empty_environment_gives_the_limits_that_are_told():
    limits = Settings.from_env({}).limits
    assert limits == Limits()
    assert (limits.frame_bytes, limits.record_bytes, limits.hello_s) == (65536, 1 << 20, 10)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_a_limit_of_things_is_a_whole_number_from_one(value):
    with pytest.raises(ConfigurationError, match=r"REALTIME_SUBSCRIPTIONS is .* from 1"):
        Settings.from_env({"REALTIME_SUBSCRIPTIONS": value})


@pytest.mark.parametrize("value", ["0", "-1", "1e3", "nan", "inf", "soon", "1.2.3", ".5"])
def test_a_limit_of_time_is_a_number_over_zero(value):
    with pytest.raises(ConfigurationError, match=r"REALTIME_IDLE_S is .* number over 0"):
        Settings.from_env({"REALTIME_IDLE_S": value})
    assert Settings.from_env({"REALTIME_IDLE_S": "0.25"}).limits.idle_s == 0.25


def test_a_connection_may_be_asked_never_to_come_back_anew():
    assert Settings.from_env({"REALTIME_MAX_AGE_S": "0"}).limits.max_age_s == 0


def test_a_record_has_to_fit_into_a_frame():
    with pytest.raises(ConfigurationError, match=r"REALTIME_RECORD_BYTES is 3000000; .* 2097152"):
        Settings.from_env({"REALTIME_RECORD_BYTES": "3000000"})


# The page that tells of them.


class _Asked(dict):
    """An empty environment that keeps which variables it is asked for."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return default


def _rows(text):
    """Return the names and the default of each row of the tables."""
    for cells in re.findall(r"^\| (`REALTIME_.*)$", text, flags=re.M):
        names, default, _ = cells.split("|", 2)
        yield re.findall(r"`(\w+)`", names), default.strip("` ")


def test_the_page_tells_of_the_settings_that_are_read_and_of_no_others():
    asked = _Asked()
    Settings.from_env(asked)
    told = [name for names, _ in _rows(PAGE) for name in names]
    of_the_command_line = {"REALTIME_TOKEN"}
    assert sorted(told) == sorted(asked.names | of_the_command_line)


def test_the_page_tells_the_defaults_of_the_limits():
    told = {name: default for names, default in _rows(PAGE) for name in names}
    for field in fields(Limits):
        number, _, unit = told[f"REALTIME_{field.name.upper()}"].partition(" ")
        size = {"KiB": 1 << 10, "MiB": 1 << 20}.get(unit, 1)
        assert float(number.rstrip("`:")) * size == field.default, field.name


def test_the_readmes_settings_are_on_the_page_in_the_same_words():
    rows = re.findall(r"^\| `REALTIME_.*$", (ROOT / "README.md").read_text(), flags=re.M)
    assert len(rows) == 10
    for row in rows:
        # A row of several variables may write the later ones in short.
        assert row.replace("`…_", "`REALTIME_RETENTION_") in PAGE


# Who may come.


def test_origins_and_proxies_are_read():
    settings = Settings.from_env(
        {"REALTIME_ORIGINS": "https://a.example *", "REALTIME_TRUSTED_PROXIES": "10.0.0.0/8"}
    )
    assert settings.origins == ("https://a.example", "*")
    assert settings.trusted_proxies == ("10.0.0.0/8",)


def test_only_this_machines_proxies_are_trusted_unless_others_are_named():
    settings = Settings.from_env({"REALTIME_TRUSTED_PROXIES": "", "REALTIME_ORIGINS": ""})
    assert settings == Settings()
    assert settings.trusted_proxies == ("127.0.0.0/8", "::1/128")
    assert settings.origins == ()


def test_who_may_read_metrics_without_a_token():
    assert Settings.from_env({}).metrics == "local"
    assert Settings.from_env({"REALTIME_METRICS": "token"}).metrics == "token"
    with pytest.raises(ConfigurationError, match="REALTIME_METRICS is 'all'; it is local, token"):
        Settings.from_env({"REALTIME_METRICS": "all"})


def test_how_the_log_is_written():
    assert Settings.from_env({}).log_format == "text"
    assert Settings.from_env({"REALTIME_LOG_FORMAT": "json"}).log_format == "json"
    with pytest.raises(
        ConfigurationError, match="REALTIME_LOG_FORMAT is 'xml'; it is text or json"
    ):
        Settings.from_env({"REALTIME_LOG_FORMAT": "xml"})


def test_the_name_of_a_gateway_is_letters_and_digits():
    assert Settings.from_env({"REALTIME_NAME": "a1"}).name == "a1"
    for name in ("a_1", "a b", "x" * 21, "ä"):
        with pytest.raises(ConfigurationError, match="REALTIME_NAME"):
            Settings.from_env({"REALTIME_NAME": name})
