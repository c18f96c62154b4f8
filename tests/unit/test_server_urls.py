"""Every form of a server's URL either means what it says to every client that reads it, or is refused with a reason."""

from __future__ import annotations

import itertools
from urllib.parse import quote

import psycopg
import pytest
from asyncpg import connect_utils
from redis.asyncio.connection import parse_url
from yarl import URL

from flashsale.adapters.postgres.hosts import urls_of_hosts
from flashsale.adapters.redis.addresses import Host, read_address
from flashsale.settings import Settings, check_settings, read_settings, variable
from flashsale.settings.server_urls import check_gateway_url, check_postgres_url, check_redis_url, hosts_of

PASSWORDS = ["plain", *(f"pa{sign}ss" for sign in "@/#?%:&=+ ,[]'\"\\;$é"), "%41", "a@b/c#d%e", "12/34@x", "://"]
POSTGRES_SCHEMES = ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "mysql", "POSTGRESQL", ""]
POSTGRES_HOSTS = {
    "db": [("db", 5432)],
    "db.example:6432": [("db.example", 6432)],
    "127.0.0.1:5433": [("127.0.0.1", 5433)],
    "[::1]": [("::1", 5432)],
    "[fe80::1]:5433": [("fe80::1", 5433)],
    "%2Fvar%2Frun": ["/var/run/.s.PGSQL.5432"],
    "a:5432,b:5433": [("a", 5432), ("b", 5433)],
    "a,[::1]:5433": [("a", 5432), ("::1", 5433)],
    "::1": None,
    "[::1": None,
    "db:port": None,
    "db:0": None,
    "db:99999": None,
    "a,,b": None,
    "d b": None,
}
TLS = [
    "",
    "sslmode=disable",
    "sslmode=prefer",
    "sslmode=require",
    "sslmode=on",
    "sslmode=",
    "ssl=true",
    "sslrootcert=/no",
]
QUOTES = ["", "'", '"', "`"]
REDIS_HOSTS = {
    "cache": "cache",
    "cache:6380": "cache",
    "[::1]:6380": "::1",
    "10.0.0.1": "10.0.0.1",
    "a,b": None,
    "::1": None,
    "cache:x": None,
    "": None,
}


def encoded(text: str) -> str:
    return quote(text, safe="")


def refused(check, url: str, secrets: list[str]) -> bool:
    """Whether a URL is refused; the reason is a line that shows none of the secrets' parts."""
    try:
        check(url)
    except ValueError as error:
        said = str(error).partition("; write special")[0].partition("; expected")[0]
        assert said
        assert "\n" not in said
        for secret in secrets:
            assert len(secret) < 5 or secret not in said, said
        return True
    return False


def read_by_asyncpg(url: str):
    addresses, parameters = connect_utils._parse_connect_dsn_and_args(  # type: ignore[attr-defined]
        dsn=url, host=None, port=None, user=None, password=None, passfile="/none", database=None, ssl=None,
        service=None, servicefile="/none", direct_tls=None, server_settings=None, target_session_attrs="read-write",
        krbsrvname=None, gsslib=None,
    )[:2]  # fmt: skip
    return addresses, parameters.user, parameters.password, parameters.database


def test_every_form_of_a_postgres_url_is_read_alike_by_every_client_or_refused():
    tried = accepted = 0
    for scheme, hosts, tls, mark in itertools.product(POSTGRES_SCHEMES, POSTGRES_HOSTS, TLS, QUOTES):
        url = f"{mark}{scheme}://user:{encoded('s3cret/word')}@{hosts}/shop{'?' + tls if tls else ''}{mark}"
        good = (
            not mark
            and scheme in {"postgresql", "postgres"}
            and POSTGRES_HOSTS[hosts] is not None
            and tls in {"", "sslmode=disable", "sslmode=prefer", "sslmode=require"}
        )
        assert refused(check_postgres_url, url, ["s3cret", "s3cret/word"]) is not good, url
        tried += 1
        if good:
            accepted += 1
            assert read_by_asyncpg(url) == (POSTGRES_HOSTS[hosts], "user", "s3cret/word", "shop"), url
            alone = [read_by_asyncpg(one) for one in urls_of_hosts(url)]
            assert [address for addresses, *_ in alone for address in addresses] == POSTGRES_HOSTS[hosts], url
            assert {one[1:] for one in alone} == {("user", "s3cret/word", "shop")}, url
            said = psycopg.conninfo.conninfo_to_dict(url)
            assert (said["user"], said["password"], said["dbname"]) == ("user", "s3cret/word", "shop"), url
    assert (tried, accepted) == (7 * 15 * 8 * 4, 2 * 8 * 4)


