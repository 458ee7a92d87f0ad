"""Packages on a node: installed once by its first task, whole or not at all, and not kept for ever."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pip
import pytest
from helpers_environments import MADE, Other, build_quickly
from helpers_packages import make_wheels, use_made
from helpers_service import until
from helpers_venv import Interpreter
from helpers_wheels import installed, options, wheel
from helpers_work import touch_and_sleep

from batchexec import BatchExecutor
from batchexec._engine.results import unmet
from batchexec._worker.packages import environment, install_failures, node_environments
from batchexec._worker.packages.install_failures import TEXT_LIMIT, InstallError, failure_in, last_words, not_fetched
from batchexec._worker.packages.installer import has_all
from batchexec._worker.packages.node_environments import NodeEnvironments
from batchexec._worker.packages.pip_settings import PipSettings
from batchexec.errors import RequirementsError

# through the executor


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that there is to install."""
    return Path(make_wheels(tmp_path_factory.mktemp("links")))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    """It has pip, and another version of a package than is asked for."""
    worker = Interpreter(tmp_path_factory.mktemp("worker") / "venv")
    (worker.site_packages / "pip").symlink_to(Path(str(pip.__file__)).parent)
    installed(worker.site_packages, wheel(worker.site_packages.parent, "second", "0.5"))
    return worker


@pytest.fixture(scope="module")
def executor(worker: Interpreter, links: Path) -> Iterator[BatchExecutor]:
    pip_options = [*options(links), "--trusted-host", "user:secret-word@nowhere.example"]
    with BatchExecutor(
        max_workers=2, python=worker.python, requirements=["first", "second>=1,<2"], pip_options=pip_options, echo=False
    ) as executor:
        yield executor


def kept(found: dict[str, Any]) -> list[str]:
    """What there is of environments on the node where that was found."""
    folder = Path(found["file"].partition("/environments/")[0], "environments")
    return sorted(path.name.partition(".")[2] for path in folder.iterdir() if path.name.partition(".")[0] != "cache")


def test_packages_are_installed_once_and_come_before_those_of_the_image(executor: BatchExecutor) -> None:
    found = list(executor.map(use_made, range(4), chunksize=1))
    assert [seen["number"] for seen in found] == list(range(4))
    assert {seen["versions"] for seen in found} == {("1.0", "1.0")}
    assert len({seen["file"] for seen in found}) == 1
    link, *others = kept(found[0])
    assert link == ""
    (directory,) = set(others) - {"lock"}
    assert f".{directory}/" in found[0]["file"]
    for seen in found:
        assert seen["said"] == "said 1.0\n" * 2
        assert not [text for text in seen["environ"].values() if "secret-word" in text]


def test_a_task_that_finds_its_packages_installed_installs_nothing(executor: BatchExecutor) -> None:
    first = executor.submit(use_made, 1).result()
    there = kept(first)
    future = executor.submit(use_made, 2)
    assert future.result()["file"] == first["file"]
    assert "install" not in future.stderr()
    assert kept(first) == there


def test_what_cannot_be_installed_fails_before_user_code(worker: Interpreter, links: Path, tmp_path: Path) -> None:
    trace = str(tmp_path / "ran")

    with BatchExecutor(
        max_workers=1, python=worker.python, requirements=["first==7.5"], pip_options=options(links), echo=False
    ) as executor:
        error = executor.submit(touch_and_sleep, trace).exception(120)
        assert isinstance(error, RequirementsError)
        assert error.kind == "resolution"
        assert "No matching distribution found for first==7.5" in str(error)
        again = executor.submit(touch_and_sleep, trace).exception(120)
        assert "first==7.5" in str(again)
    assert not os.path.exists(trace)


def test_nothing_is_installed_where_the_interpreter_has_it_all() -> None:
    """This very one has what `auto` finds here."""

    def look() -> tuple[str, list[str]]:
        import sys

        import cryptography

        shared = os.path.join(os.environ["AZ_BATCH_NODE_SHARED_DIR"], "batchexec", "environments")
        return str(cryptography.__file__), [name.partition(".")[2] for name in os.listdir(shared)] + [sys.executable]

    with BatchExecutor(max_workers=1, requirements="auto", echo=False) as executor:
        for _ in range(2):
            file, left = executor.submit(look).result(120)
            assert file.startswith(sys.prefix)
            assert left == ["enough", sys.executable]


# the directory of environments, by several processes


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("cache"))


def never_called(directory: str, scratch: str) -> None:
    raise AssertionError("it is there already")


