"""A fault plan says which request meets which fault, and which limits hold meanwhile."""

from __future__ import annotations

import json
import math
import socket
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from ctxembed._server import ServerProcess
from ctxembed._server.faults import NAMED, NO_FAULT, Fault
from ctxembed._server.plan import FaultSource, load_plan, parse_plan
from ctxembed._server.tokens import load_counter

NESTED, FLAT = "/v1/contextualizedembeddings", "/v1/embeddings"


def dealt(plan, paths):
    source = FaultSource()
    source.set_plan(parse_plan(plan))
    return [source.deal(path).status for path in paths]


def test_without_more_said_each_step_is_met_once_in_turn():
    assert dealt(["500", {"status": 429, "times": 2}, {}, "503"], [NESTED] * 6) == [500, 429, 429, None, 503, None]


def test_a_step_can_be_for_the_requests_with_certain_numbers():
    plan = [{"status": 503, "at": 2}, {"status": 500, "at": [3, 4], "times": "always"}]
    assert dealt(plan, [NESTED] * 5) == [None, 503, 500, 500, None]


def test_a_step_can_be_for_one_path():
    plan = [{"fault": "503", "path": FLAT, "times": "always"}]
    assert dealt(plan, [NESTED, FLAT, FLAT, NESTED]) == [None, 503, 503, None]


def test_a_step_can_be_for_a_share_of_the_requests_and_the_same_ones_each_time():
    plan = {"steps": [{"fault": "503", "probability": 0.25, "times": "always"}], "seed": 5}
    found = dealt(plan, [NESTED] * 2000)
    assert 400 <= found.count(503) <= 600
    assert found == dealt(plan, [NESTED] * 2000)
    assert found != dealt(plan | {"seed": 6}, [NESTED] * 2000)


def test_the_first_step_that_matches_is_met_and_dice_come_after_the_steps():
    plan = {"steps": [{"fault": "500", "at": 1}, "503"], "random": {"share": 1, "faults": ["429", "429"]}}
    assert dealt(plan, [NESTED] * 4) == [500, 503, 429, 429]


def test_dice_draw_from_the_faults_of_the_plan():
    plan = {"random": {"share": 0.2, "faults": ["429", {"status": 500, "retry_after": 1}]}, "seed": 3}
    source = FaultSource()
    source.set_plan(parse_plan(plan))
    found = [source.deal() for _ in range(5000)]
    assert 900 <= sum(fault != NO_FAULT for fault in found) <= 1100
    assert {fault.status for fault in found} == {None, 429, 500}


def test_steps_that_are_left_read_back_as_they_were_written():
    plan = [
        {"status": 503, "times": 3},
        {"stall": {"after": 0, "seconds": 2.5}},
        {"trickle": {"bytes": 2, "seconds": 0.5}, "times": "always"},
        {"status": 429, "retry_after": {"date": 4.0}, "at": [2, 9], "path": FLAT, "probability": 0.5},
        {"omit": ["cost", "usage"], "at": 7},
    ]
    source = FaultSource()
    source.set_plan(parse_plan(plan))
    assert source.left == plan
    source.deal(NESTED)
    assert source.left == [{"status": 503, "times": 2}, *plan[1:]]


@pytest.mark.parametrize(("plan", "message"), [
    (5, "'plan': expected an object"),
    ({"stops": []}, "expected keys among steps, random, seed, limits"),
    ({"steps": {}}, "'steps': expected a list"),
    ([{}, {"status": 1}], "step 1: fault field 'status'"),
    ([{"times": 0}], "step 0: plan field 'times'"),
    ([{"at": 0}], "'at'"),
    ([{"at": [3, 2]}], "'at'"),
    ([{"at": [1, 2, 3]}], "'at'"),
    ([{"path": 5}], "'path'"),
    ([{"probability": 1.5}], "'probability'"),
    ([{"fault": "503", "status": 500}], "no fields of a fault beside it"),
    ({"random": {"share": 2, "faults": ["429"]}}, "'random.share'"),
    ({"random": {"share": 0.5, "faults": []}}, "'random.faults'"),
    ({"random": {"share": 0.5}}, "'random.faults'"),
    ({"seed": "x"}, "'seed'"),
    ({"limits": {"speed": 1}}, "'limits'"),
    ({"limits": {"tokens": 0}}, "'limits.tokens'"),
    ({"limits": {"burst": 1.5}}, "'limits.burst'"),
    ({"limits": {"requests_per_minute": 0}}, "'limits.requests_per_minute'"),
    ({"limits": {"requests_per_minute": math.nan}}, "'limits.requests_per_minute'"),
    ({"limits": {"retry_after": "soon"}}, "'limits.retry_after'"),
    ({"limits": {"ratelimit_headers": 1}}, "'limits.ratelimit_headers'"),
    ({"limits": {"tokenizer": 1}}, "'limits.tokenizer'"),
])  # fmt: skip
def test_a_plan_that_is_not_one_is_refused_with_the_place(plan, message):
    with pytest.raises(ValueError, match=message):
        parse_plan(plan)


TOML = """
seed = 7

[[steps]]
fault = "503"
at = [1, 3]
times = "always"

[[steps]]
trickle = {bytes = 1, seconds = 0.1}
path = "/v1/embeddings"

[random]
share = 0.2
faults = ["reset", {status = 429, retry_after = 2}]

[limits]
requests_per_minute = 600
burst = 5
retry_after = "none"
tokens = 1000
"""


