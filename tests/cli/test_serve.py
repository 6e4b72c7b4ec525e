"""``ctxembed serve`` as a process: models, keys, TLS, and streams that nobody reads."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from ctxembed import Client, Collection

from tests.cli.process import command

V1 = "pplx-embed-context-v1-0.6b"
BODY = {"model": V1, "input": [["a"]]}


@pytest.fixture
def serve(process_environment):
    """Return a function that starts the command. Processes that still run at the end are killed."""
    started = []

    def start(*args, environment=None, **streams):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        environment = {**process_environment, **(environment or {})}
        started.append(subprocess.Popen(command("serve", *args), env=environment, text=True, **streams))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def url_of(process):
    return process.stdout.readline().strip()


def ended(process):
    """End a server. Return its exit code and what it wrote to stderr."""
    process.terminate()
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def post(url, key="k", **options):
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(url + "/v1/contextualizedembeddings", json=BODY, headers=headers, trust_env=False, **options)


@pytest.mark.parametrize("arguments", [[], ["--model", "stand-in"]])
def test_the_stand_in_says_that_it_is_one(serve, arguments):
    process = serve("--port", "0", *arguments)
    response = post(url_of(process))
    assert (response.status_code, response.headers["x-ctxembed-space"]) == (200, f"stand-in:{V1}")
    code, errors = ended(process)
    assert (code, "stand-in that knows words but no meaning" in errors) == (0, True)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "./no-such-folder"], "model './no-such-folder' is not a folder"),
    (["--model", "no-such-model"], "model 'no-such-model' is not known: expected stand-in, demo, a folder"),
    (["--model", "demo", "--model", V1], "a server has one local model"),
    (["--device", "cpu"], "device is an option of local models"),
    (["--long-documents", "cut"], "windows"),
    (["--max-queued-tokens", "0"], "max-queued-tokens"),
    (["--ssl-keyfile", "key.pem"], "ssl_keyfile needs ssl_certfile"),
    (["--ssl-certfile", "none.pem"], "none.pem"),
    (["--ssl-certfile", "empty.pem"], "must be a certificate in PEM format"),
])  # fmt: skip
def test_wrong_options_are_errors_of_usage(ctxembed, tmp_path, arguments, message):
    (tmp_path / "empty.pem").touch()
    done = ctxembed("serve", "--port", "0", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_folder_that_is_no_model_is_an_error(serve, tmp_path):
    pytest.importorskip("ctxembed.backends")
    (tmp_path / "empty").mkdir()
    process = serve("--port", "0", "--model", str(tmp_path / "empty"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in errors


def test_a_folder_with_the_name_of_a_model_of_the_api_is_not_the_stand_in(serve, tmp_path):
    pytest.importorskip("ctxembed.backends")
    (tmp_path / V1).mkdir()
    process = serve("--port", "0", "--model", V1, cwd=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "stand-in" in errors) == (1, False)


def test_several_keys_are_accepted_and_no_other(serve):
    process = serve("--port", "0", environment={"CTXEMBED_SERVER_KEY": "first, second"})
    url = url_of(process)
    keys = ["first", "second", "third", "first,", "first, second", "firs"]
    assert [post(url, key).status_code for key in keys] == [200, 200, 401, 401, 401, 401]


@pytest.mark.parametrize("keys", [",", "first,,second", "first,", " "])
def test_an_empty_key_is_refused(ctxembed, keys):
    done = ctxembed("serve", "--port", "0", CTXEMBED_SERVER_KEY=keys)
    assert (done.returncode, done.stdout) == (2, "")
    assert "must not be empty" in done.stderr
    assert "first" not in done.stderr


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate for this machine, with its key beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    options = (
        "req -x509 -newkey rsa:2048 -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -passout pass:x"
    )
    files = ["-keyout", tmp_path / "encrypted.pem", "-out", tmp_path / "certificate.pem"]
    subprocess.run([openssl, *options.split(), *files], check=True, capture_output=True, timeout=60)
    decrypt = ["pkey", "-in", tmp_path / "encrypted.pem", "-passin", "pass:x", "-out", tmp_path / "key.pem"]
    subprocess.run([openssl, *decrypt], check=True, capture_output=True, timeout=60)
    return tmp_path / "certificate.pem"


def test_it_serves_https(serve, certificate):
    process = serve("--port", "0", "--ssl-certfile", certificate, "--ssl-keyfile", certificate.with_name("key.pem"))
    url = url_of(process)
    assert url.startswith("https://127.0.0.1:")
    with Client("k", base_url=url, verify=certificate) as client:
        assert client.embed([["a", "b"], ["c"]], model=V1).vectors.shape == (3, 1024)
    assert ended(process)[0] == 0


@pytest.mark.parametrize(("key", "message"), [
    (None, "with its key"), ("encrypted.pem", "is encrypted"), ("certificate.pem", "must be a certificate"),
])  # fmt: skip
def test_a_key_that_cannot_be_used_is_an_error_of_usage(ctxembed, certificate, key, message):
    more = [] if key is None else ["--ssl-keyfile", certificate.with_name(key)]
    done = ctxembed("serve", "--port", "0", "--ssl-certfile", certificate, *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("kind", ["a full disk", "a closed pipe"])
def test_it_serves_on_when_a_stream_cannot_be_written(serve, stream, kind):
    if kind == "a full disk":
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, target = os.pipe()
        os.close(reading)
    port = free_port()
    process = serve("--port", port, "--access-log", **{stream: target})
    os.close(target)
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            response = post(url)
            break
        except httpx.ConnectError:
            assert process.poll() is None
            time.sleep(0.05)
    assert [response.status_code, post(url).status_code] == [200, 200]
    code, errors = ended(process)
    assert code == 0
    assert "Traceback" not in (errors or "")
    assert "Exception" not in (errors or "")


def test_a_collection_that_is_not_there_ends_the_command_before_it_listens(serve, tmp_path):
    process = serve("--collection", str(tmp_path / "no.ctx"), "--port", "0")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert f"error: {tmp_path / 'no.ctx'}: there is no such collection" in errors


def test_a_collection_is_served_beside_the_endpoints_for_embeddings(serve, tmp_path):
    process = serve("--port", "0")
    with Client("k", base_url=url_of(process)) as client, Collection.create(tmp_path / "a.ctx", model=V1) as made:
        made.ingest([("heron", ["A heron stands in the reeds."]), ("engine", ["An engine needs oil."])], client)
    process = serve("--collection", str(tmp_path / "a.ctx"), "--port", "0", "--cors-origin", "https://app.test")
    with httpx.Client(base_url=url_of(process), trust_env=False, timeout=30) as http:
        response = http.post("/v1/search", json={"query": "reeds", "k": 1}, headers={"origin": "https://app.test"})
        assert response.json()["hits"][0]["document"] == "heron"
        assert http.post("/v1/contextualizedembeddings", json=BODY, headers={"authorization": "Bearer k"}).is_success
    code, errors = ended(process)
    assert code == 0
    assert "Traceback" not in errors