def test_of_several_that_need_it_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    root, go = tmp_path / "environments", tmp_path / "go"
    maker = Other(root, go=go)
    until(lambda: (root / "key.progress").exists() and (root / "key.progress").read_text())
    others = [Other(root) for _ in range(3)]
    for other in others:
        assert other.line() == "another task installs the packages: pip: half way"
    assert not (root / "key").exists()
    go.touch()
    for process in (maker, *others):
        assert process.line() == maker.id
    for process in (maker, *others):
        process.end()
    assert len(names(root)) == 3, "link, directory and lock"


def test_a_killed_installation_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    root = tmp_path / "environments"
    maker = Other(root, go=tmp_path / "never")
    until(lambda: list(root.glob(f"key.*/{MADE}")))
    (half,) = (path.parent for path in root.glob(f"key.*/{MADE}"))
    waiting = Other(root)
    assert waiting.line().startswith("another task")
    maker.kill()
    assert waiting.line() == waiting.id
    assert not half.exists(), "what was half made is gone"
    waiting.end()
    assert len(names(root)) == 3


def failing(kind: str) -> Callable[[str, str], None]:
    def build(directory: str, scratch: str) -> None:
        Path(directory, MADE).write_text("half")
        raise InstallError(kind, f"{kind} {os.getpid()}", "pip", "reason")

    return build


@pytest.mark.parametrize("kind", ["resolution", "build", "network", "disk"])
def test_a_failure_is_remembered_for_its_job_as_long_as_it_holds(tmp_path: Path, kind: str) -> None:
    environments = NodeEnvironments(str(tmp_path), "job", lambda line: None)
    with pytest.raises(InstallError, match=kind):
        environments.make("key", failing(kind))
    assert not list(tmp_path.glob(f"*/{MADE}"))
    if kind == "disk":
        assert environments.make("key", build_quickly).directory
        return
    with pytest.raises(InstallError, match=kind) as caught:
        environments.make("key", never_called)
    assert (caught.value.kind, caught.value.installer, caught.value.reason) == (kind, "pip", "reason")
    with pytest.raises(InstallError, match="again"):
        NodeEnvironments(str(tmp_path), "another job", lambda line: None).make("key", failing("again"))
    with pytest.raises(InstallError, match=kind):
        environments.make("key", failing(kind))  # the note was the other job's
    if kind == "network":
        noted = json.loads((tmp_path / "key.failed").read_text())
        (tmp_path / "key.failed").write_text(json.dumps({**noted, "at": noted["at"] - 61}))
        assert environments.make("key", build_quickly).directory
        assert not (tmp_path / "key.failed").exists()


def test_what_was_not_used_for_the_longest_time_goes_and_nothing_that_is_used(tmp_path: Path) -> None:
    user = Other(tmp_path, "used0", "used1")
    free = [f"free{number}" for number in range(node_environments.KEPT + 2)]
    earlier = Other(tmp_path, *free)
    for process, count in ((user, 2), (earlier, len(free))):
        assert [process.line() for _ in range(count)] == [process.id] * count
    earlier.end()
    for age, key in enumerate([*reversed(free), "used0", "used1"]):
        os.utime(tmp_path / f"{key}.lock", (time.time() - 100 * age,) * 2)
    ours = NodeEnvironments(str(tmp_path), "job", lambda line: None)
    assert ours.make("last", build_quickly).directory
    complete = {path.name for path in tmp_path.iterdir() if path.is_symlink()}
    assert complete == {"used0", "used1", "last", *free[-node_environments.KEPT + 1 :]}
    user.end()


def test_a_node_that_comes_back_makes_its_environments_anew(tmp_path: Path) -> None:
    """What a crash of the machine leaves has a name, but maybe no content."""
    environments = NodeEnvironments(str(tmp_path), "job", lambda line: None)
    (tmp_path / "key").symlink_to("key.gone")
    assert environments.ready("key") is None
    assert environments.make("key", build_quickly).directory


# what installers are told, and what is told of them


def settings(*words: str, **more: Any) -> PipSettings:
    return PipSettings({"options": list(words), **more}, more.get("text"))


