"""BatchConfig: every setting of an executor, from keywords, environment and TOML, validated in one place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ._settings import account, checks, layers, nodes, sizes, table
from ._settings.given import CONFIG, FILE, KEYWORD, UNSET, Given, Origin, Secret
from ._settings.nodes import host_of
from ._settings.sizes import vcpus
from ._settings.table import setting
from ._settings.values import converted
from ._settings.wording import quoted, unknown
from .errors import ConfigError

__all__ = ["BatchConfig", "Secret", "host_of", "markdown_table", "sizes", "vcpus"]


@dataclass(frozen=True, kw_only=True, repr=False)
class BatchConfig:
    """All settings of an executor: validated, unchangeable, each knowing where it came from.

        config = BatchConfig.load(max_nodes=8, vm_size="Standard_D8s_v5")
        config.origin("batch_account")        # 'environment AZURE_BATCH_ACCOUNT'

    `BatchConfig(...)` takes keywords only and reads nothing else; `BatchConfig.load(...)`, which the executor
    calls, adds the environment and the nearest `batchexec.toml`. None means "not given" for every field.
    All mistakes are reported together in one `ConfigError`.
    """

    where: Literal["auto", "local", "azure"] = setting(
        "auto", "Where the work runs; `auto`: on Azure when an account is configured, else here", check=checks.place
    )
    profile: str | None = setting(None, "The table `[profile.NAME]` to lay over the TOML file's top level")
    batch_account: str | None = setting(
        None,
        "Name of the Batch account; read from `batch_endpoint` when that holds it",
        "AZURE_BATCH_ACCOUNT BATCH_ACCOUNT_NAME",
        check=checks.account_name,
    )
    batch_endpoint: str | None = setting(
        None,
        "URL of the Batch account, such as `https://NAME.REGION.batch.azure.com`",
        "AZURE_BATCH_ENDPOINT BATCH_ACCOUNT_ENDPOINT BATCH_ACCOUNT_URL BATCH_ENDPOINT BATCH_URL",
        check=checks.url,
    )
    batch_key: str | None = setting(
        None,
        "Key of the Batch account (base64); else a token of `credential` or `DefaultAzureCredential`",
        "AZURE_BATCH_ACCESS_KEY BATCH_ACCOUNT_KEY BATCH_KEY",
        secret=True,
        check=checks.key,
    )
    storage_account: str | None = setting(
        None,
        "Name of the storage account that holds arguments, results and logs",
        "AZURE_STORAGE_ACCOUNT STORAGE_ACCOUNT_NAME",
        check=checks.account_name,
    )
    storage_key: str | None = setting(
        None,
        "Key of the storage account (base64); without one, a token",
        "AZURE_STORAGE_KEY STORAGE_ACCOUNT_KEY",
        secret=True,
        check=checks.key,
    )
    storage_connection_string: str | None = setting(
        None,
        "Storage account, key and blob endpoint in one text",
        "AZURE_STORAGE_CONNECTION_STRING STORAGE_CONNECTION_STRING STORAGE_ACCOUNT_CONNECTION_STRING",
        secret=True,
        check=checks.connection_string,
    )
    blob_endpoint: str | None = setting(
        None, "URL of the blob service; default `https://<storage_account>.blob.core.windows.net`", check=checks.url
    )
    credential: Any = setting(  # noqa: RUF009 (it makes a dataclass field)
        None, "A `TokenCredential` object, used where no key is given; keyword only", secret=True
    )
    container: str | None = setting(
        None,
        "An existing container to keep everything in; default: one new container per job",
        check=checks.like(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*", "a container name"),
    )
    prefix: str = setting(
        "", "Prefix of all blob names inside `container`; slashes at its ends are dropped", check=checks.slashless
    )
    pool_id: str | None = setting(
        None,
        "The pool to use; default: a name made of user, image, size, slots and OS",
        check=checks.like(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, '-' and '_'"),
    )
    create_pool: bool = setting(True, "Create the pool when it does not exist")
    vm_size: str = setting("Standard_D4s_v5", "VM size of a node")
    slots: int | None = setting(
        None,
        "Task slots per node, 1 to 256 and at most 4 per vCPU; default: the size's GPUs, else its vCPUs",
        check=checks.between(1, 256),
    )
    max_nodes: int = setting(4, "Most nodes the pool may grow to", check=checks.between(1))
    spot: bool = setting(False, "Use spot (low-priority) nodes: cheaper, may be taken away")
    idle_minutes: int = setting(10, "Minutes without work after which the nodes go", check=checks.between(1))
    image: str | None = setting(
        None,
        "Container image of the nodes, on Azure only; default `python:<minor of this Python>-slim`",
        check=checks.like(r"\S+", "a container image without blanks"),
    )
    os_image: str = setting(
        "microsoft-dsvm:ubuntu-hpc:2404:latest",
        "OS image of the nodes, `publisher:offer:sku:version`",
        check=checks.like(r"[^:\s]+(:[^:\s]+){3}", "publisher:offer:sku:version"),
    )
    node_agent_sku: str = setting(
        "batch.node.ubuntu 24.04", "Batch node agent for `os_image`; read from it when that is an Ubuntu"
    )
    registry: str | None = setting(
        None,
        "Server of the registry that `image` comes from; default: read from the image's name",
        check=checks.like(r"[^/\s@]+", "a server such as myregistry.azurecr.io"),
    )
    registry_user: str | None = setting(None, "User of the registry; needs `registry_password_file`")
    registry_password_file: str | None = setting(None, "File that holds the registry's password")
    registry_identity: str | None = setting(
        None,
        "ARM id of the managed identity by which nodes log in to the registry",
        check=checks.like(
            r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.ManagedIdentity/userAssignedIdentities/[^/]+",
            "/subscriptions/.../userAssignedIdentities/NAME",
        ),
    )
    start_command: str | None = setting(None, "Command line that each node runs once as root when it joins the pool")
    subnet_id: str | None = setting(
        None,
        "ARM id of the subnet to put the nodes into",
        check=checks.like(
            r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/[^/]+/virtualNetworks/[^/]+/subnets/[^/]+",
            "/subscriptions/.../virtualNetworks/NAME/subnets/NAME",
        ),
    )
    public_ip: bool = setting(True, "Give the nodes public IP addresses")
    pool_options: Mapping[str, Any] = setting({}, "Merged into the body that creates the pool (REST names)")
    python: str | None = setting(
        None, "Python on the nodes, path or name; default: `python3` in containers, locally this very one"
    )
    wall_clock_hours: float = setting(
        24.0, "Hours until the job ends, extended while the client lives; up to 168", check=checks.above_zero(168)
    )
    retries: int = setting(1, "Times the service runs a crashed chunk again", check=checks.between(0))
    timeout: float | None = setting(None, "Seconds a task may run; default: no limit", check=checks.above_zero())
    seed: int | None = setting(None, "Seed of the tasks' random state", check=checks.between(0))
    echo: bool | None = setting(None, "Show what the tasks print")
    progress: bool | None = setting(None, "Show a progress line; default: on a terminal")
    source_limit_mb: float = setting(
        100.0, "Most megabytes of your own modules and files to ship", check=checks.above_zero()
    )
    env: Mapping[str, str] = setting(
        {},
        "Environment variables of the tasks: values, or names of variables to pass on from here",
        check=checks.variables,
    )
    files: tuple[Any, ...] = setting(
        (),
        "Files, directories and globs to have in the tasks' working directory, at the same relative paths; a mapping "
        "gives others: `{path there: path here}`",
        check=checks.files,
    )
    outputs: tuple[str, ...] = setting(
        (), "Patterns of files that items write and that are brought here, such as `*.png`", check=checks.patterns
    )
    output_dir: Any = setting(  # noqa: RUF009 (it makes a dataclass field)
        "outputs/{item}",
        "Where they are put, `{item}` being the item's number; or a `BlobPath`, to leave them in storage",
        check=checks.output_dir,
    )
    requirements: tuple[str, ...] | None = setting(
        None,
        "Packages of the callables: `auto`, requirement lines, a requirements.txt or pyproject.toml; `none` (keyword: "
        "None) for nodes that have them. Default: `auto` on Azure, `none` here",
        none="none",
        check=checks.requirements,
    )
    pip_options: tuple[str, ...] = setting(
        (),
        "Options of uv and pip on the nodes, such as indexes with their credentials",
        secret=True,
        check=checks.pip_options,
    )
    proxy: str | None = setting(
        None, "URL of the proxy that nodes reach package indexes by", secret=True, check=checks.proxy
    )
    ca_bundle: str | None = setting(
        None, "File of certificate authorities (PEM) that nodes trust beside their own", check=checks.certificates
    )
    cores: int | None = setting(None, "Cores that a task uses; default: those of one slot", check=checks.between(1))
    memory: float | None = setting(
        None, "GiB that a task needs; it takes as many slots as hold them", check=checks.above_zero()
    )
    connect_timeout: float = setting(
        25.0, "Seconds until the account must have answered first", check=checks.above_zero()
    )
    job_prefix: str = setting(
        "batchexec",
        "Beginning of the names of jobs and containers",
        check=checks.like(r"(?=.{1,32}\Z)[a-z0-9]+(-[a-z0-9]+)*", "1 to 32 lower case letters, digits, single '-'"),
    )

    _origins: Mapping[str, Origin] = field(init=False, compare=False)
    _complete: bool = field(init=False, compare=False)  # loaded: the environment was read, once

    if not TYPE_CHECKING:  # type checkers see the constructor that the table above generates

        def __init__(self, **fields: Any) -> None:
            given: dict[str, Given] = {}
            problems = layers.add(given, _SETTINGS, fields, Origin(KEYWORD, "keyword"))
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
        given: dict[str, Given] = {}
        problems = layers.add(given, _SETTINGS, fields, Origin(KEYWORD, "keyword"))
        complete = False
        if isinstance(config, BatchConfig):
            switched = "profile" in given and given["profile"].value != config.profile
            complete = config._complete and not switched
            for name, origin in config._origins.items():
                if not origin.derived and not (switched and origin.level == FILE):
                    origin = origin._replace(level=min(origin.level, CONFIG))
                    given.setdefault(name, Given(getattr(config, name), origin))
        elif config is not None and not isinstance(config, (str, os.PathLike, Mapping)):
            raise TypeError(f"config: expected BatchConfig, mapping or path, got {type(config).__name__}")
        elif isinstance(config, Mapping):
            problems += layers.add(given, _SETTINGS, config, Origin(CONFIG, "mapping"))
        if not complete:
            problems += layers.add_environment(given, _SETTINGS, os.environ if environ is None else environ)
            path = Path(config) if isinstance(config, (str, os.PathLike)) else None
            problems += layers.add_file(given, _SETTINGS, path, Path(start_dir or os.curdir))
        self = cls.__new__(cls)
        self._settle(given, problems, complete=True)
        return self

    def _settle(self, given: dict[str, Given], problems: list[str], *, complete: bool) -> None:
        """Convert, check and derive; the only place where a config's attributes are set."""
        local = account.is_local({name: g.origin for name, g in given.items()}, given.get("where"))
        account_problems: list[str] = []
        for name, (value, origin) in list(given.items()):
            try:
                given[name] = Given(converted(_SETTINGS[name], value, origin), origin)
            except ValueError as expected:
                del given[name]
                is_secret = _SETTINGS[name].metadata["secret"]
                got = "the value is not shown" if is_secret else f"got {quoted(value)}"
                (account_problems if name in account.FIELDS else problems).append(
                    f"{name}: expected {expected}, {got} ({origin.source})"
                )
        account_problems += account.derive(given)
        problems += nodes.derive(given, table.default(_SETTINGS["vm_size"]), local)
        problems += [] if local else account_problems
        if problems:
            raise ConfigError(problems)
        for name, row in _SETTINGS.items():
            value = given[name].value if name in given else table.default(row)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_origins", MappingProxyType({name: g.origin for name, g in given.items()}))
        object.__setattr__(self, "_complete", complete)

    def origin(self, name: str) -> str:
        """Where a field's value came from: "default", "keyword", "environment NAME", or file and table."""
        if name not in _SETTINGS:
            raise ConfigError(unknown("field", name, _SETTINGS))
        return self._origins.get(name, UNSET).source

    @property
    def resolved_where(self) -> Literal["local", "azure"]:
        """Where the work will run. ConfigError when an account is half configured, naming what is missing."""
        if account.is_local(self._origins, Given(self.where, UNSET)):
            return "local"
        missing = account.missing({name: getattr(self, name) for name in account.FIELDS})
        if missing:
            raise ConfigError(missing)
        return "azure"

    @property
    def slots_per_node(self) -> int:
        """Task slots of one node on Azure: `slots`, else the GPUs of `vm_size`, else its vCPUs."""
        return self.slots if self.slots is not None else sizes.slots(self.vm_size)

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


def _restored(values: dict[str, Any], origins: dict[str, Origin], complete: bool) -> BatchConfig:
    config = BatchConfig.__new__(BatchConfig)
    config._settle({name: Given(v, origins[name]) for name, v in values.items()}, [], complete=complete)
    return config


_SETTINGS = {f.name: f for f in dataclasses.fields(BatchConfig) if f.init}


def markdown_table() -> str:
    """The table of all settings, as the documentation shows it."""
    return table.markdown(_SETTINGS)
