"""What clients of one key and host share: when the API lets the next request start. Arithmetic, behind one lock."""

from __future__ import annotations

import hashlib
import math
import os
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctxembed._client._http.credentials import KeySource

__all__ = ["Account", "Bucket", "Claim", "LearnedRate", "account_of", "limits_of"]

_CYCLE: Final = 20.0
"""Seconds after which a learned rate is back at what was refused. Shorter ones are refused more often."""

_CYCLE_REQUESTS: Final = 80
"""... and requests, where so many take longer."""

_BELOW: Final = 0.95
_FAR_BELOW: Final = 0.8
"""Shares of the rate at a refusal that are kept after it; the lower one where the refusal before was not long ago."""

_RECENT: Final = 10.0
"""Seconds over which the rate of what was let through is measured."""

_ENOUGH: Final = 20
_FADES: Final = 0.98
_FAR: Final = 0.6
"""So many requests let through between two refusals prove a rate, of which this share is believed when the next are
counted. Refusals at less than the last share of it disprove the limiter."""

_WINDOW: Final = 16
"""Latest answers among which refusals are counted: those without ``Retry-After``, and what came in spite of one."""


class Bucket:
    """A leaky bucket with continuous refill, as arithmetic.

    A unit leaks every ``60 / per_minute`` seconds, and the bucket holds what leaks in one second: so much may start
    at once after a pause. So any 60 seconds start at most ``per_minute`` units and a second's worth, and at least one;
    a single start beyond that is allowed and paid for by the wait after it (the generic cell rate algorithm, ITU-T
    I.371).

    Parameters
    ----------
    per_minute : float
        Units a minute.

    Examples
    --------
    >>> bucket = Bucket(120)
    >>> for _ in range(3):
    ...     start = bucket.earliest(now=100.0)
    ...     bucket.take(1, now=start)
    ...     print(start)
    100.0
    100.0
    100.5
    """

    __slots__ = ("_burst", "_dry_at", "_seconds_a_unit")

    def __init__(self, per_minute: float) -> None:
        self._seconds_a_unit = 60.0 / per_minute
        self._burst = max(0.0, 1.0 - self._seconds_a_unit)
        self._dry_at = float("-inf")

    def earliest(self, now: float) -> float:
        """Return when the next start may be."""
        return max(now, self._dry_at - self._burst)

    def take(self, units: float, now: float) -> None:
        """Start ``units``."""
        self._dry_at = max(now, self._dry_at) + units * self._seconds_a_unit

    def give_back(self, units: float) -> None:
        """Undo a start, or correct one by what it turned out to be (negative: it was more)."""
        self._dry_at -= units * self._seconds_a_unit


