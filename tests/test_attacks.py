"""What is meant to be data stays data: values in a shell's text, archives, tables, results, what programs leave."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers_work as work
import pytest
from helpers_processes import process_lives
from helpers_service import Account, service, until
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tampered import node_held, waiting

from batchexec import BatchConfig, BatchExecutor, Command, CommandResult
from batchexec._command.shell_texts import PLACE, places
from batchexec._engine import earlier_jobs
from batchexec._source.packages import requirements_files
from batchexec._wire import archives, envelope, names
from batchexec._worker import locks
from batchexec._worker.disk import neighbours, room, units
from batchexec._worker.packages.install_failures import InstallError
from batchexec._worker.packages.pip_settings import PipSettings
from batchexec._worker.packages.runs import Runs, Work
from batchexec.errors import BatchExecError, ConfigError, FilesError, RequirementsError, TamperedError

HOSTILE = ["$(touch run)", "`touch run`", "; touch run #", "'; touch run; '", "\ntouch run", "a[$(touch run)]", "a b"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# values in the text of a shell


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("echo '{x}'", "within quotes"),
        ('echo "a {x}"', "within quotes"),
        ('echo $(echo "{x}")', "within quotes"),
        ("echo \\{x}", "behind a backslash"),
        ("echo ${x}", "behind a \\$"),
        ("echo `echo {x}`", "between backticks"),
        ("echo $((1 + ({x})))", "in an arithmetic expression"),
        ("echo # {x}", "in a comment"),
        ("cat <<END\n{x}\nEND", "in a here-document"),
        ("cat <<-'END' >f\na\n\tEND\ncat <<{x}\n", "at the end of a here-document"),
    ],
)
def test_a_value_that_cannot_be_quoted_where_it_stands_is_refused(text: str, where: str) -> None:
    command = Command(text, shell=True, check=False)
    for value in HOSTILE:
        with pytest.raises(ValueError, match=rf"(?s)\{{x\}} stands {where}.*without quotes"):
            command(x=value)
    assert isinstance(command(x=5), CommandResult), "what means itself is no danger"


@pytest.mark.parametrize(
    "text",
    [
        "printf %s {x}",
        "printf %s a\"b'c\"'d\"e'{x}",
        'printf %s "$(printf %s {x})"',
        "(echo it\\'s; printf %s {x}) | tail -n +2",
        "cat <<END >/dev/null\nit's\nEND\nprintf %s {x}",
        "echo $((1 << 2)) >/dev/null # it's\nprintf %s {x}",
        "printf %s x#y >/dev/null; y='#'; printf %s {x}",
    ],
)
def test_elsewhere_it_arrives_as_it_is(text: str, here: Path) -> None:
    for value in HOSTILE:
        shown = Command(text, shell=True, outputs="ru[n]")(x=value)
        assert shown.stdout.endswith(value)
        assert not shown.outputs


@settings(max_examples=100)
@given(st.text("ab \n'\"`\\$(){}#<;|&" + PLACE, max_size=40))
def test_every_placeholder_of_any_text_has_its_place(text: str) -> None:
    assert len(places(text)) == text.count(PLACE)


# archives of programs


def tar(path: str, *members: tuple[str, bytes, str]) -> str:
    """Members as (name, tarfile's type, content or where a link leads)."""
    with tarfile.open(path, "w") as archive:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            data = text.encode() if kind == tarfile.REGTYPE else b""
            info.size, info.linkname = len(data), "" if data else text
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "links",
    [
        [("a", "."), ("a/up", "..")],
        [("deep/er/top", "../.."), ("up", "deep/er/top/..")],
        [("up", "deep/er/top/.."), ("deep/er/top", "../..")],
    ],
)
def test_links_do_not_lead_outside_by_way_of_others(here: Path, links: list[tuple[str, str]]) -> None:
    members = [("prog", tarfile.REGTYPE, "#!/bin/sh\n"), *((name, tarfile.SYMTYPE, to) for name, to in links)]
    path = tar("app.tar", *members)
    (here / "in").mkdir()
    with pytest.raises(archives.BadArchive, match=r"leads outside|below a link"):
        archives.unpack(path, "in/app")
    assert os.listdir("in") == ["app"]
    with pytest.raises(FilesError, match="cannot be unpacked"):
        Command("prog", app=path)()