def test_credentials_reach_installers_by_a_file_and_nobody_by_an_argument(tmp_path: Path) -> None:
    found = settings(
        "--index-url", "https://me:p%40ss-word@one.example/simple", "--extra-index-url=https://you:tok-en@two.example/x"
    )
    assert found.arguments() == ["--index-url", "https://one.example/simple", "--extra-index-url=https://two.example/x"]
    env = found.environment(str(tmp_path / "scratch"), str(tmp_path / "cache"))
    netrc = Path(env["NETRC"])
    assert netrc.stat().st_mode & 0o777 == 0o600
    assert netrc.read_text().splitlines() == [
        "machine one.example login me password p@ss-word",
        "machine two.example login you password tok-en",
    ]
    assert not [name for name, text in env.items() if "ss-word" in text or "tok-en" in text]
    said = "Looking in indexes: https://me:p%40ss-word@one.example/simple, p@ss-word, http://a:b@c.example/?sig=x"
    masked = found.masked(said)
    assert "ss-word" not in masked
    assert masked.endswith("http://****@c.example/?****")


def test_credentials_that_no_such_file_can_hold_go_by_the_environment(tmp_path: Path) -> None:
    found = settings(
        "-ihttps://me:one-pass@h.example/a", "--extra-index-url", "https://me:other-pass@h.example/b", "--pre"
    )
    assert found.arguments() == ["--pre"]
    env = found.environment(str(tmp_path / "scratch"), str(tmp_path / "cache"))
    assert env["PIP_INDEX_URL"] == env["UV_INDEX_URL"] == "https://me:one-pass@h.example/a"
    assert env["PIP_EXTRA_INDEX_URL"] == env["UV_EXTRA_INDEX_URL"] == "https://me:other-pass@h.example/b"
    assert "other-pass" not in found.masked("other-pass")
    for words in (["-f", "https://h.example/?sig=top-secret"], ["-i", "https://only-a-token@h.example/"]):
        assert settings(*words).arguments() == []


def test_proxy_and_authorities_are_for_installers(tmp_path: Path) -> None:
    found = settings(proxy="http://me:proxy-pass@p.example:1", text="-----OURS-----")
    env = found.environment(str(tmp_path / "scratch"), str(tmp_path / "cache"))
    assert env["HTTPS_PROXY"] == env["http_proxy"] == "http://me:proxy-pass@p.example:1"
    bundle = Path(env["PIP_CERT"])
    assert env["SSL_CERT_FILE"] == env["REQUESTS_CA_BUNDLE"] == str(bundle)
    assert bundle.stat().st_mode & 0o777 == 0o600
    text = bundle.read_text()
    assert text.endswith("-----OURS-----")
    assert "BEGIN CERTIFICATE" in text, "those of the system are trusted too"
    assert found.masked("via proxy-pass") == "via ****"


def test_the_same_lines_from_another_index_are_another_environment() -> None:
    one, two = settings("-i", "https://a:b@x.example"), settings("-i", "https://y.example")
    assert one.identity() == settings("-i", "https://new:word@x.example").identity()
    assert one.identity() != two.identity()


@pytest.mark.parametrize(
    ("words", "will_do"),
    [
        (["--index-url", "https://x.example", "--no-index", "--pre"], True),
        (["--find-links=/x", "--only-binary", ":all:"], True),
        (["--timeout", "3"], False),
        (["--index-url", "https://x.example", "--use-feature=x"], False),
        (["--no-index=1"], False),
    ],
)
def test_uv_is_taken_where_it_knows_every_option(words: list[str], will_do: bool) -> None:
    assert settings(*words).uv_will_do() is will_do


