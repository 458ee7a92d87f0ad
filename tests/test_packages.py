"""Packages of callables, on the client: what `requirements=` asks for, and what nodes are told to install."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from helpers_service import Account, service
from helpers_venv import Interpreter
from helpers_wheels import installed, on_path, options, project, wheel

from batchexec import BatchConfig, BatchExecutor
from batchexec._engine.sending.packages import packages_for
from batchexec._source import Reached, dumps_recording
from batchexec._source.packages import needed as packages
from batchexec._source.packages import requirements_files
from batchexec._source.packages.wheels import installer
from batchexec._wire import names
from batchexec.errors import ConfigError, RequirementsError

GIT = '{"url": "https://user:hush@example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed distributions on sys.path. What is imported from it goes again."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    with on_path(folder):
        yield folder


@pytest.fixture
def have(tmp_path: Path, site: Path) -> Callable[..., None]:
    """Installs a distribution here; keywords are those of `wheel`, and files of its metadata as `origin`."""

    def have(name: str, version: str = "1.0", origin: dict[str, str] | None = None, **more: Any) -> None:
        installed(site, wheel(tmp_path / "made", name, version, **more), **(origin or {}))

    return have


def planned(modules: Iterable[str], *lines: str, local: Iterable[str] = (), here: bool = False) -> packages.Plan:
    wanted = requirements_files.read(("auto", *lines), local=here)
    return packages.plan(wanted, modules, local, here)


# what the setting may be


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["none", "numpy"], "'none' alone"),
        (["nump y"], "'nump y' is none"),
        ("nothing.txt", "'nothing.txt' is not, seen from"),
        (["-c nothing.txt", "numpy"], "'nothing.txt' is not, seen from"),
        ("environment.yml", "'environment.yml' is neither"),
        (["--index-url", "https://example.org"], "pip_options"),
        (["./nowhere"], "'./nowhere' is not"),
        ("tool @ git+https://me:hush@example.org/tool.git", "lines without logins"),
        ("nowhere/pyproject.toml[test]", "'nowhere/pyproject.toml' is not"),
    ],
)
def test_what_names_no_packages_is_refused_with_the_configuration(given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace(".", r"\.").replace("[", r"\[")):
        BatchConfig(requirements=given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pip_options": ["--target=/somewhere"]}, "--target does not"),
        ({"pip_options": "--pre -t /somewhere"}, "-t does not"),
        ({"pip_options": ["-r", "requirements.txt"]}, "-r belongs into requirements"),
        ({"proxy": "me:hush@proxy:3128"}, "a URL, such as http://proxy.example.org:3128"),
    ],
)
def test_options_that_would_install_elsewhere_or_fail_on_each_node_are_refused(given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        BatchConfig(**given)
    assert "hush" not in str(caught.value)


def test_paths_stay_what_they_are_when_the_user_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n")
    monkeypatch.chdir(tmp_path)
    lines = ["AUTO", "requirements.txt", "pyproject.toml[test]", ".[a]", "numpy>=2", "discord.py"]
    config = BatchConfig(requirements=[*lines, "-r requirements.txt", "-e .", "-c requirements.txt"])
    here = str(tmp_path)
    assert config.requirements == (
        "auto",
        f"{here}/requirements.txt",
        f"{here}/pyproject.toml[test]",
        f"{here}[a]",
        "numpy>=2",
        "discord.py",
        f"{here}/requirements.txt",
        here,
        f"-c {here}/requirements.txt",
    )
    wanted = requirements_files.read(config.requirements[-3:], local=False)
    assert (wanted.requirements, wanted.projects, wanted.constraints) == (["numpy"], [(here, "")], ["numpy"])


def test_nothing_is_installed_on_this_machine_unless_asked_for() -> None:
    def made(where: str, **fields: Any) -> bool:
        return packages_for(BatchConfig(**fields), where, print) is not None

    assert [made("local"), made("azure")] == [False, True]
    assert [made("local", requirements="auto"), made("azure", requirements=None)] == [True, False]


# files


def test_a_requirements_file_is_read_as_pip_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "hush")
    own = project(tmp_path / "own", "own-thing")
    (tmp_path / "more.txt").write_text("beta\n-c pins.txt\n")
    (tmp_path / "pins.txt").write_text("gamma==3 # the last\n")
    (tmp_path / "requirements.txt").write_text(
        "\ufeff# a comment\n"
        "alpha[fast]>=1.2 ; python_version >= '3'   # why\n"
        "-r more.txt\n"
        "delta==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "--index-url=https://${TOKEN_OF_TEST}@example.org/simple\n"
        "-f https://example.org/wheels\n--pre\n--no-binary :all:\n"
        f"-e {own}[test]\n"
        "epsilon @ git+https://example.org/e.git@v1\n",
        encoding="utf-8",
    )
    wanted = requirements_files.read((str(tmp_path / "requirements.txt"),), local=False)
    assert wanted.requirements == [
        "alpha[fast]>=1.2 ; python_version >= '3'",
        "beta",
        "delta==1     --hash=sha256:aa     --hash=sha256:bb",
        "epsilon @ git+https://example.org/e.git@v1",
    ]
    assert wanted.constraints == ["gamma==3"]
    assert wanted.options == [
        *("--index-url", "https://hush@example.org/simple", "--find-links", "https://example.org/wheels"),
        *("--pre", "--no-binary", ":all:"),
    ]
    assert wanted.projects == [(str(own), "[test]")]
    assert not wanted.auto


def test_a_requirements_file_of_powershell_is_read(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("numpy==2.0\r\npandas\r\n", encoding="utf-16")
    assert requirements_files.read((str(path),), local=False).requirements == ["numpy==2.0", "pandas"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("numpy\nsci py\n", "line 2: 'sci py' is not a requirement"),
        ("-r missing.txt", "cannot read .*missing.txt"),
        ("-r requirements.txt", "includes itself"),
        ("--find-links ./wheels", "a place on this machine, which nodes do not see"),
        ("--strange 1", "--strange is not understood"),
        ("-e ./nowhere", "line 1: there is no .*nowhere"),
        ("numpy=1.26.4=py311_0", "is one of conda's"),
        ("numpy@file:///croot/numpy_1/work", "pip freeze writes so of conda's packages"),
        ("-i", "needs a value"),
        ("\xff", "not UTF-8"),
        ("tool @ https://hush@example.org/t.whl", r"line 1: .*//\*\*\*\*@example.org.* holds a login"),
    ],
)
def test_a_file_that_cannot_serve_is_named_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequirementsError, match=told):
        requirements_files.read((str(path),), local=False)


def test_a_pyproject_gives_its_dependencies_and_the_extras_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(
        "[project]\nname = 'Own'\ndependencies = ['alpha>=1']\n"
        "[project.optional-dependencies]\nplot = ['beta']\nall = ['own[plot]', 'gamma']\n"
    )
    wanted = requirements_files.read((f"{path}[all]",), local=False)
    assert wanted.requirements == ["alpha>=1", "gamma", "beta"]
    with pytest.raises(RequirementsError, match="no optional dependencies 'plto'"):
        requirements_files.read((f"{path}[plto]",), local=False)
    path.write_text("[project]\nname = 'own'\ndynamic = ['dependencies']\n")
    with pytest.raises(RequirementsError, match="dynamic"):
        requirements_files.read((str(path),), local=False)


# what auto finds


def test_the_distributions_that_own_the_modules_with_the_versions_of_all_they_require(have: Any) -> None:
    have("space-one", "1.1", files={"space_t/one.py": ""}, requires=["deep-t>=1"])
    have(
        "space-two",
        "2.2",
        files={"space_t/two/__init__.py": ""},
        requires=["fast-t[turbo]", "windows-t; os_name=='nt'"],
    )
    have("deep-t", "3.3")
    have("fast-t", "4.4", requires=["charger-t; extra == 'turbo'", "other-t; extra == 'other'"])
    have("charger-t", "5.5")
    have("other-t", "6.6")
    have("windows-t", "7.7")
    plan = planned({"space_t.one", "space_t.two"})
    assert plan.requirements == ["space-one==1.1", "space-two==2.2"]
    assert plan.constraints == ["charger-t==5.5", "deep-t==3.3", "fast-t==4.4"]
    assert plan.check == sorted(
        [("charger-t", "5.5"), ("deep-t", "3.3"), ("fast-t", "4.4"), ("space-one", "1.1"), ("space-two", "2.2")]
    )
    assert plan.reasons["space-two"] == "module space_t.two"
    assert planned({"space_t.one"}).requirements == ["space-one==1.1"]
    assert planned({"space_t.one"}, here=True).constraints == ["deep-t==3.3"]


def test_what_is_asked_for_goes_before_what_is_found(have: Any, tmp_path: Path) -> None:
    have("deep-u", "3.3")
    have("space-u", "1.1", requires=["deep-u"])
    plan = planned({"space_u"}, "space-u>=1", "deep-u")
    assert (plan.requirements, plan.constraints, plan.check) == (["deep-u", "space-u>=1"], [], None)
    (tmp_path / "pins.txt").write_text("-c versions.txt\n")
    (tmp_path / "versions.txt").write_text("space-u==1.0\ndeep-u<4\n")
    plan = planned({"space_u"}, str(tmp_path / "pins.txt"))
    assert (plan.requirements, plan.constraints) == (["space-u"], ["deep-u<4", "space-u==1.0"])


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("alpha", [("alpha", "")]),
        ("Al_pha==1.0", [("al-pha", "1.0")]),
        ("alpha; sys_platform == 'win32'", []),
        ("alpha>=1", None),
        ("alpha==1.*", None),
        ("alpha[x]", None),
        ("alpha @ https://example.org/a.whl", None),
    ],
)
def test_whether_an_image_has_it_is_said_only_where_no_resolver_is_needed(line: str, check: object) -> None:
    assert planned((), line).check == check


def test_imports_that_wait_in_functions_are_found_and_those_of_modules_not_in_use_are_not(
    have: Any, tmp_path: Path
) -> None:
    for name in ("now-v", "later-v", "lazy-v", "unused-v"):
        have(name)
    (tmp_path / "work_v").mkdir()
    (tmp_path / "work_v" / "__init__.py").write_text("")
    (tmp_path / "work_v" / "steps.py").write_text(
        "import now_v\n\ndef step():\n    from work_v import more\n    return more\n"
    )
    (tmp_path / "work_v" / "more.py").write_text("import lazy_v\n")
    (tmp_path / "work_v" / "tests.py").write_text("import unused_v\n")
    with on_path(tmp_path):
        steps = importlib.import_module("work_v.steps")

        def call() -> object:
            import later_v  # type: ignore[import-not-found]

            return later_v, steps.step()

        reached = dumps_recording(call)[1]
        found = {name.partition(".")[0] for name in packages.modules_of(reached)}
    assert {"now_v", "later_v", "lazy_v"} <= found
    assert "unused_v" not in found


def test_projects_under_development_bring_what_they_require(have: Any, site: Path, tmp_path: Path) -> None:
    own = project(tmp_path / "own", "own-w")
    have("engine-w", "1.5")
    about = {"url": own.as_uri(), "dir_info": {"editable": True}}
    files = {"__editable___own_w.py": ""}
    have("own-w", files=files, requires=["engine-w", "absent-w"], origin={"direct_url": json.dumps(about)})
    with on_path(own):
        importlib.import_module("own_w")
        assert planned((), local=["own_w"]).requirements == ["engine-w==1.5"]
        assert not planned(()).requirements


# what is not on an index as it is here


def test_a_local_version_is_had_as_its_public_one_and_says_so(have: Any) -> None:
    have("torch", "2.9.0+cpu", files={"torch_x.py": ""})
    plan = planned({"torch_x"})
    assert plan.requirements == ["torch==2.9.0"]
    assert plan.check == [("torch", "2.9.0")]
    (text,) = plan.warnings
    assert "torch 2.9.0+cpu is a local build" in text
    assert "download.pytorch.org" in text


@pytest.mark.parametrize(
    ("name", "metadata", "system"),
    [
        ("pywin32", "", "Windows"),
        ("pyobjc-core", "", "macOS"),
        ("winonly-x", "Classifier: Operating System :: Microsoft :: Windows\n", "Windows"),
        ("maconly-x", "Classifier: Operating System :: MacOS :: MacOS X\n", "macOS"),
    ],
)
def test_what_is_for_another_system_is_named_unless_a_marker_keeps_it_there(
    have: Any, name: str, metadata: str, system: str
) -> None:
    have(name, files={"elsewhere_x.py": ""}, metadata=metadata)
    with pytest.raises(RequirementsError, match=f"{name} 1.0 .*elsewhere_x.* is for {system}, nodes are Linux"):
        planned({"elsewhere_x"})
    have("portable-x", requires=[f"{name}; sys_platform != 'linux'"])
    assert planned({"elsewhere_x", "portable_x"}).requirements == ["portable-x==1.0"]


def test_a_system_among_others_is_no_reason(have: Any) -> None:
    both = "Classifier: Operating System :: Microsoft :: Windows\nClassifier: Operating System :: POSIX\n"
    have("both-x", metadata=both)
    assert planned({"both_x"}).requirements == ["both-x==1.0"]


def test_packages_of_conda_are_pinned_and_named_when_the_resolver_does_not_find_them(have: Any) -> None:
    at_its_builder = '{"url": "file:///croot/lab-x_1", "dir_info": {}}'
    have("lab-x", "1.7", origin={"INSTALLER": "conda\n", "direct_url": at_its_builder})
    plan = planned({"lab_x"})
    assert plan.requirements == ["lab-x==1.7"]
    packs = packages_for(BatchConfig(requirements="auto"), "azure", print)
    assert packs is not None
    environment = packs.environment(Reached(third_party=("lab_x",)), None)
    assert environment is not None
    assert "lab-x 1.7 was installed by conda" in str(environment.explained(RequirementsError("", kind="resolution")))
    assert "conda" not in str(environment.explained(RequirementsError("", kind="disk")))
    have("graph-tool", origin={"INSTALLER": "conda"})
    with pytest.raises(RequirementsError, match=r"graph-tool .* is a package of conda alone"):
        planned({"graph_tool"})


def test_a_pure_package_from_a_repository_travels_as_the_same_wheel_each_time(have: Any, site: Path) -> None:
    text = {"from_git_x/__init__.py": "VERSION = 'git'\n", "from_git_x/data.txt": "data"}
    have("from-git-x", "0.3.dev1+gabc", files=text, scripts={"tool-x": "from_git_x:main"}, origin={"direct_url": GIT})
    plan = planned({"from_git_x"})
    ((name, data),) = plan.wheels.items()
    assert (name, plan.requirements, plan.check) == ("from_git_x-0.3.dev1+gabc-py3-none-any.whl", [], None)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        about = "from_git_x-0.3.dev1+gabc.dist-info"
        assert set(archive.namelist()) == {
            *text,
            *(f"{about}/{file}" for file in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")),
        }
    assert planned({"from_git_x"}).wheels == plan.wheels
    assert planned({"from_git_x"}, here=True).check == [("from-git-x", "0.3.dev1")]  # this interpreter has it


def test_extras_of_a_package_that_travels_as_a_wheel_are_asked_for(have: Any, tmp_path: Path) -> None:
    own = project(tmp_path / "own", "own-y")
    have("extra-y", "2.5")
    more = "Provides-Extra: plot\nRequires-Dist: extra-y; extra == 'plot'\n"
    have("shipped-y", files={"shipped_y/__init__.py": ""}, metadata=more, origin={"direct_url": GIT})
    about = {"url": own.as_uri(), "dir_info": {"editable": True}}
    have(
        "own-y",
        files={"__editable___own_y.py": ""},
        requires=["shipped-y[plot]"],
        origin={"direct_url": json.dumps(about)},
    )
    with on_path(own):
        importlib.import_module("own_y")
        plan = planned((), local=["own_y"])
    assert (plan.requirements, plan.constraints) == (["shipped-y[plot]"], ["extra-y==2.5"])
    assert list(plan.wheels) == ["shipped_y-1.0-py3-none-any.whl"]


def test_a_compiled_package_from_a_repository_is_refused_without_its_password(have: Any) -> None:
    have("fast-git-x", files={"fast_git_x/__init__.py": "", "fast_git_x/core.so": ""}, origin={"direct_url": GIT})
    with pytest.raises(RequirementsError, match=r"fast-git-x 1\.0 was installed from git .*compiled code") as caught:
        planned({"fast_git_x"})
    assert "hush" not in str(caught.value)
    assert planned({"fast_git_x"}, "fast-git-x").requirements == ["fast-git-x"]  # asked for by name


def test_modules_of_ones_own_that_are_compiled_for_another_system_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "native_y"
    folder.mkdir()
    here = folder / "core_y.cpython-311-x86_64-linux-gnu.so"
    for name in ("__init__.py", "both_y.pyd", "both_y.abi3.so", "core_y.cpython-311-darwin.so", here.name):
        (folder / name).write_text("")
    with on_path(tmp_path):
        packages.refuse_foreign(["native_y"])
        here.unlink()
        with pytest.raises(RequirementsError, match=r"core_y.*darwin\.so is compiled for macOS, nodes are Linux"):
            packages.refuse_foreign(["native_y"])


@pytest.mark.slow
def test_a_project_of_ones_own_is_built_by_its_backend_the_same_each_time(tmp_path: Path) -> None:
    own = project(tmp_path / "own", "own-y", "0.5")
    first = planned((), f"{own}")
    ((name, data),) = first.wheels.items()
    assert name == "own_y-0.5-py3-none-any.whl"
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.read("own_y.py") == b"VERSION = '0.5'\n"
    os.utime(own / "own_y.py", (2e9, 2e9))
    assert planned((), f"{own}").wheels == first.wheels
    (own / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nowhere'\n")
    with pytest.raises(RequirementsError, match=f"a wheel of {own} cannot be built"):
        planned((), f"{own}")


def test_a_wheel_for_another_system_is_refused(tmp_path: Path) -> None:
    there = wheel(tmp_path, "there-x", tag="cp311-cp311-win_amd64")
    with pytest.raises(RequirementsError, match="is for win_amd64, nodes are Linux"):
        planned((), str(there))
    fits = wheel(tmp_path, "fits-x", tag="cp311-cp311-manylinux_2_17_x86_64")
    assert planned((), str(fits)).wheels == {fits.name: fits.read_bytes()}


# what is sent


def test_the_spec_names_everything_by_hash_and_holds_no_secret(have: Any, tmp_path: Path) -> None:
    have("pure-z", "1.2")
    bundle = tmp_path / "ca.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n" + "x" * 200_000)
    config = BatchConfig(
        requirements=["auto"],
        pip_options=["--pre --index-url https://me:hush@example.org/simple", "--find-links", "/some where"],
        proxy="http://me:hush@proxy:1",
        ca_bundle=str(bundle),
    )
    packs = packages_for(config, "azure", print)
    assert packs is not None
    environment = packs.environment(Reached(third_party=("pure_z",)), None)
    assert environment is not None
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in environment.blobs.items())
    assert not any(b"hush" in data for data in environment.blobs.values())
    spec = json.loads(environment.blobs[environment.digest])
    assert spec["requirements"] == ["pure-z==1.2"]
    ((pip_name, pip_hash),) = spec["installer"].items()
    assert environment.blobs[pip_hash] == installer()[pip_name]
    told = json.loads(packs.settings[names.ENV_PIP])
    assert told == {
        "options": ["--pre", "--index-url", "https://me:hush@example.org/simple", "--find-links", "/some where"],
        "proxy": "http://me:hush@proxy:1",
        "ca": hashlib.sha256(bundle.read_bytes()).hexdigest(),
    }
    assert environment.blobs[told["ca"]] == bundle.read_bytes()
    assert "hush" not in repr(config)


def test_calls_share_environments_that_have_served_and_none_waits_for_what_another_cannot_have(have: Any) -> None:
    for name in ("one-a", "two-a", "three-a", "elsewhere-a"):
        have(name, metadata="Classifier: Operating System :: Microsoft\n" if name == "elsewhere-a" else "")
    packs = packages_for(BatchConfig(), "azure", print)
    assert packs is not None

    def lines(call: str, *modules: str, served: bool = False) -> str:
        environment = packs.environment(Reached(third_party=modules), call)
        assert environment is not None
        environment.proven |= served
        found = json.loads(environment.blobs[environment.digest])["requirements"]
        return " ".join(line.removesuffix("-a==1.0") for line in found)

    assert packs.environment(Reached(), "first") is None
    assert lines("first", "one_a") == "one"
    assert lines("first", "two_a") == "one two"  # a chunk of the same call
    assert lines("first", "one_a") == "one two"
    assert lines("second", "two_a") == "two"  # the first's may turn out not to be found
    with pytest.raises(RequirementsError, match="elsewhere-a"):
        lines("third", "elsewhere_a")
    assert lines("fourth", "one_a", served=True) == "one"
    assert lines("fifth", "two_a", served=True) == "one two"
    assert lines("sixth", "one_a") == "one"
    assert lines("seventh", "two_a") == "one two"
    assert lines("eighth", "two_a", "three_a") == "one three two"
    assert packs.environment(Reached(), "ninth") is None


def test_metadata_that_cannot_be_read_fails_the_calls_that_need_it(have: Any, site: Path) -> None:
    for name in ("sound-b", "spoilt-b"):
        have(name)
    (site / "spoilt_b-1.0.dist-info" / "METADATA").unlink()
    packs = packages_for(BatchConfig(), "azure", print)
    assert packs is not None
    with pytest.raises(RequirementsError, match="cannot be found out here"):
        packs.environment(Reached(third_party=("spoilt_b",)), None)
    assert packs.environment(Reached(third_party=("sound_b",)), None) is not None


# with workers


class Bare:
    """Nodes whose interpreter has nothing, this machine with some packages, and an index of them."""

    def __init__(self, folder: Path) -> None:
        self.index = folder / "index"
        self.site = folder / "site-packages"
        self.python = Interpreter(folder / "bare").python
        for name, files in {"tiny-n": None, "tinier-n": None, "unpublished-n": None}.items():
            installed(self.site, wheel(self.index, name, "1.5", files))
        wheel(self.index, "tiny-n", "1.6")
        (self.index / "unpublished_n-1.5-py3-none-any.whl").unlink()

    def executor(self, **fields: Any) -> BatchExecutor:
        given = {"pip_options": options(self.index), "python": self.python, "echo": False, **fields}
        return BatchExecutor(max_workers=2, **given)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    made = Bare(tmp_path_factory.mktemp("bare"))
    with on_path(made.site):
        yield made


@pytest.fixture
def fixed_pool() -> Iterator[Account]:
    with service() as account:
        account.fixed_pool()
        yield account


@pytest.mark.slow
@pytest.mark.here
def test_on_an_account_calls_get_what_they_import_and_those_without_packages_wait_for_none(
    bare: Bare, fixed_pool: Account
) -> None:
    def published(number: int) -> tuple[int, str, bool]:
        import os

        import tiny_n  # type: ignore[import-not-found]

        return number, tiny_n.VERSION, "environments" in os.path.realpath(tiny_n.__file__)

    account: dict[str, Any] = {**fixed_pool.settings, "pool_id": "fixed", "python": bare.python}
    del account["requirements"]  # auto is the default there
    with bare.executor(**account) as executor:
        assert list(executor.map(published, range(3))) == [(n, "1.5", True) for n in range(3)]
        assert executor.submit(len, "none at all").result() == 11


@pytest.mark.here
def test_workers_get_what_is_found_and_asked_for_and_what_is_nowhere_fails_once(bare: Bare, tmp_path: Path) -> None:
    own = project(tmp_path / "own", "own-n", "0.7")
    (tmp_path / "requirements.txt").write_text(f"--no-index\n-f {bare.index}\n-e {own}\ntinier-n<2\nbatchexec\n")

    def look() -> tuple[str, str, str]:
        import own_n  # type: ignore[import-not-found]
        import tinier_n  # type: ignore[import-not-found]
        import tiny_n  # of which the index has a later version, too

        return own_n.VERSION, tinier_n.VERSION, tiny_n.VERSION

    def unpublished(number: int) -> int:
        import unpublished_n  # type: ignore[import-not-found]

        return len([number, unpublished_n])

    wanted = ["auto", str(tmp_path / "requirements.txt")]
    with bare.executor(requirements=wanted, pip_options=()) as executor:
        assert executor.submit(look).result(120) == ("0.7", "1.5", "1.5")
        futures = [executor.submit(unpublished, number) for number in range(30)]
        errors = [future.exception(120) for future in futures]
        assert {type(error) for error in errors} == {RequirementsError}
        assert all(error.kind == "resolution" for error in errors)  # type: ignore[union-attr]
        assert "unpublished-n==1.5" in str(errors[0])
        assert "nothing was run" in str(errors[0])
        again = executor.submit(unpublished, 1).exception(120)
        assert str(again) == str(errors[0])  # without another task
        assert executor.submit(look).result(120) == ("0.7", "1.5", "1.5")


@pytest.mark.here
def test_what_cannot_be_had_is_told_before_a_task_is_made(bare: Bare, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("tiny-n\nti ny\n")
    with bare.executor(requirements=str(tmp_path / "requirements.txt")) as executor:
        future = executor.submit(len, "x")
        assert "line 2: 'ti ny' is not a requirement" in str(future.exception(120))
        assert isinstance(future.exception(), RequirementsError)
        assert future.task_id is None


@pytest.mark.here
def test_a_module_that_could_not_be_seen_is_named_with_its_package(bare: Bare) -> None:
    def by_name(name: str) -> object:
        import importlib

        return importlib.import_module(name)

    def as_an_option(name: str) -> object:
        try:
            return by_name(name)
        except ImportError as error:
            raise ImportError("Missing optional dependency 'tiny'. Use pip or conda to install tiny.") from error

    with bare.executor() as executor:  # on this machine nothing is installed unless asked for
        optional = executor.submit(as_an_option, "tiny_n").exception(120)
        assert type(optional) is ImportError
        assert 'add "tiny-n" to requirements=, as in requirements=["auto", "tiny-n"]' in str(optional.__cause__)
        missing = executor.submit(by_name, "tiny_n").exception(120)
        assert isinstance(missing, ModuleNotFoundError)
        assert 'requirements=["auto", "tiny-n"]' in str(missing.__cause__)
        nowhere = executor.submit(by_name, "nowhere_n").exception(120)
        assert "requirements=" not in str(nowhere.__cause__)  # type: ignore[union-attr]