class LearnedRate:
    """The rate of a limiter that nobody has told, from what it refuses.

    A leaky bucket is empty whenever it refuses. So what it let through since the refusal before, over the time since,
    tells the rate that it refills at, whatever its size. From below that the rate rises in the shape of CUBIC (RFC
    9438): fast at first, flat where it was refused, then faster and faster, until the next refusal.

    Notes
    -----
    A refusal counts as a limiter's when it names a time to wait, or when a third of the latest answers are refusals:
    a 429 now and then that tells nothing must not slow everything down. Should a rate have been taken for a limiter's
    all the same, refusals that go on far below it show so, and it is forgotten.

    Examples
    --------
    >>> rate = LearnedRate()
    >>> rate.refused(started=0.0, now=0.0, told=True)
    >>> for second in range(1, 10):
    ...     rate.accepted(now=float(second))
    >>> rate.refused(started=9.5, now=10.0, told=True)
    >>> round(rate.per_second(10.0), 3)  # nine in ten seconds, and a little below
    0.855
    """

    __slots__ = ("_accepted", "_answers", "_count", "_cycle", "_last", "_next", "_pause", "_peak", "_proven", "_since")

    def __init__(self) -> None:
        self._peak = math.inf  # requests a second that were too many
        self._cycle = _CYCLE
        self._last = -math.inf  # when the last refusal was
        self._since = -math.inf  # an earlier one,
        self._count = 0  # and the requests let through since then
        self._proven = 0.0  # the most a second that were let through from one refusal to another
        self._next = -math.inf
        self._accepted: deque[float] = deque(maxlen=256)  # when
        self._answers = 0  # the latest, a bit each: refused or not
        self._pause = (-math.inf, -math.inf)  # when nothing started last, since a refusal asked for it

    def per_second(self, now: float) -> float:
        """Requests that may start a second; infinite while nothing is known."""
        if math.isinf(self._peak):
            return self._peak
        x = min(1e2, max(0.0, now - self._last) / self._cycle)
        if x < 1.0:
            return self._peak * (1.0 - (1.0 - _BELOW) * (1.0 - x) ** 3)
        return self._peak * (1.0 + 0.05 * (x - 1.0) + max(0.0, x - 1.5) ** 3)

    def earliest(self, now: float) -> float:
        """When the next request may start."""
        return self._next if self._peak < math.inf else now

    def take(self, now: float) -> None:
        """Note that a request starts. One that comes late may be followed by one that catches up."""
        rate = self.per_second(now)
        if rate < math.inf:
            interval = 1.0 / rate
            self._next = max(self._next, now - interval) + interval

    def pause(self, now: float, until: float) -> None:
        """Start nothing ``until`` then. Nor is anything made up for: a small bucket is full soon."""
        since, end = self._pause
        self._pause = (since if now <= end else now), until
        self._next = max(self._next, until)

    def resume(self, now: float) -> None:
        """End a pause early."""
        since, end = self._pause
        if now < end:
            self._pause = since, now
            self._next = now + 1.0 / self.per_second(now)

    def accepted(self, now: float) -> None:
        """Note a request that was let through."""
        self._answers = (self._answers << 1) & ((1 << _WINDOW) - 1)
        self._accepted.append(now)
        self._count += 1

    def refused(self, started: float, now: float, *, told: bool, doubted: bool = False) -> bool:
        """Note a refusal.

        Parameters
        ----------
        started, now : float
            When the request started, and when it was refused.
        told : bool
            Whether the refusal named a time to wait.
        doubted : bool
            Whether requests were let through in spite of such times.

        Returns
        -------
        bool
            Whether it shows that refusals have another cause than a rate.
        """
        self._answers = ((self._answers << 1) | 1) & ((1 << _WINDOW) - 1)
        if started < self._last:
            return False  # it was under way when the last one came, and tells nothing new
        known = self._peak < math.inf
        if not (known or told or 3 * self._answers.bit_count() >= _WINDOW):
            return False
        rate, before, self._last = self.per_second(now), self._last, now
        if math.isinf(before) or now <= before:
            return False  # how full the bucket was before is not known: the next refusal will tell
        seen, count = self._seen(before, now)
        sure = 1.0
        if not known:
            self._peak, sure = seen, min(0.25, (count + 1) / 50)  # a count of few is off by as much as one in it
        elif now - before < 0.3 * self._cycle:
            self._peak = max(seen, _FAR_BELOW * rate)  # right after the last cut: that was too little
        elif seen > 0.8 * rate:
            self._peak = min(rate, seen)
        else:
            self._peak, sure = math.sqrt(seen * rate), 0.25  # it was rising fast, and may be far above
        # What names a time is a limiter's, unless much speaks against it.
        if self._is_disproved(now, _FAR / 2 if told and not doubted else _FAR):
            self._peak, self._proven, self._answers = math.inf, 0.0, 0
            return True
        # What was learned from little is soon tried again.
        self._cycle = sure * max(_CYCLE, _CYCLE_REQUESTS / self._peak)
        self._next = now + 1.0 / self.per_second(now)
        return False

    def _is_disproved(self, now: float, far: float) -> bool:
        """Whether refusals go on, now and then, at less than a share of a rate that was let through.

        A bucket that was empty at one refusal refills as fast as what it lets through until another. It would let all
        pass at a lower rate; were it slower by now, the refusals would be many.
        """
        if math.isinf(self._since) or self._count >= _ENOUGH:
            self._proven = max(self._proven * _FADES, (self._count - 1) / (now - self._since))
            self._since, self._count = now, 0
        return 4 * self._answers.bit_count() <= _WINDOW and self._peak < far * self._proven

    def _seen(self, before: float, now: float) -> tuple[float, int]:
        """Requests a second that were let through of late, since the refusal before at most, and how many."""
        since = max(before, now - _RECENT)
        if len(self._accepted) == self._accepted.maxlen:
            since = max(since, self._accepted[0])
        count = sum(at > since for at in self._accepted)
        if count < 5 and since > before:  # a slow one: all there is since the refusal before
            since, count = before, sum(at > before for at in self._accepted)
        # In a pause a large bucket gathers what is let through after it, and a small one is full soon. Which it is is
        # not known: the mean of both rates, 2% beside either where a second's pause was 20 seconds ago.
        paused, end = self._pause
        seconds = max(now - since, 1e-3)
        active = max(seconds - max(0.0, min(now, end) - max(since, paused)), 1e-3)
        return max(count, 0.5) / math.sqrt(seconds * active), count


