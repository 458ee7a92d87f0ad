"""A report as text."""

from __future__ import annotations

from collections.abc import Iterator

from .contenders import BATCHEXEC
from .measure import Report


def lines(report: Report) -> Iterator[str]:
    machine = report["machine"]
    yield (
        f"{machine['implementation']} {machine['python']}, {machine['system']}, {machine['usable_cpus']} of "
        f"{machine['cpus']} CPUs, load {machine['load_before']:.2f} before and {machine['load_after']:.2f} after, "
        f"{report['repetitions']} repetitions, 2 workers each, contenders in turns"
    )
    yield ""
    for name, meaning in report["contenders"].items():
        yield f"  {name:<11} {meaning}"
    yield ""
    yield f"{'case':<6}{'contender':<12}{'median':>9}{'least':>9}{'most':>9}   {'batchexec is ... times that':<28}"
    for name, case in report["cases"].items():
        yield f"{name}: {case['what']} ({case['unit']})"
        for contender, times in case["contenders"].items():
            figures = "".join(f"{times[key]:>9.2f}" for key in ("median", "least", "most"))
            yield f"{'':<6}{contender:<12}{figures}   {_ratio(case, contender)}".rstrip()


def _ratio(case: Report, contender: str) -> str:
    if contender == BATCHEXEC:
        return ""
    ratio = case["ratios"][contender]
    return (
        f"{ratio['of_medians']:.2f} (by rounds {ratio['paired']:.2f}, {ratio['least']:.2f} to {ratio['most']:.2f})"
    )