UV = "error: Failed to fetch: `https://x/simple/a/`\n  Caused by: error sending request for url (https://x/simple/a/)\n"
PIP = "ERROR: No matching distribution found for a==1\nCould not fetch URL https://x/simple/a/: "


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("ERROR: No matching distribution found for nosuch==3", ("resolution", "")),
        (
            "No version satisfies nosuch (from versions: none)\nERROR: No matching distribution",
            ("resolution", "unknown"),
        ),
        ("ERROR: ResolutionImpossible: for help visit", ("resolution", "conflict")),
        ("  cause: Because nosuch was not found in the package registry", ("resolution", "unknown")),
        (f"{PIP}404 Client Error: Not Found for url: https://x/simple/a/", ("resolution", "unknown")),
        (f"{PIP}connection error: [Errno 111] Connection refused", ("network", "connection")),
        (f"{PIP}NewConnectionError: Failed to establish a new connection: [Errno 111]", ("network", "connection")),
        (f"{UV}  Caused by: tcp connect error: Connection refused (os error 111)", ("network", "connection")),
        (f"{PIP}connection error: Max retries: [Errno -2] Name or service not known", ("network", "dns")),
        (f"{UV}  Caused by: dns error: failed to lookup address information", ("network", "dns")),
        (f"{PIP}There was a problem confirming the ssl certificate: Max retries exceeded", ("network", "tls")),
        (f"{UV}  Caused by: client error (Connect)\ninvalid peer certificate: UnknownIssuer", ("network", "tls")),
        (f"{UV}  Caused by: received corrupt message of type InvalidContentType", ("network", "tls")),
        (f"{PIP}connection error: ProxyError('Cannot connect to proxy', NewConnectionError", ("network", "proxy")),
        (f"{PIP}proxy connection error: Tunnel connection failed: 407 Proxy Auth", ("network", "proxy")),
        (f"{UV}  Caused by: client error (Connect)\nunsuccessful tunnel", ("network", "proxy")),
        (f"{UV}HTTP status client error (407 Proxy Authentication Required)", ("network", "proxy")),
        (f"{PIP}401 Client Error: Unauthorized for url: https://x", ("network", "login")),
        ("was not found\nhint: An index URL (https://x) could not be queried due to a lack", ("network", "login")),
        ("was not found\nhint: An index (https://x) returned a 403 Forbidden error.", ("network", "login")),
        ("WARNING: The repository located at x is not a trusted or secure host and is", ("network", "plain")),
        (f"{PIP}Max retries exceeded (ResponseError('too many 503 error responses'))", ("network", "busy")),
        (f"{UV}HTTP status server error (503 Service Unavailable)", ("network", "busy")),
        ("Could not install packages due to an OSError: [Errno 28] No space left on device", ("disk", "")),
        ("Failed to establish a new connection\nNo space left on device (os error 28)", ("disk", "")),
        ("error: command 'gcc' failed: No such file\nERROR: Failed building wheel for x", ("build", "")),
        ("x Failed to build `x==1`\n  The build backend returned an error", ("build", "")),
        ("something else", ("other", "")),
    ],
)
def test_failures_are_told_apart(said: str, failure: tuple[str, str]) -> None:
    assert failure_in(said) == failure


def test_every_failure_has_an_advice_of_its_own() -> None:
    kinds = {(kind, reason) for kind, reason, _ in install_failures.SIGNS} | {("timeout", ""), ("network", "")}
    texts = {unmet.with_advice(kind, reason, "said") for kind, reason in kinds}
    assert len(texts) == len(kinds)
    assert unmet.with_advice("other", "", "said") == "said"
    assert unmet.told("disk", "", "said", "n1").startswith("the packages could not be installed on node n1, so nothing")


def test_of_pips_log_that_is_told_which_kept_it_from_asking() -> None:
    def log(*whys: str) -> str:
        head = f"2026-01-01T00:00:00,000 {len(whys)} location(s) to search for versions of a:\n"
        places = (f"Could not fetch URL https://{n}/a/: {why} - skipping" for n, why in enumerate(whys))
        return head + "".join(f"2026-01-01T00:00:00,000 {line}\n" for line in places)

    def told(*whys: str) -> list[str]:
        return [line.partition(": ")[2] for line in not_fetched(log(*whys))]

    assert told("404 Client Error: Not Found", "connection error: x") == ["connection error: x"]
    assert told("401 Client Error", "404 Client Error") == ["401 Client Error"]
    assert told("404 Client Error", "403 Client Error") == [], "so some say that they have no such package"
    assert told("403 Client Error") == ["403 Client Error"]
    assert not_fetched("") == []


def test_what_travels_is_fetched_and_pip_only_where_it_is_wanted(tmp_path: Path) -> None:
    asked = []

    def blob(digest: str) -> bytes:
        asked.append(digest)
        return digest.encode()

    spec: dict[str, Any] = {"requirements": [], "constraints": [], "wheels": {"a-1-py3-none-any.whl": "one"}}
    work = environment._work({**spec, "installer": {"pip-1.whl": "two"}}, blob, {}, str(tmp_path), "")
    assert asked == ["one"]
    assert work.pip is not None
    assert Path(work.pip()).read_bytes() == b"two"
    (tmp_path / "bare").mkdir()
    assert environment._work({**spec, "installer": None}, blob, {}, str(tmp_path / "bare"), "").pip is None


def test_the_end_of_what_was_said_is_kept() -> None:
    said = "".join(f"line {number}\n" for number in range(1000))
    words = last_words(said)
    assert len(words) <= TEXT_LIMIT
    assert words.startswith("line ")
    assert words.endswith("line 999")


def test_having_a_package_is_having_its_version() -> None:
    from importlib.metadata import version

    have = version("cryptography")
    assert has_all([["cryptography", have], ["pytest", ""], ["Azure.Batch", ""]])
    assert has_all([["cryptography", f"{have}+local"]])
    assert not has_all([["cryptography", "0.1"]])
    assert not has_all([["pytest", ""], ["no-such-package", ""]])
