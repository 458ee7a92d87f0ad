"""BatchConfig: every setting of an executor, from keywords, environment and TOML, validated in one place."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import math
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from batchexec.errors import ConfigError

__all__ = ["BatchConfig", "markdown_table", "vcpus"]

_DEFAULT, _FILE, _ENVIRONMENT, _CONFIG, _KEYWORD = range(5)  # a higher level wins
_BATCH = ("batch_account", "batch_endpoint", "batch_key")
_STORAGE = ("storage_account", "storage_key", "storage_connection_string", "blob_endpoint")
_FOREIGN = ("BATCHEXEC_EMULATOR",)  # prefix of the emulator's own variables
_OFTEN_MEANT = {
    "low_priority": "spot",
    "account": "batch_account",
    "key": "batch_key",
    "endpoint": "batch_endpoint",
    "nodes": "max_nodes",
    "pool": "pool_id",
    "connection_string": "storage_connection_string",
}


# -------------------------------- checks: a valid value, or what is expected


def _like(pattern: str, expected: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return check


def _between(low: int, high: float = math.inf) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"{low} or more" if high == math.inf else f"{low} to {high}")
        return value

    return check


def _above_zero(high: float = math.inf) -> Callable[[float], float]:
    def check(value: float) -> float:
        if not 0 < value <= high:
            raise ValueError("more than 0" + ("" if high == math.inf else f", at most {high:g}"))
        return value

    return check


def _place(value: str) -> str:
    return _like("auto|local|azure", "'auto', 'local' or 'azure'")(value.lower())


def _url(value: str) -> str:
    url = (value if "://" in value else f"https://{value}").rstrip("/")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that does not close
        valid = False
    if not valid or re.search(r"\s", url):
        raise ValueError("an https URL")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("a URL without query, SAS or user name")
    return url


def _key(value: str) -> str:
    try:
        decoded = base64.b64decode(value, validate=True)
    except ValueError:
        decoded = b""
    if not decoded:
        raise ValueError("an account key in base64")
    return value


def _slashless(value: str) -> str:
    return _like(r"(?!.*//)[^?#\\\s]{0,256}", "a blob name prefix without '?', '#', blanks or backslashes")(
        value.strip("/")
    )


def _variables(value: Mapping[str, str]) -> Mapping[str, str]:
    for name, text in value.items():
        if not re.fullmatch(r"[^=\s\0]+", name) or name.upper().startswith("AZ_BATCH_"):
            raise ValueError("names without '=', blanks or the service's own prefix AZ_BATCH_")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError("a text for every name")
    return value


_account_name = _like("[a-z0-9]{3,24}", "an account name: 3 to 24 lower case letters and digits")


def _connection_parts(text: str) -> dict[str, str]:
    """Account, key and blob endpoint of a storage connection string, by the names of our fields."""
    parts = {name.strip().lower(): value.strip() for name, _, value in (p.partition("=") for p in text.split(";"))}
    if parts.get("usedevelopmentstorage", "").lower() == "true":  # Azurite's documented, public account
        name = "devstoreaccount1"
        key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        return {
            "storage_account": name,
            "storage_key": key,
            "blob_endpoint": f"http://127.0.0.1:10000/{name}",
        }
    name, key = parts.get("accountname", ""), parts.get("accountkey", "")
    if not name or not key:
        raise ValueError("a connection string with AccountName and AccountKey (one with a SAS cannot serve)")
    protocol = parts.get("defaultendpointsprotocol") or "https"
    suffix = parts.get("endpointsuffix") or "core.windows.net"
    return {
        "storage_account": _account_name(name),
        "storage_key": _key(key),
        "blob_endpoint": _url(parts.get("blobendpoint") or f"{protocol}://{name}.blob.{suffix}"),
    }


def _connection_string(value: str) -> str:
    _connection_parts(value)
    return value


def _setting(default: Any, text: str, environ: str = "", *, secret: bool = False, check: Any = None) -> Any:
    """One row of the table: default, meaning, environment names besides BATCHEXEC_<FIELD>, and its check."""
    meta = {"help": text, "environ": environ.split(), "secret": secret, "check": check}
    if isinstance(default, Mapping):
        return field(default_factory=lambda: MappingProxyType(default), hash=False, metadata=meta)
    return field(default=default, metadata=meta)


class _Origin(NamedTuple):
    level: int
    source: str
    derived: bool = False


class _Given(NamedTuple):
    value: Any
    origin: _Origin


_UNSET = _Origin(_DEFAULT, "default")


class _Secret(str):
    """A str that a repr, and so a traceback with locals or a logged dict, does not give away."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