def test_a_file_is_toml_or_json_and_means_the_same(tmp_path):
    (tmp_path / "plan.toml").write_text(TOML)
    plan = load_plan(tmp_path / "plan.toml")
    assert [step.fault for step in plan.steps] == [NAMED["503"], Fault(trickle_bytes=1, trickle_seconds=0.1)]
    assert plan.kinds == (NAMED["reset"], Fault(status=429, retry_after=2.0))
    assert plan.limits.sizes == {"tokens": 1000}
    same = {
        "seed": 7,
        "steps": [step.to_json() for step in plan.steps],
        "random": {"share": 0.2, "faults": ["reset", {"status": 429, "retry_after": 2}]},
        "limits": {"requests_per_minute": 600, "burst": 5, "retry_after": "none", "tokens": 1000},
    }
    (tmp_path / "plan.json").write_text(json.dumps(same))
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(("name", "text"), [("plan.json", "{"), ("plan.toml", "steps = 1"), ("plan.toml", "[[[")])
def test_a_file_that_is_no_plan_is_refused_by_its_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        load_plan(tmp_path / name)


def test_a_server_starts_with_a_plan_and_with_a_wrong_one_does_not(tmp_path, fresh_server, connect):
    good, wrong = tmp_path / "plan.toml", tmp_path / "wrong.json"
    good.write_text("[[steps]]\nstatus = 503\nat = 2\n[limits]\ndocuments = 2\n")
    wrong.write_text('[{"status": 1}]')
    api = connect(fresh_server(faults=good))
    assert [api.texts("a").status_code for _ in range(3)] == [200, 503, 200]
    assert api.documents([["a"], ["b"], ["c"]]).status_code == 422
    with pytest.raises(RuntimeError, match=r"wrong.json: step 0"), ServerProcess("--faults", str(wrong)):
        pass


def test_a_plan_brings_a_bucket_of_its_own_rate_and_burst(api):
    api.http.post("/faults", json={"limits": {"requests_per_minute": 60, "burst": 3}}).raise_for_status()
    answers = [api.texts("a") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].headers["retry-after"] == "1"
    api.http.delete("/faults")
    assert [api.texts("a").status_code for _ in range(5)] == [200] * 5


def test_a_refusal_names_the_wait_as_the_plan_says(api):
    def refused(**limits):
        limits = {"requests_per_minute": 1, "burst": 1, **limits}
        api.http.post("/faults", json={"limits": limits}).raise_for_status()
        api.texts("a")
        return api.texts("a")

    assert "retry-after" not in refused(retry_after="none").headers
    date = parsedate_to_datetime(refused(retry_after="date").headers["retry-after"])
    assert 55 <= date.timestamp() - time.time() <= 62


def test_answers_tell_where_the_buckets_stand_when_asked_to(api):
    limits = {"requests_per_minute": 60, "burst": 3, "tokens_per_minute": 600, "ratelimit_headers": True}
    api.http.post("/faults", json={"limits": limits}).raise_for_status()
    headers = api.texts("two words").headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "2"
    assert 0.9 <= float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 1.0
    assert headers["x-ratelimit-remaining-tokens"] == "598"


def test_tokens_are_counted_exactly_by_a_vocabulary(api):
    vocabulary = Path(__file__).parents[3] / "shared" / "data" / "tokenizer"
    if not vocabulary.exists():
        pytest.skip("../shared/data/tokenizer is not here")
    text = "internationalization of naïve tokenizers"
    tokenizers = pytest.importorskip("tokenizers")
    exact = len(tokenizers.Tokenizer.from_file(str(vocabulary / "tokenizer.json")).encode(text).ids)
    assert load_counter(vocabulary / "tokenizer.json")(text) == exact
    limits = {"tokenizer": str(vocabulary / "tokenizer.json"), "tokens": exact}
    api.http.post("/faults", json={"limits": limits}).raise_for_status()
    assert api.texts(text).json()["usage"]["total_tokens"] == exact
    assert api.texts([text, "a"]).status_code == 422


def test_a_vocabulary_that_is_not_there_is_refused(api, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    for name in ("none.json", "no.json"):
        answer = api.http.post("/faults", json={"limits": {"tokenizer": str(tmp_path / name)}})
        assert answer.status_code == 422
        assert "tokenizer" in answer.text


@pytest.mark.parametrize("fault", [{"delay": 60}, {"stall": {"after": 5, "seconds": 60}}])
def test_the_server_notices_a_client_that_hangs_up(fresh_server, connect, fault):
    server = fresh_server()
    api = connect(server)
    body = json.dumps({"input": "a", "model": "pplx-embed-v1-0.6b"})
    host, port = server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\ncontent-type: application/json\r\n"
            f"x-fault: {json.dumps(fault)}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        while api.stats()["tokens"] + api.stats()["in_flight"] == 0:
            time.sleep(0.01)
        time.sleep(0.1)
    deadline = time.monotonic() + 5
    while api.stats()["in_flight"] and time.monotonic() < deadline:
        time.sleep(0.01)
    stats = api.stats()
    assert (stats["in_flight"], stats["aborted"], stats["by_status"]) == (0, 1, {"disconnected": 1})
    assert stats["tokens"] == 1
    assert "Traceback" not in server.stderr


def test_the_server_tells_what_was_paid_and_what_of_it_was_reported(fresh_server, connect):
    api = connect(fresh_server())
    api.texts(["a", "b"])
    for fault in ("html", "shuffled", "503", "unlabelled-gzip", "wrong-model"):
        api.texts(["a", "b"], headers={"x-fault": json.dumps(fault)})
    stats = api.stats()
    assert stats["tokens"] == 5 * 2
    assert stats["reported_tokens"] == 3 * 2
    assert stats["by_fault"] == {"html": 1, "shuffled": 1, "503": 1, "unlabelled-gzip": 1, "wrong-model": 1}
    assert sum(sum(second.values()) for second in stats["by_second"].values()) == 6