def test_archives_that_are_broken_or_swollen_are_refused(here: Path) -> None:
    with zipfile.ZipFile("link.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, b"a" * 10_000_000)
    with pytest.raises(archives.BadArchive, match="leads to no path"):
        list(archives.members("link.zip"))
    with zipfile.ZipFile("cut.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", os.urandom(5000))
    whole = Path("cut.zip").read_bytes()
    Path("cut.zip").write_bytes(whole[:1000] + b"\xff" * 100 + whole[1100:])
    with pytest.raises(archives.BadArchive, match="'data' cannot be read"):
        archives.unpack("cut.zip", "cut")
    hard = tar("hard.tar", ("file", tarfile.REGTYPE, "x"), ("dir", tarfile.DIRTYPE, ""), ("to", tarfile.LNKTYPE, "dir"))
    with pytest.raises(archives.BadArchive, match="which is no file"):
        archives.unpack(hard, "hard")


def test_an_unpacked_program_is_not_written_to(here: Path) -> None:
    path = tar("app.tar", ("prog", tarfile.REGTYPE, "old"), ("prog", tarfile.REGTYPE, "new"))
    archives.unpack(path, "app")
    assert Path("app/prog").read_text() == "new"
    assert os.stat("app/prog").st_mode & 0o222 == 0


# tables of sweeps


def test_a_table_names_no_file_outside_of_its_directory(here: Path) -> None:
    command = Command("touch {out} {out}-ran-{n}", outputs={"out": "o", "all": "*-ran-*"})
    (here / "secret").write_text("not of the sweep")
    with BatchExecutor(where="inline") as ex:
        (first,) = ex.map(command, [{"n": 1}], resume="sweep")
        table, kept = here / "sweep/sweep.csv", here / "sweep/.sweep/0.json"
        whole = table.read_text()
        for outside in ("../secret", "0/../../secret", "/../secret"):
            table.write_text(whole.replace("0/o;", f"{outside};"))
            (again,) = ex.map(command, [{"n": 1}], resume="sweep")
            assert again.outputs == first.outputs, "it was run again"
        said = json.loads(kept.read_text())
        said["named"]["out"] = ["../secret"]
        kept.write_text(json.dumps(said))
        (again,) = ex.map(command, [{"n": 1}], resume="sweep")
        assert again.named["out"] == []
        kept.write_text("[]")
        assert [one.outputs for one in ex.map(command, [{"n": 1}], resume="sweep")] == [first.outputs]


def test_a_table_has_values_as_they_are(here: Path) -> None:
    values = ["=1+1", "@sum", "+5", -5, "a,b", 'a"b', "a\nb", "\tx"]
    command = Command("printf %s {x}")
    with BatchExecutor(where="inline") as ex:
        list(ex.map(command, [{"x": value} for value in values], resume="sweep"))
    with open("sweep/sweep.csv", newline="") as file:
        assert [row["x"] for row in csv.DictReader(file)] == [str(value) for value in values]


# results that somebody else writes


def forged(head: str) -> bytes:
    data = head.encode()
    return envelope.MAGIC + bytes(32) + len(data).to_bytes(4, "big") + data


FORGED = [
    forged('{"frames":[1e400]}'),
    forged('{"frames":[-5000]}'),
    forged('{"frames":[' + "9" * 28 + "]}"),
    forged('{"frames":' + "[" * 100_000),
]


@pytest.mark.parametrize("data", FORGED, ids=["infinite", "negative", "huge", "deep"])
def test_what_is_not_signed_yet_cannot_break_its_reader(data: bytes) -> None:
    with pytest.raises(envelope.BadEnvelope):
        envelope.length(data)


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with service() as running:
        running.fixed_pool("narrow", slots=1)
        yield running


@pytest.fixture
def executor(account: Account) -> Iterator[Callable[..., BatchExecutor]]:
    made: list[BatchExecutor] = []

    def make(**fields: Any) -> BatchExecutor:
        made.append(BatchExecutor(**account.settings, pool_id="narrow", retries=0, echo=False, **fields))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()
    for name in account.containers():  # logs of failed chunks stay
        account.blobs.delete_container(name)


def test_forged_results_fail_their_own_calls_alone(
    account: Account, executor: Callable[..., BatchExecutor], here: Path
) -> None:
    ex = executor(outputs="*.txt")
    with node_held(account, here):
        futures = [ex.submit(work.double, number) for number in range(len(FORGED) + 1)]
        until(lambda: waiting(account))
        for number, data in enumerate(FORGED):
            account.only_container().upload_blob(names.result_blob(number, 0), data)
    assert all(isinstance(future.exception(60), TamperedError) for future in futures[:-1])
    assert futures[-1].result(60) == 2 * len(FORGED)


def test_what_else_lies_among_a_jobs_packs_is_not_fetched(
    account: Account, executor: Callable[..., BatchExecutor]
) -> None:
    ex = executor()
    assert list(ex.map(work.double, range(3))) == [0, 2, 4]
    (job,) = account.jobs()
    container = account.only_container()
    (name,) = container.list_blob_names(name_starts_with="in/")
    pack = container.download_blob(name).readall()
    number = int(name.removeprefix("in/"))
    for other in ("evil", f"{number}", f"+{number:07d}", f"{number:07d}\u0661", f"{number:09d}", f"other/{number:08d}"):
        name = f"in/{other}"
        container.upload_blob(name, pack)
    config = BatchConfig(**account.settings)
    assert [item.value for item in earlier_jobs.fetch(config, job).items] == [0, 2, 4]
    container.upload_blob("in/00000099", pack)
    with pytest.raises(BatchExecError, match=r"in/00000099 of job .* is not what its client wrote"):
        earlier_jobs.fetch(config, job)


# what other tasks of a node have left where room is made


def cache_of(directory: Path, **contents: str) -> Path:
    """A job's cache that nobody uses."""
    for folder in ("locks", "files", "kept"):
        (directory / folder).mkdir(parents=True)
    (directory / "locks/room").write_text("0")
    for name, text in contents.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def node(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared directory of a node; the cache `mine` knows of what is linked in `batchexec/caches`."""
    shared = here / "shared"
    (shared / "batchexec/caches").mkdir(parents=True)
    monkeypatch.setenv("AZ_BATCH_NODE_SHARED_DIR", str(shared))
    cache_of(here / "mine")
    return shared


def link(node: Path, cache: Path) -> None:
    (node / "batchexec/caches" / cache.name).symlink_to(cache)


def test_room_is_made_in_caches_alone(here: Path, node: Path) -> None:
    secret = here / "victim/deep/secret"
    secret.parent.mkdir(parents=True)
    secret.write_text("not of any cache")
    (here / "victim/file").write_text("neither")
    kept = [secret, here / "victim/file"]

    led = cache_of(here / "led", blob="goes")
    for name, target in (("files", "victim"), ("kept", "victim")):
        (led / name).rmdir()
        (led / name).symlink_to(here / target)
    (led / "link").symlink_to(secret)
    locked_elsewhere = here / "locked"
    locked_elsewhere.mkdir()
    (locked_elsewhere / "locks").symlink_to(led / "locks")
    (locked_elsewhere / "blob").write_text("stays")
    linked_lock = cache_of(here / "linked", blob="stays")
    (linked_lock / "locks/room").unlink()
    (linked_lock / "locks/room").symlink_to(led / "locks/room")
    no_link = cache_of(node / "batchexec/caches/no-link", blob="stays")
    kept += [cache / "blob" for cache in (locked_elsewhere, linked_lock, no_link)]

    odd = cache_of(here / "odd", blob="goes")
    (odd / "kept/set").symlink_to(here / "victim")
    (odd / "kept/other.part").symlink_to(here / "victim")
    (odd / "locks/use-directory").mkdir()
    (odd / "locks/use-link").symlink_to(secret)
    for cache in (led, locked_elsewhere, linked_lock, odd):
        link(node, cache)

    assert room.empty(str(here / "mine")) > 0
    assert all(path.is_file() for path in kept)
    assert not (led / "blob").exists()
    assert not (odd / "blob").exists()
    assert not os.listdir(odd / "kept"), "the links have gone, and nothing that they lead to"


@pytest.mark.parametrize("name", ["locks/room", "locks/use-set", "locks/make-set"])
def test_a_pipe_in_the_place_of_a_lock_holds_up_nobody(here: Path, node: Path, name: str) -> None:
    other = cache_of(here / "other", blob="text")
    (other / name).unlink(missing_ok=True)
    os.mkfifo(other / name)
    link(node, other)
    room.empty(str(here / "mine"))
    assert (other / "blob").exists() == (name == "locks/room"), "without its lock it is no cache"
    for take in (locks.take, locks.take_now, locks.take_itself, locks.take_beside, locks.take_part):
        with pytest.raises(OSError, match="no file to lock"):
            take(str(other / name))


def test_a_lock_leads_nowhere_else(here: Path) -> None:
    (here / "lock").symlink_to(here / "made")
    with pytest.raises(OSError, match="symbolic links"):
        locks.take(str(here / "lock"))
    assert not (here / "made").exists()


@pytest.mark.parametrize("text", ["", "never", "-1", "9" * 32, "\0" * 32])
def test_what_a_cache_takes_is_counted_where_it_is_not_known(here: Path, node: Path, text: str) -> None:
    noted = here / "mine/locks/room"
    noted.write_text(text)
    (here / "mine/blob").write_bytes(bytes(5000))
    room.make(str(here / "mine"), [4096])
    least = room._Disk.of(str(here)).least
    there = units.total(str(here / "mine"), least) if text else 0  # a cache without a number is a new one
    assert int(noted.read_text()) == there + units.cost(4096, least)


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give a directory away")
def test_no_other_user_says_where_room_is_made(here: Path, node: Path) -> None:
    ours = cache_of(here / "ours", blob="stays")
    link(node, ours)
    package = node / "batchexec/environments/cache/package"
    package.mkdir(parents=True)
    os.chown(node / "batchexec", 12345, -1)
    neighbours.join(str(here / "mine"))
    room.empty(str(here / "mine"))
    neighbours.drop_packages()
    assert (ours / "blob").exists()
    assert package.exists()
    assert len(os.listdir(node / "batchexec-0/caches")) == 1


# what installers say


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://me:se'cret@index.example/simple", ["se'cret", "se%27cret"]),
        ('https://me:se"cret@index.example/simple', ['se"cret']),
        ("https://me:se%2Fcret@index.example/simple", ["se%2Fcret", "se/cret"]),
        ("https://secret-token@index.example/simple", ["secret-token"]),
        ("https://secret-token:@index.example/simple", ["secret-token"]),
        ("https://secret-token:x-oauth-basic@index.example/simple", ["secret-token"]),
        ("https://index.example/simple?token=secret-token", ["secret-token"]),
    ],
)
def test_no_login_is_an_argument_or_in_a_text(url: str, secrets: list[str]) -> None:
    for options in (["--index-url", url], [f"--index-url={url}"], [f"-i{url}"]):
        given = PipSettings({"options": options})
        said = given.masked(f"cannot reach {url}, nor <{url}>: {' '.join(secrets)} is not welcome")
        for secret in secrets:
            assert secret not in " ".join(given.arguments())
            assert secret not in said
        assert not [secret for secret in secrets for word in given.identity() if secret in word]
    assert not [secret for secret in secrets if secret in PipSettings({"proxy": url}).masked(f"{url} {secrets[0]}")]


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_a_login_that_its_own_sign_ends_is_refused_unseen(here: Path, sign: str) -> None:
    url = f"https://me:sec{sign}ret@index.example/simple"
    for fields in ({"pip_options": ["--index-url", url]}, {"pip_options": [f"-i{url}"]}, {"proxy": url}):
        with pytest.raises(ConfigError, match="a login with %2F") as caught:
            BatchConfig(**fields)  # type: ignore[arg-type]
        assert "sec" not in str(caught.value)
    (here / "requirements.txt").write_text(f"--index-url {url}\n")
    for lines in (["requirements.txt"], [f"tool @ {url}"], [f"-r {url}"], [f"-c {url}"]):
        with pytest.raises((ConfigError, RequirementsError)) as caught_too:
            requirements_files.read(BatchConfig(requirements=lines).requirements or (), local=False)
        assert "sec" not in str(caught_too.value)


LOUD = r"""
import sys
write = sys.stdout.write
write("\x1b]0;title\x07\x1b[31mred\x1b[0m https://me:hun\x1b[0mter22@index.example/\rdone\n")
write(" ".join(["word"] * 3270) + " at https://me:hunter22@index.example/ hunter22\n")
for _ in range(200):
    write("://" * 20_000)
write("\nlast words, hunter22\n")
sys.exit(1)
"""


def test_whatever_an_installer_says_is_bounded_plain_and_masked(here: Path) -> None:
    given = PipSettings({"options": ["--index-url", "https://me:hunter22@index.example/"]})
    heard: list[str] = []
    run = Runs(dict(os.environ), Work([], [], {}, None, given, str(here), str(here)), heard.append)
    with pytest.raises(InstallError) as caught:
        run("pip", [sys.executable, "-c", LOUD])
    assert "last words, ****" in str(caught.value)
    for text in (*heard, str(caught.value)):
        assert "hunter" not in text
        assert "\x1b" not in text
        assert "\r" not in text
        assert len(text) < 20_000
    assert heard[0] == "red https://****@index.example/"
    assert heard[-1] == "last words, ****"


# a task that is asked what it has written


def test_a_task_is_asked_from_anywhere_and_again_where_the_answer_was_cut(
    account: Account, executor: Callable[..., BatchExecutor], here: Path
) -> None:
    ex = executor()
    wait = f"until [ -e '{here}/go on' ]; do sleep 0.01; done"
    running = ex.submit(Command(f"printf '%3000s said\\n' x; {wait}", shell=True))
    until(lambda: running.stdout().endswith(" said\n"))
    account.arm({"kind": "truncate", "bytes": 100, "count": 1, "match": {"operation": "GET jobs/*/tasks/*/files/*"}})
    assert len(running.stdout()) == 3006
    assert [fault["fired"] for fault in account.faults()] == [1]
    account.disarm()
    heard: list[str] = []
    refused = ex.submit(len, threading.Lock())
    refused.add_done_callback(lambda _: heard.append(running.stdout()))
    until(lambda: heard)
    assert heard[0].endswith(" said\n")
    (here / "go on").touch()
    assert running.result(60).exit_code == 0


# programs on a node


PROBE = """
import json, os
found = {}
for process in filter(str.isdigit, os.listdir("/proc")):
    for what in ("environ", "cmdline"):
        try:
            with open(f"/proc/{process}/{what}", "rb") as file:
                text = file.read()
        except OSError:
            continue
        found[f"{process} {what}"] = text.decode("utf-8", "replace")
print(json.dumps([dict(os.environ), found, os.listdir("/proc/self/fd")]))
"""


def test_a_program_sees_no_secret_of_its_task(
    account: Account, executor: Callable[..., BatchExecutor], here: Path
) -> None:
    (here / "probe.py").write_text(PROBE)
    options = ["--index-url", "https://me:index-secret@packages.example/simple"]
    ex = executor(pip_options=options, proxy="http://me:proxy-secret@proxy.example:3128")
    future = ex.submit(Command("python probe.py"))
    until(account.jobs)
    (job,) = account.jobs()
    key = next(one.value for one in account.batch.get_job(job).common_environment_settings if one.name == names.ENV_KEY)
    environment, processes, descriptors = json.loads(future.result(60).stdout)
    assert not {name for name in environment if name in names.ENV_SECRET}
    assert len(descriptors) == 4, "standard streams, and the one that it lists them by"
    assert len(processes) > 4
    for secret in ("index-secret", "proxy-secret", key):
        assert not [which for which, text in processes.items() if secret in text]
    assert not [which for which, text in processes.items() if "sig=" in text and job in text]


def test_what_a_program_leaves_running_ends_with_it(executor: Callable[..., BatchExecutor], here: Path) -> None:
    daemon = "setsid sh -c 'setsid sleep 97 & echo $! >> {pids}; sleep 98' & echo $! >> {pids}; sleep 99 & echo $! >>"
    wait = "until [ $(wc -l < {pids}) = 3 ]; do sleep 0.01; done"
    command = Command(f"{daemon} {{pids}}; {wait}", shell=True, outputs={"pids": "pids"})
    result = executor(output_dir=str(here / "{item}")).submit(command).result(60)
    pids = [int(line) for line in result.outputs[0].read_text().split()]
    assert len(pids) == 3
    assert not [pid for pid in pids if process_lives(pid)]


def test_an_app_that_cannot_be_unpacked_leaves_nothing(executor: Callable[..., BatchExecutor], here: Path) -> None:
    links = [("deep/er/top", tarfile.SYMTYPE, "../.."), ("up", tarfile.SYMTYPE, "deep/er/top/..")]
    path = tar("app.tar", ("prog", tarfile.REGTYPE, "#!/bin/sh\n"), *links)
    ex = executor()
    with pytest.raises(FilesError, match=r"the app 'app.tar' cannot be unpacked on the node: .*leads outside"):
        ex.submit(Command("prog", app=path)).result(60)
    look = Command('ls "$AZ_BATCH_JOB_PREP_WORKING_DIR/cache"', shell=True)
    found = ex.submit(look).result(60).stdout.split()
    assert "kept" in found, "this is where it was unpacked"
    assert not [name for name in found if name.endswith(".part")]


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give a directory away")
def test_environments_are_in_no_directory_that_another_user_can_replace(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchexec._worker.packages import environment

    (here / "batchexec").mkdir()
    os.chown(here / "batchexec", 12345, -1)
    (here / "batchexec").chmod(0o777)
    monkeypatch.setenv("AZ_BATCH_NODE_SHARED_DIR", str(here))
    assert environment._root(None) == str(here / f"batchexec-{os.getuid()}/environments")  # type: ignore[arg-type]
