"""Samples of a pool's metrics, as formulas ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from .autoscale_values import FormulaError, Interval, NoSamples, Value

SAMPLE_SECONDS = 30.0
# How long a sample takes until a formula sees it: "approximately one minute", says the documentation of the service.
_DELAY_SECONDS = 60.0


class History:
    """The samples of one pool, each with the moment it was taken, the oldest first; `now` by the same clock."""

    def __init__(self, samples: Iterable[tuple[float, dict[str, float]]], now: float, time: datetime) -> None:
        self._now = now
        self._time = time
        self._samples = [(moment, values) for moment, values in samples if moment <= now - _DELAY_SECONDS]

    def ask(self, variable: str, method: str, arguments: list[Value]) -> Value:
        """What `$Variable.Method(...)` is. Raises FormulaError, and NoSamples where there are too few."""
        if method == "GetSamplePeriod":
            return Interval(SAMPLE_SECONDS)
        if method == "Count":
            return float(len(self._samples))
        if method == "HistoryBeginTime":
            oldest = self._samples[0][0] if self._samples else self._now
            return self._time - timedelta(seconds=self._now - oldest)
        if not arguments:
            raise FormulaError(f"{method} of which time?")
        if method == "GetSample" and not isinstance(arguments[0], Interval | datetime):
            return self._latest(variable, arguments[0])
        window = [argument for argument in arguments[:2] if isinstance(argument, Interval | datetime)]
        found, percent = self._within(variable, *window)
        if method == "GetSamplePercent":
            return percent
        least = arguments[len(window)] if len(arguments) > len(window) else 0.0
        if not isinstance(least, float):
            raise FormulaError("the percentage of samples has to be a number")
        if not found or percent < least:
            raise NoSamples(f"there are too few samples of {variable}: {percent:.0f} percent of them")
        return found

    def _latest(self, variable: str, count: Value) -> list[float]:
        if not isinstance(count, float) or count < 1:
            raise FormulaError("GetSample takes a number of samples, or a time")
        found = [values[variable] for _, values in self._samples if variable in values]
        if not found:
            raise NoSamples(f"there are no samples of {variable} yet")
        return found[-int(min(count, len(found))) :]

    def _within(self, variable: str, start: Value, end: Value | None = None) -> tuple[list[float], float]:
        """The samples between two looks back, in either order, and how many percent of those due they are."""
        far, near = self._back(start), self._back(end) if end is not None else 0.0
        far, near = max(far, near), min(far, near)
        found = [
            values[variable]
            for moment, values in self._samples
            if variable in values and self._now - far < moment <= self._now - near
        ]
        return found, min(100.0, 100.0 * len(found) / max(1.0, (far - near) / SAMPLE_SECONDS))

    def _back(self, moment: Value) -> float:
        if isinstance(moment, datetime):
            return (self._time - moment).total_seconds()
        assert isinstance(moment, Interval)
        return float(moment)
