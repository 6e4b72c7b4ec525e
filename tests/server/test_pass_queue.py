"""The queue gives each request its share of the passes, and never starves one."""

from __future__ import annotations

import threading

import pytest
from ctxembed._server.pass_queue import AbandonedError, PassQueue, QueueClosedError, QueueFullError


class Bench:
    """A queue with a clock of its own. Passes are recorded by name and take the time that they say."""

    def __init__(self, **options):
        self.now = 0.0
        self.passes = []
        self.queue = PassQueue(at_once=1, monotonic=lambda: self.now, **options)

    def submit(self, name, seconds, tokens=10, during=None):
        """Queue a request with a pass for each number of ``seconds``; ``during(pass number)`` runs in its passes."""
        entry = self.queue.enter(tokens)

        def work(check):
            for number, each in enumerate(seconds):
                check()
                self.passes.append(name)
                if during is not None:
                    during(number)
                self.now += each
            return name

        return entry, self.queue.run(entry, work)

    def hold(self):
        """Occupy the queue until the returned event is set."""
        started, free = threading.Event(), threading.Event()
        entry = self.queue.enter(1)

        def work(check):
            check()
            started.set()
            free.wait()

        self.queue.run(entry, work)
        started.wait()
        return free


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.queue.join()


def results(*submitted):
    return [future.result(timeout=60) for _, future in submitted]


def test_equal_requests_run_one_after_the_other(bench):
    free = bench.hold()
    requests = [bench.submit(name, [1, 1, 1]) for name in "abc"]
    free.set()
    assert results(*requests) == ["a", "b", "c"]
    assert "".join(bench.passes) == "aaabbbccc"


def test_a_short_request_waits_for_one_pass_of_a_long_one(bench):
    short = []

    def arrive(number):
        if number == 1:
            short.extend(bench.submit(name, [0.1], tokens=1) for name in "st")

    results(bench.submit("L", [10] * 4, tokens=1000, during=arrive))
    results(*short)
    assert "".join(bench.passes) == "LLsLtL"


def test_short_requests_arrive_again_and_again_and_wait_for_one_pass_of_a_long_one(bench):
    short = []

    def arrive(number):
        short.append(bench.submit("s", [0.1], tokens=1))

    results(bench.submit("L", [10] * 4, tokens=1000, during=arrive))
    results(*short)
    assert "".join(bench.passes) == "LsLsLsLs"


def test_a_steady_flow_of_short_requests_leaves_half_of_the_time_to_the_oldest(bench):
    flow = []

    def arrive(number):
        if number == 0 and len(flow) < 200:
            flow.append(bench.submit("s", [1], tokens=1, during=arrive))

    results(bench.submit("L", [10] * 8, tokens=1000, during=arrive))
    results(*flow)
    passes = "".join(bench.passes)
    between = [len(run) for run in passes.split("L")[1:-1]]
    assert between == pytest.approx([10] * 7, abs=10)
    assert sum(between) == pytest.approx(70, abs=11)
    assert passes.count("s") == 200


def test_the_next_oldest_takes_its_place(bench):
    flow = []

    def arrive(number):
        if number == 0 and len(flow) < 100:
            flow.append(bench.submit("s", [1], tokens=1, during=arrive))

    free = bench.hold()
    large = [bench.submit(name, [5, 5], tokens=1000 - number) for number, name in enumerate("ABC")]
    flow.append(bench.submit("s", [1], tokens=1, during=arrive))
    free.set()
    results(*large)
    results(*flow)
    passes = "".join(bench.passes)
    assert passes.replace("s", "") == "AABBCC"
    assert passes.index("C") < len(passes) // 2  # before the flow ends


def test_many_short_requests_run_from_the_smallest(bench):
    free = bench.hold()
    requests = [bench.submit(str(tokens), [1], tokens=tokens) for tokens in (5, 1, 9, 3)]
    free.set()
    results(*requests)
    assert bench.passes[0] == "1"
    assert sorted(bench.passes) == ["1", "3", "5", "9"]