@pytest.mark.parametrize("form", ["path", "query", "no user", "no password"])
def test_other_places_of_the_same_facts_are_read_alike(form):
    url, expected = {
        "path": (
            "postgresql:///shop?host=/run/pg&port=5433&user=u&password=p",
            (["/run/pg/.s.PGSQL.5433"], "u", "p", "shop"),
        ),
        "query": ("postgresql://u:p@/shop?host=a,b&port=1,2", ([("a", 1), ("b", 2)], "u", "p", "shop")),
        "no user": ("postgresql://db/shop?user=u&password=p", ([("db", 5432)], "u", "p", "shop")),
        "no password": ("postgresql://u@db/shop", ([("db", 5432)], "u", None, "shop")),
    }[form]
    check_postgres_url(url)
    assert read_by_asyncpg(url) == expected
    assert psycopg.conninfo.conninfo_to_dict(url)["user"] == "u"


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("kind", ["postgres", "redis", "rediss", "unix"])
def test_a_password_is_read_as_it_is_or_its_url_is_refused(kind, password):
    tried = 0
    for text in (encoded(password), password):
        url = {
            "postgres": f"postgresql://user:{text}@db:5432/shop",
            "redis": f"redis://user:{text}@db:6379/0",
            "rediss": f"rediss://user:{text}@db:6379/0",
            "unix": f"unix://user:{text}@/run/redis.sock?db=1",
        }[kind]
        check = check_postgres_url if kind == "postgres" else check_redis_url
        is_refused = refused(check, url, [password])
        assert not (is_refused and text == encoded(password)), "an encoded password is always taken"
        if is_refused:
            continue
        tried += 1
        if kind == "postgres":
            assert read_by_asyncpg(url) == ([("db", 5432)], "user", text_of(text), "shop")
            assert psycopg.conninfo.conninfo_to_dict(url)["password"] == text_of(text)
        else:
            assert parse_url(url)["password"] == text_of(text)
        # Only a percent sign followed by two digits can mean two things; it means one character.
        assert text_of(text) == password or password == "%41"
    assert tried


def text_of(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def test_every_form_of_a_redis_url_is_read_or_refused():
    schemes = ["redis", "rediss", "redis-sentinel", "valkey", "http", ""]
    paths = {"": 0, "/": 0, "/0": 0, "/5": 5, "/x": None, "/1/2": None, "?db=3": 3, "?db=x": None, "?ssl_cert_reqs=none": 0,
             "?decode_responses=1": None, "?ssl_ca_certs=/no/such/file": None}  # fmt: skip
    tried = 0
    for scheme, host, path, mark in itertools.product(schemes, REDIS_HOSTS, paths, QUOTES):
        url = f"{mark}{scheme}://:s3cret@{host}{path}{mark}"
        good = (
            not mark
            and scheme in {"redis", "rediss"}
            and REDIS_HOSTS[host] is not None
            and paths[path] is not None
            and not ("ssl" in path and scheme == "redis")
        )
        assert refused(check_redis_url, url, ["s3cret"]) is not good, url
        tried += 1
        if good:
            said = parse_url(url)
            assert (said["host"], said["password"], said.get("db", 0)) == (REDIS_HOSTS[host], "s3cret", paths[path]), (
                url
            )
    assert tried == len(schemes) * len(REDIS_HOSTS) * len(paths) * len(QUOTES)
    for url in ("unix:///run/valkey.sock", "unix:///run/valkey.sock?db=2", "unix://:p@/run/valkey.sock"):
        check_redis_url(url)
        assert parse_url(url)["path"] == "/run/valkey.sock"
    assert refused(check_redis_url, "unix://valkey.sock", [])


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://127.0.0.1:9100", True),
        ("https://pay.example", True),
        ("https://pay.example/base/", True),
        ("https://[::1]:8443", True),
        ("pay.example", False),
        ("'https://pay.example'", False),
        ("ftp://pay.example", False),
        ("https://user:s3cret@pay.example", False),
        ("https://pay.example?key=s3cret", False),
        ("https://pay.example#x", False),
        ("https://", False),
        ("https://pay.example:x", False),
        ("https://pay example", False),
        ("https://::1", False),
        ("unix:///run/pay.sock", False),
    ],
)
def test_a_gateway_url_is_read_or_refused(url, good):
    assert refused(check_gateway_url, url, ["s3cret"]) is not good
    if good:
        assert URL(url).host


