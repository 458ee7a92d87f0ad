"""The one source of time: a system clock, and a manual one that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Protocol

INFINITE = "P10675199DT2H48M5.4775807S"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = ("days", "hours", "minutes", "seconds")
_DURATION = re.compile(
    r"P(?:(?P<days>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<hours>\d+(?:\.\d+)?)H)?(?:(?P<minutes>\d+(?:\.\d+)?)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)


class Timer(Protocol):
    """Something that will happen, and can be called off."""

    def cancel(self) -> None: ...


class Clock:
    """The time of this machine."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()


class _ManualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock(Clock):
    """Time stands still until `advance` moves it; what falls due in between happens in its order."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime(2026, 1, 1, tzinfo=timezone.utc)
        self._elapsed = 0.0
        self._due: list[tuple[float, int, _ManualTimer]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        timer = _ManualTimer(callback)
        heapq.heappush(self._due, (self._elapsed + seconds, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move time on; call it from the loop's thread."""
        end = self._elapsed + seconds
        while self._due and self._due[0][0] <= end:
            when, _, timer = heapq.heappop(self._due)
            self._elapsed = max(self._elapsed, when)
            if timer.callback is not None:
                timer.callback()
        self._elapsed = end


def iso(moment: datetime) -> str:
    """A time as the service writes it: UTC with seven digits of fraction."""
    return moment.isoformat(timespec="microseconds")[:-6] + "0Z"


def http_date(when: datetime) -> str:
    """RFC 1123 in GMT, independent of the locale."""
    t = when.astimezone(timezone.utc)
    return (
        f"{_DAYS[t.weekday()]}, {t.day:02d} {_MONTHS[t.month - 1]} {t.year:04d} "
        f"{t.hour:02d}:{t.minute:02d}:{t.second:02d} GMT"
    )


def parse_time(text: str) -> datetime | None:
    """ISO 8601 with any number of fraction digits, or the RFC 1123 form; UTC where no zone is named."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?", text)
    try:
        if match is None:
            moment = parsedate_to_datetime(text)
        else:
            whole, fraction, zone = match.groups()
            whole += ":00" if whole.count(":") == 1 else ""
            zone = "+00:00" if zone in (None, "Z") else zone if ":" in zone else zone[:3] + ":" + zone[3:]
            moment = datetime.fromisoformat(f"{whole}.{(fraction or '0')[:6]:0<6}{zone}")
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def seconds_of(duration: str) -> float | None:
    """Seconds of an ISO 8601 duration (`PT5M`, `PT05M00S`, `P1DT2H`); None where it is no duration."""
    match = _DURATION.fullmatch(duration)
    if match is None or duration in ("P", "PT") or duration.endswith("T"):
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.group(*_UNITS))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
