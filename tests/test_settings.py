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
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "settings.md").read_text()


def test_empty_environment_gives_defaults():
    settings = Settings.from_env({})
    assert settings.store == "sqlite:.realtime/realtime.db"
    assert (settings.secret_key, settings.env, settings.url) == ("", "development", None)
    assert settings.concurrency == 20
    assert settings.limits.record_bytes == 1 << 20


def test_from_env_reads_variables():
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


def test_runner_is_read_from_environment():
    assert Settings.from_env({}).runner == "process"
    assert Settings.from_env({"REALTIME_RUNNER": "celery"}).runner == "celery"


def test_retention_is_unlimited_by_default():
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
        with pytest.raises(ConfigurationError, match=f"{name} is '0'; it must be a whole number"):
            Settings.from_env({name: "0"})


def test_empty_variables_count_as_unset():
    empty = dict.fromkeys(("REALTIME_STORE", "REALTIME_URL", "REALTIME_CONCURRENCY"), "")
    assert Settings.from_env(empty) == Settings()


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "²", " 3"])
def test_concurrency_rejects_values_below_one(value):
    with pytest.raises(ConfigurationError, match=r"REALTIME_CONCURRENCY is .* whole number from 1"):
        Settings.from_env({"REALTIME_CONCURRENCY": value})


def test_environment_name_rejects_unknown_value():
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
def test_sqlite_url_names_path_and_durability(url, path, durability):
    store = open_store(url)
    assert isinstance(store, SqliteStore)
    assert str(store.path) == path
    assert store._durability == durability


def test_memory_url_opens_memory_store():
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
def test_open_store_rejects_invalid_url(url, message):
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
def test_redis_url_names_servers(url, kind, addresses):
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


def test_redis_store_requires_secret_key():
    with pytest.raises(ConfigurationError, match="every gateway and worker of a Redis store"):
        resolve_secret(Settings(store="redis://localhost"))


def test_configured_secret_is_used():
    assert resolve_secret(Settings(secret_key=SECRET)) == SECRET


@pytest.mark.parametrize("env", ["development", "production"])
def test_short_secret_is_rejected(env):
    with pytest.raises(ConfigurationError, match="has 5 bytes"):
        resolve_secret(Settings(secret_key="short", env=env))


def test_production_requires_secret_key(tmp_path):
    settings = Settings(store=f"sqlite:{tmp_path}/a.db", env="production")
    with pytest.raises(ConfigurationError, match="REALTIME_SECRET_KEY is not set"):
        resolve_secret(settings)
    assert list(tmp_path.iterdir()) == []


def test_development_generates_private_secret_once(tmp_path):
    settings = Settings(store=f"sqlite:{tmp_path}/sub/a.db")
    secret = resolve_secret(settings)
    assert len(secret) >= 43
    assert resolve_secret(settings) == secret
    kept = tmp_path / "sub" / "secret_key"
    assert kept.read_text() == secret
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    elsewhere = Settings(store=f"sqlite:{tmp_path}/other/a.db")
    assert resolve_secret(elsewhere) != secret


def test_damaged_secret_file_is_rejected(tmp_path):
    (tmp_path / "secret_key").write_text("short")
    with pytest.raises(ConfigurationError, match="has 5 bytes"):
        resolve_secret(Settings(store=f"sqlite:{tmp_path}/a.db"))


def test_memory_store_generates_secret_without_file():
    settings = Settings(store="memory:")
    assert resolve_secret(settings) != resolve_secret(settings)


def test_worker_without_secret_is_rejected(tmp_path, monkeypatch):
    # A generated secret would be rejected by the gateway, with a less helpful message.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="REALTIME_SECRET_KEY"):
        resolve_secret(Settings(url="ws://elsewhere:8400"))
    assert list(tmp_path.iterdir()) == []


def test_worker_reads_secret_file_of_local_gateway(tmp_path):
    store = f"sqlite:{tmp_path}/a.db"
    secret = resolve_secret(Settings(store=store))
    assert resolve_secret(Settings(store=store, url="ws://localhost:8400")) == secret


# ---- limits ----


@pytest.mark.parametrize("field", fields(Limits), ids=lambda field: field.name)
def test_every_limit_is_read_and_documented(field):
    name = f"REALTIME_{field.name.upper()}"
    value = "3000000" if field.name in ("record_bytes", "data_frame_bytes") else "7"
    more = {"REALTIME_DATA_FRAME_BYTES": "9000000"} if field.name == "record_bytes" else {}
    read = getattr(Settings.from_env({name: value} | more).limits, field.name)
    assert read == float(value)
    assert type(read) is type(field.default)
    assert f"`{name}`" in PAGE, f"docs/settings.md leaves {name} out"
    assert f"        {field.name}: " in Limits.__doc__


