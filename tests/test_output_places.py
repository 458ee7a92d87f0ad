"""Where outputs land on this machine, and where they cannot: without any service."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchexec import BatchExecutor
from batchexec._engine.results.arriving import Announced, Arriving
from batchexec._engine.results.destinations import Unplaceable, parts
from batchexec.errors import ConfigError


@settings(max_examples=40)
@given(
    contents=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40), st.booleans()), max_size=8),
    cuts=st.lists(st.integers(1, 60), min_size=1),
)
def test_files_are_what_was_sent_however_it_is_cut(contents: list[tuple[int, bytes, bool]], cuts: list[int]) -> None:
    """Of items 0 to 3; where the hash of a file is wrong, that and the item's later files are not kept."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        expected: dict[int, list[bytes]] = {}
        bad: set[int] = set()
        for number, (item, data, is_good) in enumerate(contents):
            digest = hashlib.sha256(data if is_good else data + b"!").hexdigest()
            files.append((Announced(item, "name", len(data), digest, False), Path(folder, f"{item}", f"{number}")))
            bad |= set() if is_good else {item}
            if item not in bad:
                expected.setdefault(item, []).append(data)
        arriving = Arriving(files, refused=set())
        stream = b"".join(data for _, data, _ in contents)
        for cut in itertools.cycle(cuts):
            if not stream:
                break
            arriving.feed(memoryview(stream[:cut]))
            stream = stream[cut:]
        arriving.end()
        assert {item: [path.read_bytes() for path in paths] for item, paths in arriving.paths.items()} == expected
        assert arriving.errors.keys() == bad
        assert sum(path.is_file() for path in Path(folder).rglob("*")) == sum(map(len, expected.values()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b c.txt", ["a", "b c.txt"]),
        ("a:b/c?.txt", ["a%3ab", "c%3f.txt"]),
        ("back\\slash", ["back%5cslash"]),
        ("con/NUL.txt/com1", ["%63on", "%4eUL.txt", "%63om1"]),
        ("dot./blank ", ["dot%2e", "blank%20"]),
        ("100%", ["100%25"]),
        ("new\nline", ["new%0aline"]),
    ],
)
def test_names_on_windows(name: str, expected: list[str]) -> None:
    assert parts(name, windows=True) == expected
    assert parts(name, windows=False) == name.split("/")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../up", "a//b", "a/.", "nul\0"])
def test_paths_that_lead_outside(path: str) -> None:
    for windows in (True, False):
        with pytest.raises(Unplaceable):
            parts(path, windows)


@pytest.mark.parametrize("pattern", ["/tmp/*", "../*.png", "a/../../b", "C:/x"])
def test_patterns_that_lead_outside(pattern: str) -> None:
    with pytest.raises(ConfigError, match="below the working directory"):
        BatchExecutor(outputs=pattern)


@pytest.mark.parametrize("output_dir", ["{number}", "{item", "{}", " ", "{item:x!}", 5, b"x"])
def test_directories_that_cannot_be_meant(output_dir: object) -> None:
    with pytest.raises(ConfigError, match="a directory"):
        BatchExecutor(outputs="*", output_dir=output_dir)