class Claim:
    """Whether a ``Retry-After`` means all requests, or only the one that it answers.

    What started after the refused request and is answered before the time that the refusal named tells it: a limiter
    that means what it says refuses that too. Where nearly all of it is let through, either faults come at random, or
    a limiter lets many requests a second through and can name whole seconds only.

    Attributes
    ----------
    doubted : bool
        Whether it means only one.
    void : bool
        Whether such refusals say nothing of a rate either.

    Examples
    --------
    >>> claim = Claim()
    >>> claim.made(started=0.0, until=1.1)
    >>> for number in range(1, 9):
    ...     claim.answered(started=number / 100, now=number / 100 + 0.1, accepted=True)
    >>> claim.doubted
    True
    """

    __slots__ = ("_answers", "_count", "_started", "_until", "doubted", "void")

    def __init__(self) -> None:
        self._started = -math.inf  # of the request that was refused last
        self._until = -math.inf
        self._answers = 0  # the latest that tell, a bit each: refused or not
        self._count = 0
        self.doubted = self.void = False

    def made(self, started: float, until: float) -> None:
        """Note a refusal, of a request that started then, that named a time."""
        self._started = max(started, self._started)
        self._until = max(until, self._until)

    def answered(self, started: float, now: float, *, accepted: bool) -> None:
        """Note any answer, before what it names itself."""
        if started <= self._started or now > self._until:
            return
        self._answers = ((self._answers << 1) | (not accepted)) & ((1 << _WINDOW) - 1)
        self._count = min(self._count + 1, _WINDOW)
        refused = self._answers.bit_count()
        if self.doubted:
            self.doubted = 3 * refused < self._count
        else:
            self.doubted = 2 * self._count >= _WINDOW and 8 * refused <= self._count
        self.void = self.void and self.doubted

    def disprove(self) -> None:
        """Note that refusals have another cause than a rate. From now on a third of the answers decides."""
        if not self.doubted:
            self._answers, self._count = 0, _WINDOW
        self.doubted = self.void = True


_SECONDS: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d*)?)s)?(?:(\d+(?:\.\d*)?)ms)?")
_NAMES: Final = tuple(
    (kind, "x-ratelimit-remaining" + suffix, "x-ratelimit-reset" + suffix)
    for kind, suffix in (("requests", "-requests"), ("tokens", "-tokens"), ("requests", ""))
)


def limits_of(headers: Mapping[str, str], now: float) -> dict[str, tuple[float, float]]:
    """Read ``x-ratelimit-remaining`` and ``-reset`` headers, with and without ``-requests`` and ``-tokens``.

    Parameters
    ----------
    headers : mapping of str to str
        Names in lower case.
    now : float
        Seconds since 1970, for a reset that is a time and no duration.

    Returns
    -------
    dict of str to (float, float)
        By ``"requests"`` and ``"tokens"``: what is left, and the seconds until there is more.

    Examples
    --------
    >>> limits_of({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2.5s"}, now=0.0)
    {'requests': (0.0, 62.5)}
    >>> limits_of({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "1700000030"}, now=1700000000.0)
    {'requests': (3.0, 30.0)}
    """
    found: dict[str, tuple[float, float]] = {}
    for kind, remaining, until in _NAMES:
        if remaining not in headers or until not in headers:
            continue
        left, reset = _number(headers[remaining]), _duration(headers[until], now)
        if left is not None and reset is not None:
            found.setdefault(kind, (left, reset))
    return found


def _number(value: str) -> float | None:
    value = value.strip()
    return float(value) if value.isascii() and value.replace(".", "", 1).isdigit() else None


def _duration(value: str, now: float) -> float | None:
    seconds = _number(value)
    if seconds is not None:
        return max(0.0, seconds - now) if seconds > 1e9 else seconds
    parts = _SECONDS.fullmatch(value.strip())
    if parts is None or not any(parts.groups()):
        return None
    hours, minutes, whole, thousandths = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + whole + thousandths / 1000