# -------------------------------- the table


@dataclass(frozen=True, kw_only=True, repr=False)
class BatchConfig:
    """All settings of an executor: validated, unchangeable, each knowing where it came from.

        config = BatchConfig.load(max_nodes=8, vm_size="Standard_D8s_v5")
        config.origin("batch_account")        # 'environment AZURE_BATCH_ACCOUNT'

    `BatchConfig(...)` takes keywords only and reads nothing else; `BatchConfig.load(...)`, which the executor
    calls, adds the environment and the nearest `batchexec.toml`. None means "not given" for every field.
    All mistakes are reported together in one `ConfigError`.
    """

    where: Literal["auto", "local", "azure"] = _setting(
        "auto", "Where the work runs; `auto`: on Azure when an account is configured, else here", check=_place
    )
    profile: str | None = _setting(None, "The table `[profile.NAME]` to lay over the TOML file's top level")
    batch_account: str | None = _setting(
        None,
        "Name of the Batch account; read from `batch_endpoint` when that holds it",
        "AZURE_BATCH_ACCOUNT BATCH_ACCOUNT_NAME",
        check=_account_name,
    )
    batch_endpoint: str | None = _setting(
        None,
        "URL of the Batch account, such as `https://NAME.REGION.batch.azure.com`",
        "AZURE_BATCH_ENDPOINT BATCH_ACCOUNT_ENDPOINT BATCH_ACCOUNT_URL BATCH_ENDPOINT BATCH_URL",
        check=_url,
    )
    batch_key: str | None = _setting(
        None,
        "Key of the Batch account (base64); else a token of `credential` or `DefaultAzureCredential`",
        "AZURE_BATCH_ACCESS_KEY BATCH_ACCOUNT_KEY BATCH_KEY",
        secret=True,
        check=_key,
    )
    storage_account: str | None = _setting(
        None,
        "Name of the storage account that holds arguments, results and logs",
        "AZURE_STORAGE_ACCOUNT STORAGE_ACCOUNT_NAME",
        check=_account_name,
    )
    storage_key: str | None = _setting(
        None,
        "Key of the storage account (base64); without one, a token",
        "AZURE_STORAGE_KEY STORAGE_ACCOUNT_KEY",
        secret=True,
        check=_key,
    )
    storage_connection_string: str | None = _setting(
        None,
        "Storage account, key and blob endpoint in one text",
        "AZURE_STORAGE_CONNECTION_STRING STORAGE_CONNECTION_STRING STORAGE_ACCOUNT_CONNECTION_STRING",
        secret=True,
        check=_connection_string,
    )
    blob_endpoint: str | None = _setting(
        None, "URL of the blob service; default `https://<storage_account>.blob.core.windows.net`", check=_url
    )
    credential: Any = _setting(  # noqa: RUF009 (it makes a dataclass field)
        None, "A `TokenCredential` object, used where no key is given; keyword only", secret=True
    )
    container: str | None = _setting(
        None,
        "An existing container to keep everything in; default: one new container per job",
        check=_like(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*", "a container name"),
    )
    prefix: str = _setting(
        "", "Prefix of all blob names inside `container`; slashes at its ends are dropped", check=_slashless
    )
    pool_id: str | None = _setting(
        None,
        "The pool to use; default: a name made of user, image, size, slots and OS",
        check=_like(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, '-' and '_'"),
    )
    create_pool: bool = _setting(True, "Create the pool when it does not exist")
    vm_size: str = _setting("Standard_D4s_v5", "VM size of a node")
    slots: int | None = _setting(
        None,
        "Task slots per node, 1 to 256 and at most 4 per vCPU; default: the size's vCPUs",
        check=_between(1, 256),
    )
    max_nodes: int = _setting(4, "Most nodes the pool may grow to", check=_between(1))
    spot: bool = _setting(False, "Use spot (low-priority) nodes: cheaper, may be taken away")
    idle_minutes: int = _setting(10, "Minutes without work after which the nodes go", check=_between(1))
    image: str | None = _setting(
        None,
        "Container image of the nodes; default on Azure `python:<minor of this Python>-slim`",
        check=_like(r"\S+", "a container image without blanks"),
    )
    os_image: str = _setting(
        "microsoft-dsvm:ubuntu-hpc:2404:latest",
        "OS image of the nodes, `publisher:offer:sku:version`",
        check=_like(r"[^:\s]+(:[^:\s]+){3}", "publisher:offer:sku:version"),
    )
    node_agent_sku: str = _setting(
        "batch.node.ubuntu 24.04", "Batch node agent for `os_image`; read from it when that is an Ubuntu"
    )
    subnet_id: str | None = _setting(
        None,
        "ARM id of the subnet to put the nodes into",
        check=_like(
            r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/[^/]+/virtualNetworks/[^/]+/subnets/[^/]+",
            "/subscriptions/.../virtualNetworks/NAME/subnets/NAME",
        ),
    )
    public_ip: bool = _setting(True, "Give the nodes public IP addresses")
    pool_options: Mapping[str, Any] = _setting({}, "Merged into the body that creates the pool (REST names)")
    python: str | None = _setting(
        None, "Python on the nodes, path or name; default: `python3` in containers, locally this very one"
    )
    wall_clock_hours: float = _setting(
        24.0, "Hours until the job ends, extended while the client lives; up to 168", check=_above_zero(168)
    )
    retries: int = _setting(1, "Times the service runs a crashed chunk again", check=_between(0))
    timeout: float | None = _setting(None, "Seconds a task may run; default: no limit", check=_above_zero())
    seed: int | None = _setting(None, "Seed of the tasks' random state", check=_between(0))
    echo: bool | None = _setting(None, "Show what the tasks print")
    progress: bool | None = _setting(None, "Show a progress line; default: on a terminal")
    source_limit_mb: float = _setting(
        100.0, "Most megabytes of your own modules and files to ship", check=_above_zero()
    )
    env: Mapping[str, str] = _setting({}, "Environment variables of the tasks", check=_variables)
    connect_timeout: float = _setting(30.0, "Seconds until the account must have answered first", check=_above_zero())
    job_prefix: str = _setting(
        "batchexec",
        "Beginning of the names of jobs and containers",
        check=_like(r"(?=.{1,32}\Z)[a-z0-9]+(-[a-z0-9]+)*", "1 to 32 lower case letters, digits, single '-'"),
    )

    _origins: Mapping[str, _Origin] = field(init=False, compare=False)
    _complete: bool = field(init=False, compare=False)  # loaded: the environment was read, once

    if not TYPE_CHECKING:  # type checkers see the constructor that the table above generates

        def __init__(self, **fields: Any) -> None:
            given: dict[str, _Given] = {}
            problems = _layer(given, fields, _Origin(_KEYWORD, "keyword"))
            self._settle(given, problems, complete=False)

    @classmethod
    def load(
        cls,
        config: BatchConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        /,
        *,
        environ: Mapping[str, str] | None = None,
        start_dir: str | os.PathLike[str] | None = None,
        **fields: Any,
    ) -> BatchConfig:
        """Settings from keywords, else environment, else TOML, else defaults; ConfigError lists all mistakes.

        `config`: another BatchConfig or a mapping, whose values act as keywords below the explicit ones; or
        the path of a TOML file to read in place of the nearest one from `start_dir` (default: here) upwards.
        A config that was itself loaded is complete: nothing is read again unless `profile` names another one.
        """
        given: dict[str, _Given] = {}
        problems = _layer(given, fields, _Origin(_KEYWORD, "keyword"))
        complete = False
        if isinstance(config, BatchConfig):
            switched = "profile" in given and given["profile"].value != config.profile
            complete = config._complete and not switched
            for name, origin in config._origins.items():
                if not origin.derived and not (switched and origin.level == _FILE):
                    origin = origin._replace(level=min(origin.level, _CONFIG))
                    given.setdefault(name, _Given(getattr(config, name), origin))
        elif config is not None and not isinstance(config, (str, os.PathLike, Mapping)):
            raise TypeError(f"config: expected BatchConfig, mapping or path, got {type(config).__name__}")
        elif isinstance(config, Mapping):
            problems += _layer(given, config, _Origin(_CONFIG, "mapping"))
        if not complete:
            problems += _layer_environment(given, os.environ if environ is None else environ)
            path = Path(config) if isinstance(config, (str, os.PathLike)) else None
            problems += _layer_file(given, path, Path(start_dir or os.curdir))
        self = cls.__new__(cls)
        self._settle(given, problems, complete=True)
        return self

    def _settle(self, given: dict[str, _Given], problems: list[str], *, complete: bool) -> None:
        """Convert, check and derive; the only place where a config's attributes are set."""
        local = _is_local({name: g.origin for name, g in given.items()}, given.get("where"))
        account_problems: list[str] = []
        for name, (value, origin) in list(given.items()):
            try:
                given[name] = _Given(_converted(name, value, origin), origin)
            except ValueError as expected:
                del given[name]
                is_secret = _SETTINGS[name].metadata["secret"]
                got = "the value is not shown" if is_secret else f"got {_quoted(value)}"
                (account_problems if name in _BATCH + _STORAGE else problems).append(
                    f"{name}: expected {expected}, {got} ({origin.source})"
                )
        account_problems += _derive_account(given)
        problems += _derive_nodes(given) + ([] if local else account_problems)
        if problems:
            raise ConfigError(problems)
        for name, row in _SETTINGS.items():
            value = given[name].value if name in given else _default(row)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_origins", MappingProxyType({name: g.origin for name, g in given.items()}))
        object.__setattr__(self, "_complete", complete)

    def origin(self, name: str) -> str:
        """Where a field's value came from: "default", "keyword", "environment NAME", or file and table."""
        if name not in _SETTINGS:
            raise ConfigError(_unknown("field", name, _SETTINGS))
        return self._origins.get(name, _UNSET).source

    @property
    def resolved_where(self) -> Literal["local", "azure"]:
        """Where the work will run. ConfigError when an account is half configured, naming what is missing."""
        if _is_local(self._origins, _Given(self.where, _UNSET)):
            return "local"
        missing = _missing(self)
        if missing:
            raise ConfigError(missing)
        return "azure"

    @property
    def slots_per_node(self) -> int:
        """Task slots of one node on Azure: `slots`, else the vCPUs of `vm_size`."""
        return self.slots if self.slots is not None else vcpus(self.vm_size)

    def describe(self) -> dict[str, Any]:
        """All fields and their values, secrets masked: what may be printed, logged and stored."""
        return {name: self._shown(name) for name in _SETTINGS}

    def _shown(self, name: str) -> Any:
        value = getattr(self, name)
        if isinstance(value, Mapping):  # variables and pool bodies carry passwords too
            return dict.fromkeys(value, "***")
        return "***" if _SETTINGS[name].metadata["secret"] and value is not None else value

    def __repr__(self) -> str:
        return f"BatchConfig({', '.join(f'{name}={self._shown(name)!r}' for name in self._origins)})"

    def __copy__(self) -> BatchConfig:
        return self

    def __deepcopy__(self, memo: MutableMapping[int, Any]) -> BatchConfig:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        held = [name for name, row in _SETTINGS.items() if row.metadata["secret"] and getattr(self, name)]
        if held:
            names = ", ".join(held)
            raise TypeError(f"a BatchConfig that holds {names} cannot be pickled: secrets do not travel")
        values = {name: getattr(self, name) for name in self._origins}
        plain = {name: dict(v) if isinstance(v, Mapping) else v for name, v in values.items()}
        return _restored, (plain, dict(self._origins), self._complete)


def _restored(values: dict[str, Any], origins: dict[str, _Origin], complete: bool) -> BatchConfig:
    config = BatchConfig.__new__(BatchConfig)
    config._settle({name: _Given(v, origins[name]) for name, v in values.items()}, [], complete=complete)
    return config


_SETTINGS = {f.name: f for f in dataclasses.fields(BatchConfig) if f.init}
_VARIABLES = {
    name: (f"BATCHEXEC_{name.upper()}", *row.metadata["environ"])
    for name, row in _SETTINGS.items()
    if name != "credential"  # an object
}


def _default(row: dataclasses.Field[Any]) -> Any:
    return row.default if row.default_factory is dataclasses.MISSING else row.default_factory()


def _kind(name: str) -> str:
    return str(_SETTINGS[name].type).removesuffix(" | None")


# -------------------------------- layers


def _layer(given: dict[str, _Given], values: Mapping[str, Any], origin: _Origin) -> list[str]:
    """Add what no higher layer gave; return what was wrong."""
    problems = []
    for name, value in values.items():
        if name not in _SETTINGS:
            problems.append(_unknown("field", str(name), _SETTINGS) + f" ({origin.source})")
        elif value is not None:
            given.setdefault(name, _Given(value, origin))
    return problems


def _layer_environment(given: dict[str, _Given], environ: Mapping[str, str]) -> list[str]:
    present = {name: text for name, raw in environ.items() if (text := _unquoted(raw))}
    for name, variables in _VARIABLES.items():
        for variable in variables:
            if variable in present:
                origin = _Origin(_ENVIRONMENT, f"environment {variable}")
                given.setdefault(name, _Given(present[variable], origin))
                break
    ours = {variables[0] for variables in _VARIABLES.values()}
    return [
        _unknown("environment variable", name, ours)
        for name in present
        if name.startswith("BATCHEXEC_") and not name.startswith(_FOREIGN) and name not in ours
    ]


def _layer_file(given: dict[str, _Given], path: Path | None, start: Path) -> list[str]:
    profile = given["profile"].value if "profile" in given else None
    try:
        found = _read(path) if path is not None else _nearest(start.resolve())
    except (OSError, ValueError) as error:
        return [str(error)]
    if path is not None and found is None:
        return [f"{path} has no table [tool.batchexec]"]
    if found is None:
        where = f"no batchexec.toml or [tool.batchexec] in {start.resolve()} or above"
        return [f"unknown profile {_quoted(profile)}: {where}"] if profile else []
    file, table, top = found
    profiles = top.get("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        return [f"profile: expected tables [{table + '.' if table else ''}profile.NAME] ({file})"]
    problems: list[str] = []
    layers = [(table or "default", {name: value for name, value in top.items() if name != "profile"})]
    if isinstance(profile, str):
        if profile in profiles:
            layers.insert(0, (f"{table + '.' if table else ''}profile.{profile}", profiles[profile]))
        else:
            known = ", ".join(sorted(profiles)) or "none"
            problems.append(f"unknown profile {_quoted(profile)}: known are {known} ({file})")
    for label, values in layers:
        for name in ("credential", "profile"):
            if name in values:
                problems.append(f"{name}: cannot be set here ({file}:[{label}])")
        usable = {name: value for name, value in values.items() if name not in ("credential", "profile")}
        problems += _layer(given, usable, _Origin(_FILE, f"{file.name}:[{label}] ({file})"))
    return problems


def _nearest(directory: Path) -> tuple[Path, str, dict[str, Any]] | None:
    """The settings of the first directory from here up, to the home directory or the root, that holds any."""
    home = Path(os.path.expanduser("~")).resolve()
    for place in (directory, *directory.parents):
        for name in ("batchexec.toml", "pyproject.toml"):
            if (place / name).is_file() and (found := _read(place / name)):
                return found
        if place == home:
            break
    return None


def _read(path: Path) -> tuple[Path, str, dict[str, Any]] | None:
    """File, table name and settings; None for a pyproject.toml that does not speak of us."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    shared = path.name == "pyproject.toml"
    if shared and "batchexec" not in text:  # somebody else's file, perhaps a broken one
        return None
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        document: dict[str, Any] = toml.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    if not shared:
        return path, "", document
    tools = document.get("tool")
    table = tools.get("batchexec") if isinstance(tools, dict) else None
    return (path, "tool.batchexec", table) if isinstance(table, dict) else None


# -------------------------------- values


def _converted(name: str, value: Any, origin: _Origin) -> Any:
    """The value in its field's type and form; ValueError says what is expected."""
    kind = _kind(name)
    if kind == "Any":
        return value
    if isinstance(value, str) and origin.level in (_FILE, _ENVIRONMENT):
        value = _parsed(kind, value)
    row = _SETTINGS[name]
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError("true or false")
    elif kind == "int":
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError("a whole number")
        value = operator.index(value)
    elif kind == "float":
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError("a number")
        value = float(value)
    elif kind.startswith("Mapping"):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError("a mapping of names" + (" (JSON)" if origin.level == _ENVIRONMENT else ""))
        value = MappingProxyType(dict(value))
    else:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(value, str) or (not value.strip() and row.default != ""):
            raise ValueError("a text")
        value = value.strip()
    check = row.metadata["check"]
    if check is not None:
        value = check(value)
    return _Secret(value) if row.metadata["secret"] else value


_WORDS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


def _parsed(kind: str, text: str) -> Any:
    """The text of a variable or a TOML string in the kind asked for; left as it is where it is none."""
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind.startswith("Mapping"):
            return json.loads(text)
    except ValueError:
        return text
    return _WORDS.get(text.strip().lower(), text) if kind == "bool" else text


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _quoted(value: Any) -> str:
    """The value for an error text, but nothing that could be a key or SAS pasted into the wrong field."""
    if not isinstance(value, (str, int, float)):
        return f"a value of type {type(value).__name__}"
    text = repr(value)
    may_be_secret = len(text) > 200 or re.search(r"(?i)sig=|key=|[a-z0-9+/=_%-]{30,}", text)
    return "a text that is not shown" if may_be_secret else text


def _unknown(what: str, name: str, valid: Iterable[str]) -> str:
    import difflib

    names = list(valid)
    meant = _OFTEN_MEANT.get(name) or next(iter(difflib.get_close_matches(name, names, 1)), None)
    hint = f"did you mean {meant!r}?" if meant else f"valid are {', '.join(sorted(names))}"
    return f"unknown {what} {name!r}: {hint}"


# -------------------------------- the account


def _is_local(origins: Mapping[str, _Origin], where: _Given | None) -> bool:
    """True when account settings do not matter: asked for, or none is set that speaks of Batch.

    Storage variables alone are exported on many machines for other tools; those set by keyword, file or
    BATCHEXEC_* are meant for us.
    """
    place = where.value if where else "auto"
    place = place.strip().lower() if isinstance(place, str) else place
    if place in ("local", "azure"):
        return bool(place == "local")

    def meant_for_us(name: str) -> bool:
        origin = origins.get(name, _UNSET)
        ours = origin.level != _ENVIRONMENT or origin.source.startswith("environment BATCHEXEC_")
        return ours and origin.level != _DEFAULT

    return not any(name in origins for name in _BATCH) and not any(
        meant_for_us(name) for name in (*_STORAGE, "credential")
    )


def _derive_account(given: dict[str, _Given]) -> list[str]:
    """Fill in what other settings imply: the parts of a connection string, names in URLs, URLs of names."""
    problems = _unfold_connection_string(given)
    for account, endpoint, host in (
        ("batch_account", "batch_endpoint", r"([a-z0-9]{3,24})\.[a-z0-9-]+(\.\w+)?\.batch\..+"),
        ("storage_account", "blob_endpoint", r"([a-z0-9]{3,24})\.([\w-]+\.)?blob\..+"),
    ):
        url, name = given.get(endpoint), given.get(account)
        if url is None:
            continue
        parts = urlsplit(url.value)
        in_host = re.fullmatch(host, parts.hostname or "")
        in_path = re.fullmatch("/([a-z0-9]{3,24})", parts.path)  # emulators: http://127.0.0.1:10000/NAME
        if name is None and (found := in_host or in_path):
            given[account] = _derived(found[1], endpoint, url)
        elif name is not None and in_host and name.value != in_host[1]:
            problems.append(
                f"{account} {name.value!r} ({name.origin.source}) does not belong to {endpoint} "
                f"{_quoted(url.value)} ({url.origin.source})"
            )
    name = given.get("storage_account")
    if name and "blob_endpoint" not in given:
        url_text = f"https://{name.value}.blob.core.windows.net"
        given["blob_endpoint"] = _derived(url_text, "storage_account", name)
    return problems


def _unfold_connection_string(given: dict[str, _Given]) -> list[str]:
    string, name = given.get("storage_connection_string"), given.get("storage_account")
    if string is None:
        return []
    parts = _connection_parts(string.value)
    if name is not None and name.value != parts["storage_account"]:
        if name.origin.level > string.origin.level:
            del given["storage_connection_string"]  # another account was asked for, more explicitly
            return []
        if name.origin.level == string.origin.level:
            return [
                f"storage_account {name.value!r} ({name.origin.source}) is not the account of "
                f"storage_connection_string ({string.origin.source})"
            ]
    for field_name, value in parts.items():
        present = given.get(field_name)
        if present is None or present.origin.level < string.origin.level:
            value = _Secret(value) if field_name == "storage_key" else value
            given[field_name] = _derived(value, "storage_connection_string", string)
    return []


def _derived(value: str, source_field: str, source: _Given) -> _Given:
    text = f"derived from {source_field} ({source.origin.source})"
    return _Given(value, _Origin(source.origin.level, text, derived=True))


def _missing(config: BatchConfig) -> list[str]:
    """What an account needs and does not have, in the words of `az batch`."""
    storage = (
        "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY "
        "(without the key your Azure login is used)"
    )
    if not any(getattr(config, name) for name in _BATCH + _STORAGE):
        return [
            "no account is configured: set AZURE_BATCH_ACCOUNT, AZURE_BATCH_ENDPOINT and "
            f"AZURE_BATCH_ACCESS_KEY (without the key your Azure login is used), and {storage}; "
            "where='local' runs on this machine"
        ]
    missing = []
    if not config.batch_account:
        missing.append("batch_account is missing: set AZURE_BATCH_ACCOUNT to the name of the Batch account")
    if not config.batch_endpoint:
        missing.append(
            "batch_endpoint is missing: set AZURE_BATCH_ENDPOINT to the account's URL, shown on its page in "
            f"the Azure portal or by `az batch account show --name {config.batch_account or 'NAME'} "
            "--resource-group GROUP --query accountEndpoint`"
        )
    if not config.storage_account or not config.blob_endpoint:
        missing.append(f"storage_account is missing: {storage}")
    return missing


# -------------------------------- the nodes


def _derive_nodes(given: dict[str, _Given]) -> list[str]:
    problems = []
    image, agent = given.get("os_image"), given.get("node_agent_sku")
    if image and agent is None:
        release = re.search(r"(?i)ubuntu.*?(\d\d)[._-]?(04)", image.value)
        if release:
            sku = f"batch.node.ubuntu {release[1]}.{release[2]}"
            given["node_agent_sku"] = _derived(sku, "os_image", image)
        else:
            problems.append(
                f"node_agent_sku: needed for os_image {_quoted(image.value)} ({image.origin.source}): "
                "`az batch pool supported-images list` shows it"
            )
    if "prefix" in given and given["prefix"].value and "container" not in given:
        problems.append(f"prefix: needs container, an existing container ({given['prefix'].origin.source})")
    size = given["vm_size"] if "vm_size" in given else _Given(_SETTINGS["vm_size"].default, _UNSET)
    slots = given.get("slots")
    try:
        most = 4 * vcpus(size.value)
        if slots and slots.value > most:
            got = f"got {slots.value} ({slots.origin.source})"
            problems.append(f"slots: expected at most {most} on {size.value} (4 per vCPU), {got}")
    except ConfigError as error:
        if slots is None:  # a size newer than this table is fine with slots set
            problems.append(f"{error} ({size.origin.source})")
    return problems


# Families named by a running number; all others carry their vCPUs in the name.
_NUMBERED = {
    "a": {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 8: 8, 9: 16, 10: 8, 11: 16},
    "d": {1: 1, 2: 2, 3: 4, 4: 8, 5: 16, 11: 2, 12: 4, 13: 8, 14: 16, 15: 20},
    "g": {1: 2, 2: 4, 3: 8, 4: 16, 5: 32},
}


def vcpus(vm_size: str) -> int:
    """vCPUs of an Azure VM size, read from its name; ConfigError for a name that does not tell.

    A constrained size counts what it has left: Standard_E64-16s_v5 has 16. The form of the names:
    https://learn.microsoft.com/azure/virtual-machines/vm-naming-conventions
    """
    match = re.fullmatch(r"(?:standard|basic)_([a-z]+)(\d+)(?:-(\d+))?[a-z]*((?:_\w+)*)", vm_size.lower())
    count: int | None = None
    if match:
        family, number, constrained, rest = match.groups()
        version = re.search(r"_v(\d+)", rest)
        generation = int(version[1]) if version else 1
        last_numbered = {"a": 1, "d": 2, "ds": 2, "g": 1, "gs": 1}.get(family, 0)
        if constrained:
            count = int(constrained)
        elif generation <= last_numbered:
            count = _NUMBERED[family[0]].get(int(number))
        else:
            count = int(number)
    if not count:
        raise ConfigError(f"vm_size: cannot read the vCPUs from {_quoted(vm_size)}: set slots (tasks a node)")
    return count


def markdown_table() -> str:
    """The table of all settings, as the documentation shows it."""
    lines = ["| Field | Type | Default | Environment | Meaning |", "|---|---|---|---|---|"]
    for name, row in _SETTINGS.items():
        default = _default(row)
        shown = "" if default is None else f"`{dict(default) if isinstance(default, Mapping) else default!r}`"
        variables = _VARIABLES.get(name, ())
        kind = str(row.type).replace("|", "\\|")
        secret = " (secret)" if row.metadata["secret"] else ""
        names = ", ".join(f"`{v}`" for v in variables)
        lines.append(f"| `{name}` | `{kind}` | {shown} | {names} | {row.metadata['help']}{secret} |")
    return "\n".join(lines) + "\n"
