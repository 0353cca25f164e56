import pytest

from gateway.errors import ConfigurationError
from gateway.model.network import (
    LOOPBACK,
    Proxies,
    counted_as,
    is_local_host,
    is_loopback,
    may_connect,
    parse_origins,
    parse_proxies,
)


@pytest.mark.parametrize(
    ("origin", "hosts", "allowed", "may"),
    [
        (None, ["app.example"], [], True),  # no browser
        ("https://app.example", ["app.example"], [], True),
        ("https://APP.example", ["app.EXAMPLE"], [], True),
        ("https://app.example", ["app.example:443"], [], True),
        ("http://app.example:8400", ["app.example:8400"], [], True),
        ("http://app.example", ["app.example:8400"], [], False),
        ("http://localhost:3000", ["localhost:8000"], [], False),
        ("http://localhost:3000", ["localhost:8000"], ["http://localhost:3000"], True),
        ("http://localhost:3000", ["localhost:8000"], ["http://localhost:3000/"], True),
        ("https://localhost:3000", ["localhost:8000"], ["http://localhost:3000"], False),
        ("https://evil.example", ["app.example"], [], False),
        ("https://evil.example", ["app.example"], ["*"], True),
        ("https://app.example.evil.example", ["app.example"], ["https://app.example"], False),
        ("https://evil.example/app.example", ["app.example"], [], False),
        ("https://app.example@evil.example", ["app.example"], [], False),
        ("https://evil.example", [""], [], False),
        ("null", ["app.example"], ["https://app.example"], False),
        ("null", ["app.example"], ["*"], True),
        ("", ["app.example"], [], False),
        ("", [""], [], False),
        ("file://", [""], [], False),
        ("https://a.example:port", ["a.example"], [], False),
        ("http://[::1]:3000", ["[::1]:3000"], [], True),
        ("https://app.example", ["inner:8400", "app.example"], [], True),  # behind a proxy
    ],
)
def test_which_pages_may_connect(origin, hosts, allowed, may):
    assert may_connect(origin, hosts, allowed) == may


def test_origins_are_read_from_a_setting():
    assert parse_origins(" https://a.example  http://b:3000 ") == (
        "https://a.example",
        "http://b:3000",
    )
    assert parse_origins("*") == ("*",)
    assert parse_origins("") == ()


@pytest.mark.parametrize("text", ["app.example", "https://a/b", "https://", "https://a,http://b"])
def test_parse_origins_rejects_invalid_origin(text):
    with pytest.raises(ConfigurationError, match=r"REALTIME_ORIGINS has '"):
        parse_origins(text)


def test_proxies_are_read_from_a_setting():
    assert parse_proxies("10.0.0.0/8 ::1") == ("10.0.0.0/8", "::1")
    with pytest.raises(ConfigurationError, match="REALTIME_TRUSTED_PROXIES has 'nginx'"):
        parse_proxies("10.0.0.0/8 nginx")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # nobody that is trusted said it
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("127.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("127.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # the first was made up
        ("127.0.0.1", "198.51.100.1, 10.1.2.3", "198.51.100.1"),
        ("127.0.0.1", "10.0.0.1, 10.1.2.3", "10.0.0.1"),
        ("127.0.0.1", "198.51.100.1, nonsense", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("::ffff:127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("testclient", "198.51.100.1", "testclient"),
    ],
)
def test_the_address_behind_proxies(peer, forwarded, client):
    assert Proxies([*LOOPBACK, "10.0.0.0/8"]).client(peer, forwarded) == client


def test_addresses_of_ipv6_are_counted_by_the_network_that_one_customer_has():
    assert counted_as("2001:db8:1:2:3::4") == counted_as("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert counted_as("2001:db8:1:3::4") != counted_as("2001:db8:1:2::4")
    assert counted_as("::ffff:1.2.3.4") == "1.2.3.4"
    assert counted_as("a socket") == "a socket"


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::2", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machines_own(address, is_own):
    assert is_loopback(address) == is_own


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("localhost", True),
        ("localhost:8400", True),
        ("LOCALHOST:8400", True),
        ("127.0.0.1:8400", True),
        ("[::1]:8400", True),
        ("localhost.evil.example", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1:8400", False),
        ("localhost:port", False),
        ("", False),
    ],
)
def test_which_hosts_name_this_machine(host, is_own):
    assert is_local_host(host) == is_own