@pytest.mark.parametrize("password", [*PASSWORDS, "100%", "%40", "ü"])
def test_a_password_in_a_variable_of_its_own_is_taken_as_it_is(monkeypatch, password):
    """By every client that reads the URL, and in every form of the URL."""
    monkeypatch.setenv("FLASHSALE_POSTGRES__PASSWORD", password)
    monkeypatch.setenv("FLASHSALE_REDIS__PASSWORD", password)
    for postgres, redis in [
        ("postgresql://u@h:5432/d", "redis://h:6379/0"),
        ("postgresql://u@a:5432,[::1]:5433/d?sslmode=require", "rediss://u@h/0"),
        ("postgresql://u@%2Fvar%2Frun/d", "unix:///run/valkey.sock?db=2"),
    ]:
        monkeypatch.setenv("FLASHSALE_POSTGRES__URL", postgres)
        monkeypatch.setenv("FLASHSALE_REDIS__URL", redis)
        settings = read_settings("orders")
        read = settings.postgres.url.get_secret_value()
        assert psycopg.conninfo.conninfo_to_dict(read)["password"] == password
        assert read_by_asyncpg(read)[2] == password
        assert parse_url(settings.redis.url.get_secret_value())["password"] == password
        assert read.partition("@")[2] == postgres.partition("@")[2]


def test_a_password_in_two_places_is_refused(monkeypatch):
    monkeypatch.setenv("FLASHSALE_POSTGRES__PASSWORD", "s3cret")
    monkeypatch.setenv("FLASHSALE_POSTGRES__URL", "postgresql://u:0ther@h:5432/d")
    monkeypatch.setenv("FLASHSALE_REDIS__URL", "redis://h:6379/0")
    with pytest.raises(SystemExit, match=r"^FLASHSALE_POSTGRES__URL: holds a password, and ") as refused:
        read_settings("orders")
    assert "s3cret" not in str(refused.value)
    assert "0ther" not in str(refused.value)


SEVERAL = {
    "redis+sentinel": ("sentinel", "/shop/3", 26_379),
    "rediss+sentinel": ("sentinel", "/shop", 26_379),
    "redis+cluster": ("cluster", "", 6379),
    "rediss+cluster": ("cluster", "/0", 6379),
}
HOST_LISTS: dict[str, list[Host] | None] = {
    "a": [Host("a", 0)],
    "a:7000,b,[::1]:7001": [Host("a", 7000), Host("b", 0), Host("::1", 7001)],
    "[fe80::1],10.0.0.1:7000": [Host("fe80::1", 0), Host("10.0.0.1", 7000)],
    "a,,b": None,
    "a,b:x": None,
    "a,::1": None,
    "": None,
}
USERS = {"": (None, None), ":s3cret@": (None, "s3cret"), "shop:s3%2Fcret@": ("shop", "s3/cret")}


