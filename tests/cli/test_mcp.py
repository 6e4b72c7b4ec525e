"""``ctxembed mcp`` as a process, used by the official client over stdin and stdout."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import anyio
import pytest
from ctxembed import Client, Collection

from tests.cli.process import command, write_documents

mcp = pytest.importorskip("mcp", reason="needs the extra mcp")


@pytest.fixture
def use(process_environment, tmp_path):
    """Return a function that starts the command, and runs an async function with a client that is connected to it."""

    def run(work, *arguments, mode="auto", **variables):
        program, *rest = command("mcp", *arguments)
        parameters = mcp.StdioServerParameters(
            command=program, args=rest, env={**process_environment, **variables}, cwd=tmp_path
        )
        with (tmp_path / "stderr").open("w") as errors:

            async def main():
                with anyio.fail_after(60):
                    async with mcp.Client(mcp.stdio_client(parameters, errlog=errors), mode=mode) as client:
                        return await work(client)

            return anyio.run(main)

    return run


def text_of(result) -> str:
    (content,) = result.content
    return content.text


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_tools_return_what_the_collection_holds(use, collection, server, mode):
    async def work(client):
        return (
            (await client.list_tools()).tools,
            await client.call_tool("search", {"question": "who caught a fish?", "k": 2}),
            await client.call_tool("search", {"question": "bread", "where": "year IS NULL", "k": 50}),
            await client.call_tool("get_document", {"id": "rust", "first": 1, "limit": 1}),
        )

    tools, fish, bread, document = use(work, "--collection", "corpus.ctx", mode=mode)
    assert [tool.name for tool in tools] == ["search", "get_document"]
    assert "3 documents in 6 chunks" in tools[0].description
    assert "id, source, year" in tools[0].description
    assert all(tool.annotations.read_only_hint for tool in tools)
    for tool in tools:
        properties = tool.input_schema["properties"]
        assert all(each.get("description") for each in properties.values())
        assert tool.input_schema["additionalProperties"] is False
    with Collection.open(collection, read_only=True) as col, Client("k", base_url=server.base_url) as api:
        hits = col.search("who caught a fish?", 2, client=api)
        others = col.search("bread", 50, client=api, where="year IS NULL")
    for result, expected in ((fish, hits), (bread, others)):
        assert not result.is_error
        found = result.structured_content["hits"]  # the client has checked it against the tool's schema
        assert [(each["document"], each["chunk"], each["score"]) for each in found] == [
            (hit.document, hit.chunk, hit.score) for hit in expected
        ]
        assert all(hit.text in text_of(result) for hit in expected)
    assert document.structured_content["chunks"] == [{"chunk": 1, "text": "Memory has an owner.", "is_cut": False}]
    assert document.structured_content["next"] == 2
    assert "Memory has an owner." in text_of(document)


def test_errors_are_results_with_a_message_and_the_server_goes_on(use, collection, server):
    wrong = [
        ("search", {"question": "a", "where": "yaer > 1"}, "unknown name 'yaer': the fields are id, source, year"),
        ("search", {"question": "a", "where": "year > ?"}, "where"),
        ("search", {"query": "a"}, "question: Field required; query: Extra inputs are not permitted, got 'a'"),
        ("search", {"question": "a", "k": 51}, "k: Input should be less than or equal to 50, got 51"),
        ("search", {"question": ""}, "question: String should have at least 1 character, got ''"),
        ("get_document", {"id": "absent"}, "there is no document 'absent'"),
        ("delete", {}, "there is no tool 'delete': there are search, get_document"),
    ]

    async def work(client):
        results = [await client.call_tool(name, arguments) for name, arguments, _ in wrong]
        return results, await client.call_tool("get_document", {"id": "heron"})

    results, last = use(work, "--collection", "corpus.ctx")
    for (_, _, message), result in zip(wrong, results, strict=True):
        assert result.is_error
        assert message in text_of(result)
    assert not last.is_error


def test_an_api_that_is_down_is_an_error_of_the_search_alone(use, collection):
    async def work(client):
        return (
            await client.call_tool("search", {"question": "fish"}),
            await client.call_tool("get_document", {"id": "heron"}),
        )

    found, document = use(work, "--collection", "corpus.ctx", PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert found.is_error
    assert "cannot connect to http://127.0.0.1:9: connection refused" in text_of(found)
    assert not document.is_error


def test_questions_are_embedded_by_a_model_on_this_machine(use, tmp_path, ctxembed):
    write_documents(
        tmp_path / "birds.jsonl",
        [
            {"id": "heron", "chunks": ["The grey heron is a wading bird.", "It stands in water and catches fish."]},
            {"id": "bank", "chunks": ["The central bank sets interest rates."]},
        ],
    )
    done = ctxembed("embed", "birds.jsonl", "local.ctx", "--embedder", "demo")
    assert done.returncode == 0, done.stderr

    async def work(client):
        return await client.call_tool("search", {"question": "monetary policy", "k": 1})

    nowhere = {"PERPLEXITY_API_KEY": "", "PERPLEXITY_BASE_URL": "http://127.0.0.1:9"}
    found = use(work, "--collection", "local.ctx", "--embedder", "demo", **nowhere)
    assert [each["document"] for each in found.structured_content["hits"]] == ["bank"], text_of(found)


def test_stdout_has_the_protocol_alone_and_the_end_of_stdin_ends_the_process(process_environment, collection):
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        }},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": "search", "arguments": {"question": "fish"},
        }},
    ]  # fmt: skip
    process = subprocess.Popen(
        command("mcp", "--collection", "corpus.ctx"), env=process_environment, cwd=collection.parent, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        lines = []
        for message in messages:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            if "id" in message:
                lines.append(json.loads(process.stdout.readline()))
        rest, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert [line["id"] for line in lines] == [1, 2]
    assert lines[0]["result"]["serverInfo"]["name"] == "corpus"
    assert lines[1]["result"]["structuredContent"]["hits"][0]["document"] == "heron"
    assert (rest, errors, process.returncode) == ("", "", 0)


def test_ctrl_c_ends_the_process(process_environment, collection):
    process = subprocess.Popen(
        command("mcp", "--collection", "corpus.ctx"), env=process_environment, cwd=collection.parent, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.send_signal(signal.SIGINT)
        code, errors = process.wait(timeout=60), process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    assert (code, errors) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "message"),
    [
        ([], {}, 2, "Missing option '--collection'"),
        (["--collection", "absent.ctx"], {}, 1, "absent.ctx: there is no such collection"),
        (["--collection", "corpus.ctx"], {"PERPLEXITY_API_KEY": ""}, 1, "error: no API key: set PERPLEXITY_API_KEY"),
        (["--collection", "corpus.ctx", "--embedder", "demo", "--base-url", "https://a.test"], {}, 2, "--base-url"),
        (["--collection", "corpus.ctx", "--base-url", "http://example.com"], {}, 2, "--allow-insecure"),
    ],
)
def test_what_cannot_work_is_said_at_once(ctxembed, collection, arguments, variables, code, message):
    done = ctxembed("mcp", *arguments, stdin="", **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_without_its_package_the_command_says_what_to_install(process_environment, collection):
    code = (
        "import sys; sys.argv = ['ctxembed', 'mcp', '--collection', 'corpus.ctx']; sys.modules['mcp'] = None\n"
        "from ctxembed.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=process_environment, cwd=collection.parent, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: ctxembed mcp needs mcp: pip install 'ctxembed[mcp]'\n"