def test_empty_environment_gives_documented_limits():
    limits = Settings.from_env({}).limits
    assert limits == Limits()
    assert (limits.frame_bytes, limits.record_bytes, limits.hello_s) == (65536, 1 << 20, 10)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_count_limit_rejects_values_below_one(value):
    with pytest.raises(ConfigurationError, match=r"REALTIME_SUBSCRIPTIONS is .* from 1"):
        Settings.from_env({"REALTIME_SUBSCRIPTIONS": value})


@pytest.mark.parametrize("value", ["0", "-1", "1e3", "nan", "inf", "soon", "1.2.3", ".5"])
def test_time_limit_rejects_zero(value):
    with pytest.raises(ConfigurationError, match=r"REALTIME_IDLE_S is .* number over 0"):
        Settings.from_env({"REALTIME_IDLE_S": value})
    assert Settings.from_env({"REALTIME_IDLE_S": "0.25"}).limits.idle_s == 0.25


def test_max_age_accepts_zero():
    assert Settings.from_env({"REALTIME_MAX_AGE_S": "0"}).limits.max_age_s == 0


def test_record_limit_must_fit_data_frame():
    with pytest.raises(ConfigurationError, match=r"REALTIME_RECORD_BYTES is 3000000; .* 2097152"):
        Settings.from_env({"REALTIME_RECORD_BYTES": "3000000"})


# ---- docs/settings.md ----


class _Asked(dict):
    """An empty environment that records the variables it is asked for."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return default


def _rows(text):
    """Return the variables and defaults of the tables' rows."""
    for cells in re.findall(r"^\| (`REALTIME_.*)$", text, flags=re.M):
        names, default, _ = cells.split("|", 2)
        yield re.findall(r"`(\w+)`", names), default.strip("` ")


def test_settings_page_lists_exactly_the_read_variables():
    asked = _Asked()
    Settings.from_env(asked)
    told = [name for names, _ in _rows(PAGE) for name in names]
    of_the_command_line = {"REALTIME_TOKEN"}
    assert sorted(told) == sorted(asked.names | of_the_command_line)


def test_settings_page_lists_limit_defaults():
    told = {name: default for names, default in _rows(PAGE) for name in names}
    for field in fields(Limits):
        number, _, unit = told[f"REALTIME_{field.name.upper()}"].partition(" ")
        size = {"KiB": 1 << 10, "MiB": 1 << 20}.get(unit, 1)
        assert float(number.rstrip("`:")) * size == field.default, field.name


def test_readme_settings_match_settings_page():
    rows = re.findall(r"^\| `REALTIME_.*$", (ROOT / "README.md").read_text(), flags=re.M)
    assert len(rows) == 10
    for row in rows:
        # A row of several variables may abbreviate the later ones.
        assert row.replace("`…_", "`REALTIME_RETENTION_") in PAGE


# ---- access control ----


def test_origins_and_proxies_are_read():
    settings = Settings.from_env(
        {"REALTIME_ORIGINS": "https://a.example *", "REALTIME_TRUSTED_PROXIES": "10.0.0.0/8"}
    )
    assert settings.origins == ("https://a.example", "*")
    assert settings.trusted_proxies == ("10.0.0.0/8",)


def test_trusted_proxies_default_to_loopback():
    settings = Settings.from_env({"REALTIME_TRUSTED_PROXIES": "", "REALTIME_ORIGINS": ""})
    assert settings == Settings()
    assert settings.trusted_proxies == ("127.0.0.0/8", "::1/128")
    assert settings.origins == ()


def test_metrics_access_rejects_unknown_value():
    assert Settings.from_env({}).metrics == "local"
    assert Settings.from_env({"REALTIME_METRICS": "token"}).metrics == "token"
    with pytest.raises(
        ConfigurationError, match="REALTIME_METRICS is 'all'; it must be local, token"
    ):
        Settings.from_env({"REALTIME_METRICS": "all"})


def test_log_format_rejects_unknown_value():
    assert Settings.from_env({}).log_format == "text"
    assert Settings.from_env({"REALTIME_LOG_FORMAT": "json"}).log_format == "json"
    with pytest.raises(
        ConfigurationError, match="REALTIME_LOG_FORMAT is 'xml'; it must be text or json"
    ):
        Settings.from_env({"REALTIME_LOG_FORMAT": "xml"})


def test_gateway_name_allows_letters_and_digits_only():
    assert Settings.from_env({"REALTIME_NAME": "a1"}).name == "a1"
    for name in ("a_1", "a b", "x" * 21, "ä"):
        with pytest.raises(ConfigurationError, match="REALTIME_NAME"):
            Settings.from_env({"REALTIME_NAME": name})