def test_every_form_with_several_servers_is_read_as_it_is_written_or_refused():
    tried = 0
    for scheme, hosts, user in itertools.product(SEVERAL, HOST_LISTS, USERS):
        kind, path, port = SEVERAL[scheme]
        url = f"{scheme}://{user}{hosts}{path}"
        expected = HOST_LISTS[hosts]
        tried += 1
        assert refused(check_redis_url, url, ["s3cret", "s3%2Fcret"]) is (expected is None), url
        if expected is None:
            continue
        address = read_address(url)
        assert address.kind == kind
        assert address.hosts == [Host(name, given or port) for name, given in expected]
        assert (address.arguments.get("username"), address.arguments.get("password")) == USERS[user]
        assert address.service == ("shop" if kind == "sentinel" else "")
        assert address.arguments.get("db", 0) == (3 if path.endswith("3") else 0)
        assert ("SSL" in address.arguments["connection_class"].__name__) is scheme.startswith("rediss")
        assert hosts_of(url) == hosts
    assert tried == len(SEVERAL) * len(HOST_LISTS) * len(USERS)


def test_the_sentinels_have_a_password_of_their_own():
    address = read_address("rediss+sentinel://u:p@a,b/shop?sentinel_password=s%26t&ssl_cert_reqs=none")
    assert (address.arguments["password"], address.of_sentinels["password"]) == ("p", "s&t")
    assert "username" not in address.of_sentinels
    assert address.of_sentinels["ssl_cert_reqs"] == address.arguments["ssl_cert_reqs"] == "none"


USUAL = {
    # As providers and libraries print them, and as people paste them: whether they work, or what the refusal says.
    "postgres": {
        "postgresql://u:s3cret@db.example:5432/shop": "",
        "postgres://u:s3cret@db.example/shop": "",
        "postgresql://u:s3cret@db.example/shop?sslmode=require": "",
        "postgresql://u:s3cret@db.example/shop?sslmode=verify-full&sslrootcert=FILE": "",
        "postgresql://u.project:s3cret@pooler.example:6543/postgres": "",
        "postgresql://u:s3cret@a.example:5432,b.example:5432/shop?target_session_attrs=read-write": "",
        "postgresql://u:s3cret@/shop?host=/run/postgresql": "",
        "postgresql://u:s3cret@db.example/shop?sslmode=verify-full&sslrootcert=system": "sslrootcert is system",
        "postgresql://u:s3cret@db.example/shop?sslmode=verify-full&sslrootcert=/no/such/file": "not there",
        "postgresql://u:s3cret@db.example/shop?sslmode=require&channel_binding=require": "channel_binding",
        "postgresql://u:s3cret@db.example/shop?pgbouncer=true": "pgbouncer",
        "postgresql://u:s3cret@db.example/shop?ssl=true": "the parameter ssl",
        "postgresql://u:s3cret@db.example/shop?sslmode=no-verify": "sslmode is none of",
        "postgresql+psycopg://u:s3cret@db.example/shop": "the scheme postgresql+psycopg",
        "jdbc:postgresql://db.example/shop?user=u&password=s3cret": "has no scheme",
        "host=db.example user=u password=s3cret dbname=shop": "space",
        "u:s3cret@db.example/shop": "is no URL",
        "postgresql://u:s3cret@db.example": "names no database",
        "postgresql://u:s3cret@db.example/shop\n": "character",
        " postgresql://u:s3cret@db.example/shop": "space",
        "'postgresql://u:s3cret@db.example/shop'": "is quoted",
        "postgresql://u:s3@cret@db.example/shop": "cannot be read",
        "postgresql://u:s3cret@db.example:54321234/shop": "port",
        "postgresql://u:s3cret@${POSTGRES_HOST}/shop": "no name",
    },
    "redis": {
        "redis://cache.example": "",
        "redis://:s3cret@cache.example:6379": "",
        "rediss://default:s3cret@cache.example:6379": "",
        "rediss://u:s3cret@cache.example/0?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE": "",
        "unix:///run/valkey/valkey.sock": "",
        "redis+sentinel://:s3cret@a:26379,b:26379/shop/0": "",
        "rediss+cluster://:s3cret@a:6379,b:6379": "",
        "redis://:s3cret@a:6379,b:6379": "redis+sentinel:// or redis+cluster://",
        "redis-cluster://:s3cret@a:6379": "the scheme redis-cluster",
        "sentinel://:s3cret@a:26379/0": "the scheme sentinel",
        "valkey://:s3cret@cache.example": "the scheme valkey",
        "cache.example:6379": "is no URL",
        "redis://:s3cret@cache.example/shop": "no database number",
        "redis://:s3cret@cache.example?ssl=true": "the parameter ssl",
        "redis://:s3cret@cache.example?ssl_ca_certs=FILE": "TLS parameters without TLS",
        "rediss://:s3cret@cache.example?ssl_ca_certs=/no/such/file": "not there",
        "rediss://:s3cret@cache.example?ssl_certfile=FILE": "only one of",
        "rediss://:s3cret@cache.example?ssl_check_hostname=maybe": "neither true nor false",
        "redis+sentinel://:s3cret@a,b": "names no primary",
        "redis+cluster://:s3cret@a,b/3": "a database other than 0",
        "redis://:s3#cret@cache.example": "cannot be read",
    },
}
NAMING_A_SERVER = {
    "postgres.url": USUAL["postgres"],
    "postgres.owner_url": USUAL["postgres"],
    "cell.accounts_url": USUAL["postgres"],
    "postgres.direct_url": USUAL["postgres"],
    "redis.url": USUAL["redis"],
    "payments.gateway_url": {
        "https://pay.example": "",
        "pay.example": "is no URL",
        "https://u:s3cret@pay.example": "user",
    },
    "mail.url": {
        "smtp://mail.example": "",
        "smtp://u@mail.example": "without a password",
        "mail.example:25": "is no URL",
    },
    "tracing.otlp_url": {
        "http://collector.example:4318": "",
        "https://collector.example/of-the-shop/": "",
        "collector.example:4318": "is no URL",
        "grpc://collector.example": "has the scheme grpc",
        "http://u:s3cret@collector.example": "has a user in it",
        "http://collector.example?key=s3cret": "has parameters",
        "http://collector.example/v1/traces": "is the base",
        "http://collector.example:0": "port",
    },
}


