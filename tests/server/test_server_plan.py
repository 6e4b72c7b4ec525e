"""A fault plan chooses the fault of each request, and sets limits."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from ctxembed._server import ServerProcess
from ctxembed._server.faults import NAMED, NO_FAULT, Fault
from ctxembed._server.faults.plan import FaultSchedule, load_plan, parse_plan
from ctxembed._server.tokens import load_token_counter

NESTED, FLAT = "/v1/contextualizedembeddings", "/v1/embeddings"


def statuses(plan, paths):
    source = FaultSchedule()
    source.set_plan(parse_plan(plan))
    return [source.next_fault(path).status for path in paths]


def test_by_default_each_step_applies_once_in_order():
    assert statuses(["500", {"status": 429, "times": 2}, {}, "503"], [NESTED] * 6) == [500, 429, 429, None, 503, None]


def test_a_step_can_apply_to_numbered_requests():
    plan = [{"status": 503, "at": 2}, {"status": 500, "at": [3, 4], "times": "always"}]
    assert statuses(plan, [NESTED] * 5) == [None, 503, 500, 500, None]


def test_a_step_can_apply_to_one_path():
    plan = [{"fault": "503", "path": FLAT, "times": "always"}]
    assert statuses(plan, [NESTED, FLAT, FLAT, NESTED]) == [None, 503, 503, None]


def test_a_step_can_apply_to_a_repeatable_share_of_requests():
    plan = {"steps": [{"fault": "503", "probability": 0.25, "times": "always"}], "seed": 5}
    found = statuses(plan, [NESTED] * 2000)
    assert 400 <= found.count(503) <= 600
    assert found == statuses(plan, [NESTED] * 2000)
    assert found != statuses(plan | {"seed": 6}, [NESTED] * 2000)


def test_the_first_matching_step_applies_before_random_faults():
    plan = {"steps": [{"fault": "500", "at": 1}, "503"], "random": {"share": 1, "faults": ["429", "429"]}}
    assert statuses(plan, [NESTED] * 4) == [500, 503, 429, 429]


def test_random_faults_come_from_the_plans_list():
    plan = {"random": {"share": 0.2, "faults": ["429", {"status": 500, "retry_after": 1}]}, "seed": 3}
    source = FaultSchedule()
    source.set_plan(parse_plan(plan))
    found = [source.next_fault() for _ in range(5000)]
    assert 900 <= sum(fault != NO_FAULT for fault in found) <= 1100
    assert {fault.status for fault in found} == {None, 429, 500}


def test_remaining_steps_round_trip_through_json():
    plan = [
        {"status": 503, "times": 3},
        {"stall": {"after": 0, "seconds": 2.5}},
        {"trickle": {"bytes": 2, "seconds": 0.5}, "times": "always"},
        {"status": 429, "retry_after": {"date": 4.0}, "at": [2, 9], "path": FLAT, "probability": 0.5},
        {"omit": ["cost", "usage"], "at": 7},
    ]
    source = FaultSchedule()
    source.set_plan(parse_plan(plan))
    assert source.remaining_steps == plan
    source.next_fault(NESTED)
    assert source.remaining_steps == [{"status": 503, "times": 2}, *plan[1:]]


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
def test_an_invalid_plan_is_rejected_with_the_position(plan, message):
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


def test_toml_and_json_files_give_the_same_plan(tmp_path):
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
def test_an_invalid_plan_file_is_rejected_by_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        load_plan(tmp_path / name)


def test_a_server_starts_with_a_valid_plan_only(tmp_path, fresh_server, connect):
    good, wrong = tmp_path / "plan.toml", tmp_path / "wrong.json"
    good.write_text("[[steps]]\nstatus = 503\nat = 2\n[limits]\ndocuments = 2\n")
    wrong.write_text('[{"status": 1}]')
    api = connect(fresh_server(faults=good))
    assert [api.texts("a").status_code for _ in range(3)] == [200, 503, 200]
    assert api.documents([["a"], ["b"], ["c"]]).status_code == 422
    with pytest.raises(RuntimeError, match=r"wrong.json: step 0"), ServerProcess("--faults", str(wrong)):
        pass


def test_a_plan_sets_the_rate_and_burst(in_process, embed_text):
    plan, *responses, deletion, unlimited = in_process(
        ("POST", "/faults", {"json": {"limits": {"requests_per_minute": 60, "burst": 3}}}),
        *[embed_text()] * 4,
        ("DELETE", "/faults", {}),
        embed_text(),
    )
    assert [response.status_code for response in responses] == [200, 200, 200, 429]
    assert responses[3].headers["retry-after"] == "1"
    assert (plan.status_code, deletion.status_code, unlimited.status_code) == (200, 204, 200)


def test_a_plan_sets_the_style_of_retry_after(in_process, embed_text):
    def rejected(style):
        limits = {"requests_per_minute": 1, "burst": 1, "retry_after": style}
        return in_process(("POST", "/faults", {"json": {"limits": limits}}), embed_text(), embed_text())[2]

    assert "retry-after" not in rejected("none").headers
    assert rejected("seconds").headers["retry-after"] == "60"
    assert rejected("date").headers["retry-after"] == "Thu, 01 Jan 1970 00:01:00 GMT"


def test_a_plan_can_add_rate_limit_headers(in_process, embed_text):
    limits = {"requests_per_minute": 60, "burst": 3, "tokens_per_minute": 600, "ratelimit_headers": True}
    _, response = in_process(("POST", "/faults", {"json": {"limits": limits}}), embed_text("two words"))
    headers = {name: value for name, value in response.headers.items() if name.startswith("x-ratelimit")}
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "1.000s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "598",
        "x-ratelimit-reset-tokens": "0.200s",
    }


def test_a_plan_can_name_a_tokenizer_that_counts_exactly(api):
    folder = Path(__file__).parents[3] / "shared" / "data" / "tokenizer"
    if not folder.exists():
        pytest.skip("../shared/data/tokenizer is not here")
    text = "internationalization of naïve tokenizers"
    tokenizers = pytest.importorskip("tokenizers")
    exact = len(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids)
    assert load_token_counter(folder / "tokenizer.json")([[text], ["a", text]]).tolist() == [exact, exact + 2]
    limits = {"tokenizer": str(folder / "tokenizer.json"), "tokens": exact}
    api.http.post("/faults", json={"limits": limits}).raise_for_status()
    assert api.texts(text).json()["usage"]["total_tokens"] == exact
    assert api.texts([text, "a"]).status_code == 422


def test_an_unusable_tokenizer_is_rejected(api, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    for name in ("none.json", "no.json"):
        response = api.http.post("/faults", json={"limits": {"tokenizer": str(tmp_path / name)}})
        assert response.status_code == 422
        assert "tokenizer" in response.text


@pytest.mark.parametrize("fault", [{"delay": 60}, {"stall": {"after": 5, "seconds": 60}}])
def test_the_server_detects_a_client_that_disconnects(fresh_server, connect, open_request, fault):
    server = fresh_server()
    api = connect(server)
    connection = open_request(server, fault)
    while api.stats()["in_flight"] == 0:
        time.sleep(0.01)
    connection.close()
    while api.stats()["in_flight"]:
        time.sleep(0.01)
    stats = api.stats()
    assert (stats["aborted"], stats["by_status"]) == (1, {"disconnected": 1})
    assert stats["tokens"] == 1
    assert "Traceback" not in server.stderr


def test_stats_separate_charged_from_reported_tokens(fresh_server, connect):
    api = connect(fresh_server())
    api.texts(["a", "b"])
    for fault in ("html", "shuffled", "503", "unlabelled-gzip", "wrong-model"):
        api.texts(["a", "b"], headers={"x-fault": json.dumps(fault)})
    stats = api.stats()
    assert stats["tokens"] == 5 * 2
    assert stats["reported_tokens"] == 3 * 2
    assert stats["by_fault"] == {"html": 1, "shuffled": 1, "503": 1, "unlabelled-gzip": 1, "wrong-model": 1}
    assert sum(sum(second.values()) for second in stats["by_second"].values()) == 6