def test_passes_of_two_threads_run_at_once():
    queue = PassQueue(at_once=2)
    both = threading.Barrier(2)

    def work(check):
        check()
        return both.wait(timeout=60)

    futures = [queue.run(queue.enter(1), work) for _ in range(2)]
    assert sorted(future.result(timeout=60) for future in futures) == [0, 1]
    queue.join()


def test_more_requests_than_threads_are_all_served():
    queue = PassQueue(at_once=1)
    free = threading.Event()

    def work(check):
        for _ in range(3):
            check()
            free.wait()
        return 1

    futures = [queue.run(queue.enter(1), work) for _ in range(300)]
    free.set()
    assert sum(future.result(timeout=60) for future in futures) == 300
    assert queue.state()["requests"] == 0
    assert sum(thread.name.startswith("embed") for thread in threading.enumerate()) <= 64
    queue.join()


def test_a_request_that_waits_leaves_at_once(bench):
    free = bench.hold()
    entry, future = bench.submit("never", [1], tokens=500)
    assert bench.queue.state() == {"requests": 2, "tokens": 501, "tokens_per_second": None}
    bench.queue.leave(entry)
    bench.queue.leave(entry)
    assert bench.queue.state()["tokens"] == 1
    free.set()
    results(bench.submit("after", [1]))
    assert bench.passes == ["after"]
    assert not future.done()


def test_a_request_that_runs_ends_at_its_next_check(bench):
    entries = []
    request = bench.submit("gone", [1] * 5, during=lambda number: number == 2 and bench.queue.leave(entries[0]))
    entries.append(request[0])
    with pytest.raises(AbandonedError):
        request[1].result(timeout=60)
    assert bench.passes == ["gone"] * 3
    assert bench.queue.state()["tokens"] == 0


def test_a_request_between_two_passes_ends_at_once(bench):
    entries = []
    started = threading.Event()

    def first(number):
        if number == 0:
            started.wait()

    request = bench.submit("between", [1, 1], tokens=3, during=first)
    other = bench.submit("other", [1], tokens=1, during=lambda _: bench.queue.leave(request[0]))
    entries.append(request[0])
    started.set()
    with pytest.raises(AbandonedError):
        request[1].result(timeout=60)
    results(other)
    assert bench.passes == ["between", "other"]


def test_what_the_work_raises_is_raised_and_frees_the_queue(bench):
    def work(check):
        check()
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        bench.queue.run(bench.queue.enter(10), work).result(timeout=60)
    assert bench.queue.state()["requests"] == 0
    assert results(bench.submit("next", [1])) == ["next"]


def test_a_full_queue_refuses_and_says_when_there_is_room():
    bench = Bench(max_tokens=100)
    results(bench.submit("measured", [4], tokens=40))  # 10 tokens a second
    first = bench.queue.enter(80)
    with pytest.raises(QueueFullError) as caught:
        bench.queue.enter(50)
    assert caught.value.wait == 3.0  # 30 tokens too many
    bench.queue.leave(bench.queue.enter(20))
    bench.queue.resize(first, 30)
    bench.queue.leave(bench.queue.enter(70))
    bench.queue.leave(first)
    bench.queue.join()


def test_the_wait_takes_account_of_what_has_run():
    bench = Bench(max_tokens=100)
    results(bench.submit("measured", [4], tokens=40))
    refused = []

    def ask(number):
        if number == 1:
            with pytest.raises(QueueFullError) as caught:
                bench.queue.enter(50)
            refused.append(caught.value.wait)

    results(bench.submit("big", [6, 6], tokens=120, during=ask))
    assert refused == [1.0]  # 7 seconds for 70 tokens, of which 6 are over
    bench.queue.join()


def test_an_empty_queue_admits_any_request():
    bench = Bench(max_tokens=10)
    assert results(bench.submit("large", [1], tokens=120_000)) == ["large"]
    assert results(bench.submit("large", [1], tokens=120_000)) == ["large"]
    bench.queue.join()


def test_a_closed_queue_ends_what_has_not_started(bench):
    free = bench.hold()
    _, waiting = bench.submit("waiting", [1])
    bench.queue.close()
    with pytest.raises(QueueClosedError):
        waiting.result(timeout=60)
    with pytest.raises(QueueClosedError):
        bench.submit("late", [1])
    free.set()
    assert bench.passes == []