def test_every_setting_that_names_a_server_is_tried():
    named = {
        f"{group}.{name}"
        for group, field in Settings.model_fields.items()
        for name in field.annotation.model_fields
        if name.endswith("url") and group != "stripe"
    }
    assert named == set(NAMING_A_SERVER)


@pytest.mark.parametrize("setting", NAMING_A_SERVER)
def test_each_usual_form_of_a_url_works_or_is_one_line_that_names_the_variable_and_the_reason(
    setting, monkeypatch, tmp_path
):
    (tmp_path / "pem").touch()
    for form, reason in NAMING_A_SERVER[setting].items():
        monkeypatch.setenv(variable(setting), form.replace("FILE", str(tmp_path / "pem")))
        settings, lines = check_settings("simulator")
        mine = [line for line in lines if line.startswith(f"{variable(setting)}: ")]
        assert len(mine) == bool(reason), (form, lines)
        if reason:
            assert reason in mine[0], form
            assert "\n" not in mine[0]
            assert "s3cret" not in mine[0]
            assert "cret@" not in mine[0].partition("; write")[0].partition("; expected")[0]
        else:
            group, _, name = setting.partition(".")
            value = getattr(getattr(settings, group), name)
            assert (value if isinstance(value, str) else value.get_secret_value()).startswith(form[:6])


@pytest.mark.parametrize("setting", ["postgres.owner_url", "postgres.direct_url", "mail.url"])
def test_an_optional_url_may_be_empty(setting, monkeypatch):
    monkeypatch.setenv(variable(setting), "")
    assert not [line for line in check_settings("simulator")[1] if line.startswith(variable(setting))]