class Account:
    """When requests of one key to one host may start.

    Notes
    -----
    Any thread may call it: clients in several threads and event loops share it. It never waits; who may not start
    yet is told how long to wait, and asks again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate = LearnedRate()
        self._claim = Claim()
        self._not_before = -math.inf
        self._left: dict[str, tuple[float, float]] = {}  # what the API says is left, and until when
        self._buckets: dict[tuple[str, float], Bucket] = {}

    def bucket(self, kind: str, per_minute: float | None) -> Bucket | None:
        """Return the caller's cap, which all clients that name the same one share."""
        if per_minute is None:
            return None
        with self._lock:
            return self._buckets.setdefault((kind, per_minute), Bucket(per_minute))

    def ask(self, tokens: int, requests_cap: Bucket | None, tokens_cap: Bucket | None, now: float) -> float:
        """Start a request of ``tokens`` and return 0, or return the seconds after which to ask again."""
        with self._lock:
            at = max(self._rate.earliest(now), self._allowed(tokens, now))
            for cap in (requests_cap, tokens_cap):
                if cap is not None:
                    at = max(at, cap.earliest(now))
            if at > now:
                return at - now
            self._rate.take(now)
            for kind, amount in (("requests", 1), ("tokens", tokens)):
                if kind in self._left:
                    left, until = self._left[kind]
                    self._left[kind] = left - amount, until
            if requests_cap is not None:
                requests_cap.take(1, now)
            if tokens_cap is not None:
                tokens_cap.take(tokens, now)
            return 0.0

    def _allowed(self, tokens: int, now: float) -> float:
        """When the API lets a request of ``tokens`` start, as it says."""
        at = max(now, self._not_before)
        for kind, need in (("requests", 1), ("tokens", tokens)):
            if kind in self._left:
                left, until = self._left[kind]
                if until <= now:
                    del self._left[kind]
                elif left < need:
                    at = max(at, until)
        return at

    def correct(self, reserved: int, actual: int | None, cap: Bucket | None) -> None:
        """Replace the tokens that were reserved by those that the API counted."""
        if cap is not None and actual is not None:
            with self._lock:
                cap.give_back(reserved - actual)

    def hold(self, seconds: float, started: float, now: float) -> None:
        """Start nothing for ``seconds``: the API said so to one request that started then, and means all.

        Unless it was found not to: see :class:`Claim`.
        """
        with self._lock:
            self._answered(started, now, accepted=False)
            self._hold(seconds, started, now)

    def _hold(self, seconds: float, started: float, now: float) -> None:
        self._claim.made(started, now + seconds)
        if not self._claim.doubted:
            self._not_before = max(self._not_before, now + seconds)
            self._rate.pause(now, self._not_before)

    def _answered(self, started: float, now: float, *, accepted: bool) -> None:
        self._claim.answered(started, now, accepted=accepted)
        if self._claim.doubted and self._not_before > now:
            self._not_before = now
            self._rate.resume(now)

    def held(self, now: float, tokens: int = 0) -> float:
        """Seconds for which no request of ``tokens`` may start because the API said so."""
        with self._lock:
            return self._allowed(tokens, now) - now

    def accepted(self, started: float, now: float) -> None:
        """Note an answer that was no refusal of the limiter."""
        with self._lock:
            self._answered(started, now, accepted=True)
            self._rate.accepted(now)

    def refused(self, started: float, now: float, asked: float | None = None) -> None:
        """Note a 429, which may have asked for no request for so many seconds."""
        with self._lock:
            self._answered(started, now, accepted=False)
            told = bool(asked) and not self._claim.void
            if self._rate.refused(started, now, told=told, doubted=self._claim.doubted) and asked is not None:
                self._claim.disprove()
            if asked is not None:
                self._hold(asked, started, now)

    def told(self, headers: Mapping[str, str], now: float, wall: float) -> None:
        """Learn from an answer's ``x-ratelimit-*``."""
        found = limits_of(headers, wall)
        if found:
            with self._lock:
                for kind, (left, reset) in found.items():
                    self._left[kind] = left, now + reset


_SALT: Final = os.urandom(32)
_LOCK: Final = threading.Lock()
_ACCOUNTS: Final[WeakValueDictionary[tuple[object, ...], Account]] = WeakValueDictionary()


def account_of(key: KeySource, base_url: str, clock: object) -> Account:
    """Return what clients of this key and host share, as long as one of them lives.

    A key is told by its hash under a salt that this process drew at random, so that none is held here. A callable
    has an account of its own: whose keys it will return is not known.
    """
    origin = base_url.lower().split("/")[:3]
    name = (key.fingerprint(lambda value: hashlib.blake2b(value, key=_SALT).digest()), *origin, id(clock))
    with _LOCK:
        account = _ACCOUNTS.get(name)
        if account is None:
            account = _ACCOUNTS[name] = Account()
        return account
