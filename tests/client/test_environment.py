"""The environment: proxies and their exceptions, and trusted certificates, alike with both transports."""

from __future__ import annotations

import base64
import os
import ssl
import traceback

import ctxembed
import pytest
from ctxembed._client import AsyncClient, Client
from ctxembed._client._http.environment import environment_proxy

from .conftest import KEY, Driver
from .test_connections import authority  # noqa: F401  # a fixture

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
HOST = "http://127.0.0.1:9"
"""An address at which nothing listens: a request for it succeeds through the proxy only."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in (*PROXY_VARIABLES, *map(str.lower, PROXY_VARIABLES), "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


def shown(error):
    """Return all that an exception shows, with the locals of its frames except those of the tests."""
    lines = []
    queue = [error]
    while queue:
        found = queue.pop()
        if found is None:
            continue
        lines += [str(found), repr(found), repr(found.args), repr(vars(found))]
        for frame, _ in traceback.walk_tb(found.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:
                lines.append(repr(frame.f_locals))
        queue += [found.__cause__, found.__context__]
    return "\n".join(lines)


def holds_password(error):
    return any(part in shown(error) for part in ("hidden", "hid\\nden", "den@"))


# NO_PROXY


@pytest.mark.parametrize(
    "no_proxy",
    [
        "127.0.0.1",
        "localhost, 127.0.0.1 ,",
        "localhost,127.0.0.1,[::1]",
        ",,[::1]:80,::1,::1/128,127.0.0.1",
        "127.0.0.0/8",
        "10.0.0.0/8 127.0.0.0/8",
        "127.0.0.1:9",
        "127.0.0.1/32",
        "::ffff:127.0.0.1",
        "*",
        "example.com, *",
        "http://127.0.0.1",
        "all://127.0.0.1:9",
        "127.0.0.1/8",
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]"])
def test_no_proxy_bypasses_the_proxy(monkeypatch, no_proxy, host):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert environment_proxy(f"http://{host}:9") is None


@pytest.mark.parametrize(
    ("host", "no_proxy", "bypassed"),
    [
        ("[::1]", "[::1]", True),
        ("[::1]", "::1", True),
        ("[::1]", "::1/128", True),
        ("[::1]", "[::1]/128", True),
        ("[::1]", "[::1]:443", True),
        ("[::1]", "[::1]:80", False),
        ("[::1]", "0:0:0:0:0:0:0:1", True),
        ("[fd00::5]", "fd00::/8", True),
        ("[fd00::5]", "[fd00::]/8", True),
        ("[fe00::5]", "fd00::/16", False),
        ("[::1]", "127.0.0.1,1", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("10.1.2.3", "1.2.3,.2.3", False),
        ("api.example.com", "example.com", True),
        ("api.example.com", ".example.com", True),
        ("example.com", ".example.com", True),
        ("api.example.com", "*.example.com", True),
        ("API.Example.com", "eXample.COM", True),
        ("api.example.com.", "example.com", True),
        ("api.example.com", "example.com.", True),
        ("badexample.com", "example.com", False),
        ("api.example.com", "example.com:443", True),
        ("api.example.com", "example.com:8443", False),
        ("api.example.com", "https://example.com", True),
        ("api.example.com", "http://example.com", False),
        ("api.example.com", "[", False),
        ("api.example.com", "[::1", False),
        ("api.example.com", "::::,[x],/8,10.0.0.0/99,:,:443,*:80", False),
        ("api.example.com", "*:443", True),
        ("api.example.com", "", False),
        ("api.example.com", " , ,", False),
        ("api.example.com", "example.com:99999999999999999999", False),
    ],
)
def test_no_proxy_lists_hosts_domains_and_networks(monkeypatch, host, no_proxy, bypassed):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert (environment_proxy(f"https://{host}") is None) is bypassed


@pytest.mark.parametrize("no_proxy", ["[::1]", "localhost,127.0.0.1,[::1]", "::1,[", "10.0.0.0/8,127.0.0.0/8", "*"])
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
def test_a_request_is_sent_whatever_no_proxy_lists(scripted_server, authority, monkeypatch, transport, no_proxy):  # noqa: F811
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "certificate.pem", authority / "key.pem")
    scripted_server.server.socket = context.wrap_socket(scripted_server.server.socket, server_side=True)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    if no_proxy not in ("[::1]", "::1,["):
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    client = {"base_url": scripted_server.base_url.replace("http:", "https:"), "transport": transport}
    for kind in ("sync", "asyncio"):
        emb = Driver(kind).create([["a"]], _client={**client, "verify": authority / "certificate.pem"})
        assert len(emb) == 1
    assert len(scripted_server.requests) == 2


def test_aiohttp_sends_where_no_proxy_excludes_the_host(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert Client(KEY).transport == "httpx"
    monkeypatch.setenv("NO_PROXY", "perplexity.ai")
    assert Client(KEY).transport == Client(KEY, transport="aiohttp").transport == "aiohttp"


# Proxies


CREDENTIALS = [
    ("user:hidden", "user:hidden"),
    ("user:p@ss@hidden", "user:p@ss@hidden"),
    ("user:with:colon:hidden", "user:with:colon:hidden"),
    ("user:%2F%23%3F%40%3A%25hidden", "user:/#?@:%hidden"),
    ("user:100%hidden", "user:100%hidden"),
    ("user:with space hidden", "user:with space hidden"),
    ("us\u00e9r:h\u00efdden", "us\u00e9r:h\u00efdden"),
    ("user:%C3%AFhidden", "user:\u00efhidden"),
    ("user:!$&'()*+,;=[]|\\^`{}~\"<>hidden", "user:!$&'()*+,;=[]|\\^`{}~\"<>hidden"),
    ("user:", "user:"),
    (":hidden", ":hidden"),
    ("", None),
]


@pytest.mark.parametrize("way", ["argument", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(("credentials", "sent"), CREDENTIALS)
def test_a_proxy_receives_its_credentials(scripted_server, monkeypatch, way, credentials, sent):
    url = scripted_server.base_url.replace("//", f"//{credentials}@" if credentials else "//")
    client = {"base_url": HOST, "max_retries": 0}
    if way == "argument":
        client["proxy"] = url
    else:
        monkeypatch.setenv(way, url)
        client |= {"base_url": "http://api.example.test", "allow_insecure": True}
    assert len(Driver("asyncio").create([["a"]], _client=client)) == 1
    [request] = scripted_server.requests
    assert request["path"] == client["base_url"] + "/v1/contextualizedembeddings"
    header = request["headers"].get("proxy-authorization")
    assert header == (None if sent is None else "Basic " + base64.b64encode(sent.encode()).decode())


UNUSABLE = [
    "http://user:hidden/pw@127.0.0.1:9",
    "http://user:hidden#pw@127.0.0.1:9",
    "http://user:hidden?pw@127.0.0.1:9",
    "user:hidden/pw@127.0.0.1:9",
    "ftp://user:hidden@127.0.0.1:9",
    "socks4://user:hidden@127.0.0.1:9",
    "socks://user:hidden@127.0.0.1:9",
    "://user:hidden@127.0.0.1:9",
    "http://user:hidden@",
    "http://user:hidden@:9",
    "http://user:hidden@127.0.0.1:hidden",
    "http://user:hidden@127.0.0.1:99999",
    "http://user:hidden@127.0.0.1:0",
    "http://user:hidden@[::1",
    "http://user:hidden@[::g]:9",
    "http://user:hidden@a..b:9",
    f"http://user:hidden@{'a' * 64}.example:9",
    "http://user:hid\nden@127.0.0.1:9",
    "http://user:hidden@127.0.0.1:\u0661",
    "http://user:hidden@\u212aelvin:9",
    "hidden@",
    "http://",
]


@pytest.mark.parametrize("url", UNUSABLE)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_unusable_proxy_is_refused_without_showing_it(kind, url):
    for options in ({}, {"max_retries": -1}):
        with pytest.raises(ValueError, match=r"^(proxy|max_retries) ") as caught:
            kind(KEY, proxy=url, **options)
        assert not holds_password(caught.value)
        with pytest.raises(ValueError, match=r"^(proxy|max_retries) ") as caught:
            kind(KEY).with_options(proxy=url, **options)
        assert not holds_password(caught.value)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("url", UNUSABLE)
def test_an_unusable_proxy_of_the_environment_is_an_error_that_names_the_variable(driver, monkeypatch, variable, url):
    monkeypatch.setenv(variable, url)
    with pytest.raises(ctxembed.APIConnectionError, match=variable) as caught:
        driver.create([["a"]], _client={"base_url": "https://127.0.0.1:9"})
    assert not holds_password(caught.value)
    assert type(caught.value.__cause__) is ValueError
    with pytest.raises(ctxembed.EmbedError, match=variable) as caught:
        driver.embed([["a"]], _client={"base_url": "https://127.0.0.1:9"})
    assert not holds_password(caught.value)
    assert [failure.attempts for failure in caught.value.failures] == [1]  # it is not retried
    assert caught.value.partial.usage.unreported == 0


def test_the_proxy_of_the_scheme_comes_before_that_of_all(driver, scripted_server, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1")  # as some desktops set it
    monkeypatch.setenv("HTTP_PROXY", scripted_server.base_url.removeprefix("http://"))
    client = {"base_url": "http://api.example.test", "allow_insecure": True}
    assert len(driver.create([["a"]], _client=client)) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_does_not_show_the_password_of_its_proxy_or_its_headers(kind):
    client = kind(KEY, proxy="http://user:hidden@127.0.0.1:9", default_headers={"x-gateway": "secret"})
    copy = client.with_options(max_retries=1)
    for one in (client, copy):
        texts = repr([one, vars(one), one._state, vars(one._state.connections), one._state.connections.settings])
        assert "hidden" not in texts
        assert "secret" not in texts
    assert copy._state.connections is client._state.connections
    assert dict(copy._state.headers)["x-gateway"] == "secret"


# Certificates


@pytest.fixture(params=["sync", "asyncio", "trio"])
def https_driver(request):
    """A driver whose client is told to reach an address at which nothing listens."""
    return Driver(request.param)


def test_ssl_cert_file_is_trusted(scripted_server, authority, monkeypatch, driver):  # noqa: F811
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "certificate.pem", authority / "key.pem")
    scripted_server.server.socket = context.wrap_socket(scripted_server.server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "certificate.pem"))
    base_url = scripted_server.base_url.replace("http:", "https:")
    assert len(driver.create([["a"]], _client={"base_url": base_url})) == 1


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("what", ["missing", "not PEM", "empty", "a folder", "half a certificate", "a named pipe"])
def test_a_bad_ssl_cert_file_is_an_error_that_names_variable_and_path(tmp_path, monkeypatch, transport, what):
    path = tmp_path / "authority.pem"
    if what == "a folder":
        path.mkdir()
    elif what == "a named pipe":
        os.mkfifo(path)
    elif what != "missing":
        half = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        path.write_text({"not PEM": "{}", "empty": "", "half a certificate": half}[what])
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    for kind in ("sync", "asyncio"):
        with pytest.raises(ctxembed.APIConnectionError, match=r"SSL_CERT_FILE.*authority\.pem") as caught:
            Driver(kind).create([["a"]], _client={"base_url": "https://127.0.0.1:9", "transport": transport})
        assert type(caught.value.__cause__) is ValueError
    with pytest.raises(ValueError, match=r"verify.*authority\.pem"):
        Client(KEY, verify=path if what != "a folder" else path / "authority.pem")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every file")
def test_an_unreadable_ssl_cert_file_is_an_error_that_names_variable_and_path(tmp_path, monkeypatch, driver):
    path = tmp_path / "authority.pem"
    path.touch(mode=0)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(ctxembed.APIConnectionError, match=r"SSL_CERT_FILE.*authority\.pem"):
        driver.create([["a"]], _client={"base_url": "https://127.0.0.1:9"})


@pytest.mark.parametrize("what", ["missing", "a file", "empty"])
def test_a_bad_ssl_cert_dir_is_an_error_that_names_variable_and_path(tmp_path, monkeypatch, driver, what):
    path = tmp_path / "authorities"
    if what == "a file":
        path.touch()
    elif what == "empty":
        path.mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", str(path))
    with pytest.raises(ctxembed.APIConnectionError, match=r"SSL_CERT_DIR.*authorities"):
        driver.create([["a"]], _client={"base_url": "https://127.0.0.1:9"})


def test_empty_variables_are_ignored(driver, monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "")
    with pytest.raises(ctxembed.APIConnectionError, match="ConnectError"):
        driver.create([["a"]], _client={"base_url": "https://127.0.0.1:9", "max_retries": 0})


def test_an_unusable_sslkeylogfile_is_an_error_that_names_it(tmp_path, monkeypatch, driver):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    with pytest.raises(ctxembed.APIConnectionError, match="SSLKEYLOGFILE"):
        driver.create([["a"]], _client={"base_url": "https://127.0.0.1:9"})
