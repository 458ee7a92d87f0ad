"""BatchConfig: precedence, environment names, files, profiles, half configurations, secrets, VM sizes."""

from __future__ import annotations

import base64
import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchexec.config import BatchConfig, markdown_table, vcpus
from batchexec.errors import ConfigError

KEY = base64.b64encode(bytes(range(64))).decode()
OTHER_KEY = base64.b64encode(bytes(range(64, 128))).decode()
ENDPOINT = "https://lab.westeurope.batch.azure.com"
CONNECTION = (
    f"DefaultEndpointsProtocol=https;AccountName=files;AccountKey={KEY};EndpointSuffix=core.windows.net"
)
BATCH: dict[str, Any] = {"batch_account": "lab", "batch_endpoint": ENDPOINT, "batch_key": KEY}


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("BATCHEXEC_", "AZURE_", "BATCH_", "STORAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def problems(make: Callable[..., object], *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        make(*args, **kwargs)
    return caught.value.problems


def env(**variables: str) -> BatchConfig:
    return BatchConfig.load(environ=variables)


class TestPrecedence:
    def test_without_anything_every_value_is_its_default(self) -> None:
        config = BatchConfig.load()
        assert (config.max_nodes, config.vm_size, config.idle_minutes) == (4, "Standard_D4s_v5", 10)
        assert {config.origin(f.name) for f in dataclasses.fields(config) if f.init} == {"default"}

    def test_keyword_beats_environment_beats_file_beats_default(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "batchexec.toml"
        file.write_text("max_nodes = 5\nidle_minutes = 5\nretries = 5\n")
        monkeypatch.setenv("BATCHEXEC_MAX_NODES", "6")
        monkeypatch.setenv("BATCHEXEC_IDLE_MINUTES", "6")
        config = BatchConfig.load(max_nodes=7)
        assert (config.max_nodes, config.idle_minutes, config.retries, config.slots) == (7, 6, 5, None)
        assert config.origin("max_nodes") == "keyword"
        assert config.origin("idle_minutes") == "environment BATCHEXEC_IDLE_MINUTES"
        assert config.origin("retries") == f"batchexec.toml:[default] ({file})"
        assert config.origin("slots") == "default"

    def test_values_of_a_config_are_keywords_below_the_explicit_ones(self) -> None:
        base = BatchConfig(max_nodes=2, retries=3)
        config = BatchConfig.load(
            base, environ={"BATCHEXEC_RETRIES": "9", "BATCHEXEC_SEED": "9"}, max_nodes=8
        )
        assert (config.max_nodes, config.retries, config.seed) == (8, 3, 9)
        assert config.origin("retries") == "keyword"

    def test_values_of_a_mapping_are_keywords_below_the_explicit_ones(self) -> None:
        config = BatchConfig.load(
            {"max_nodes": 2, "retries": 3}, environ={"BATCHEXEC_RETRIES": "9"}, max_nodes=8
        )
        assert (config.max_nodes, config.retries, config.origin("retries")) == (8, 3, "mapping")

    def test_none_means_not_given(self) -> None:
        assert BatchConfig.load(environ={"BATCHEXEC_MAX_NODES": "6"}, max_nodes=None).max_nodes == 6

    def test_a_loaded_config_is_complete_and_reads_nothing_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = BatchConfig.load(environ={})
        monkeypatch.setenv("BATCHEXEC_MAX_NODES", "6")
        assert BatchConfig.load(loaded) == loaded
        assert BatchConfig.load(loaded, seed=1).max_nodes == 4

    def test_a_loaded_config_keeps_its_origins(self) -> None:
        again = BatchConfig.load(env(AZURE_BATCH_ACCOUNT="lab"), seed=1)
        assert again.origin("batch_account") == "environment AZURE_BATCH_ACCOUNT"

    def test_the_constructor_reads_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BATCHEXEC_MAX_NODES", "6")
        assert BatchConfig().max_nodes == 4

    def test_a_config_is_frozen_hashable_and_equal_by_value(self) -> None:
        config = BatchConfig(max_nodes=2, env={"A": "1"})
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.max_nodes = 3  # type: ignore[misc]
        with pytest.raises(TypeError):
            config.env["B"] = "2"  # type: ignore[index]
        same = BatchConfig.load({"max_nodes": 2, "env": {"A": "1"}}, environ={})
        assert config == same
        assert hash(config) == hash(same)
        assert config != BatchConfig(max_nodes=2)

    def test_a_later_change_of_the_callers_mapping_changes_nothing(self) -> None:
        variables = {"A": "1"}
        config = BatchConfig(env=variables)
        variables["A"] = "2"
        assert config.env == {"A": "1"}

    def test_dataclasses_replace_checks_again(self) -> None:
        assert dataclasses.replace(BatchConfig(seed=1), max_nodes=2).max_nodes == 2
        assert problems(dataclasses.replace, BatchConfig(), max_nodes=0)


class TestEnvironment:
    @pytest.mark.parametrize(
        ("variable", "field", "value"),
        [
            ("AZURE_BATCH_ACCOUNT", "batch_account", "lab"),
            ("BATCH_ACCOUNT_NAME", "batch_account", "lab"),
            ("AZURE_BATCH_ENDPOINT", "batch_endpoint", ENDPOINT),
            ("BATCH_ACCOUNT_ENDPOINT", "batch_endpoint", ENDPOINT),
            ("BATCH_ACCOUNT_URL", "batch_endpoint", ENDPOINT),
            ("BATCH_ENDPOINT", "batch_endpoint", ENDPOINT),
            ("BATCH_URL", "batch_endpoint", ENDPOINT),
            ("AZURE_BATCH_ACCESS_KEY", "batch_key", KEY),
            ("BATCH_ACCOUNT_KEY", "batch_key", KEY),
            ("BATCH_KEY", "batch_key", KEY),
            ("AZURE_STORAGE_ACCOUNT", "storage_account", "files"),
            ("STORAGE_ACCOUNT_NAME", "storage_account", "files"),
            ("AZURE_STORAGE_KEY", "storage_key", KEY),
            ("STORAGE_ACCOUNT_KEY", "storage_key", KEY),
            ("AZURE_STORAGE_CONNECTION_STRING", "storage_connection_string", CONNECTION),
            ("STORAGE_CONNECTION_STRING", "storage_connection_string", CONNECTION),
            ("STORAGE_ACCOUNT_CONNECTION_STRING", "storage_connection_string", CONNECTION),
        ],
    )
    def test_foreign_names_are_read_and_ours_come_first(self, variable: str, field: str, value: str) -> None:
        config = env(**{variable: value})
        assert getattr(config, field) == value
        assert config.origin(field) == f"environment {variable}"
        ours = f"BATCHEXEC_{field.upper()}"
        both = env(**{variable: "not-read!", ours: value})
        assert (getattr(both, field), both.origin(field)) == (value, f"environment {ours}")

    @pytest.mark.parametrize(
        ("variable", "text", "value"),
        [
            ("BATCHEXEC_MAX_NODES", " 12 ", 12),
            ("BATCHEXEC_TIMEOUT", "1.5", 1.5),
            ("BATCHEXEC_WALL_CLOCK_HOURS", "48", 48.0),
            ("BATCHEXEC_SPOT", "yes", True),
            ("BATCHEXEC_SPOT", "On", True),
            ("BATCHEXEC_CREATE_POOL", "0", False),
            ("BATCHEXEC_PUBLIC_IP", "FALSE", False),
            ("BATCHEXEC_WHERE", "Local", "local"),
            ("BATCHEXEC_ENV", '{"A": "1"}', {"A": "1"}),
            ("BATCHEXEC_POOL_OPTIONS", '{"metadata": []}', {"metadata": []}),
            ("BATCHEXEC_PYTHON", "/opt/python", "/opt/python"),
        ],
    )
    def test_text_is_read_in_the_fields_kind(self, variable: str, text: str, value: object) -> None:
        found = getattr(env(**{variable: text}), variable.removeprefix("BATCHEXEC_").lower())
        assert found == value
        assert type(found) is type(value) or isinstance(value, dict)

    @pytest.mark.parametrize("text", [f'"{KEY}"', f"'{KEY}'", f'  "{KEY}" \r\n', f" {KEY}\n"])
    def test_quotes_and_blanks_around_a_value_are_tolerated(self, text: str) -> None:
        assert env(AZURE_BATCH_ACCESS_KEY=text).batch_key == KEY

    @pytest.mark.parametrize("text", ["", "  ", '""', "''"])
    def test_an_empty_variable_is_unset(self, text: str) -> None:
        config = env(AZURE_BATCH_ACCOUNT=text, BATCH_ACCOUNT_NAME="lab", BATCHEXEC_MAX_NODES=text)
        assert (config.batch_account, config.max_nodes) == ("lab", 4)

    def test_a_mistyped_variable_is_refused_with_the_closest_name(self) -> None:
        assert problems(env, BATCHEXEC_MAX_NODE="3") == (
            "unknown environment variable 'BATCHEXEC_MAX_NODE': did you mean 'BATCHEXEC_MAX_NODES'?",
        )

    def test_variables_of_the_emulator_are_left_alone(self) -> None:
        assert env(BATCHEXEC_EMULATOR="1", BATCHEXEC_EMULATOR_PORT="80") == BatchConfig()

    def test_a_credential_object_cannot_come_from_the_environment(self) -> None:
        assert "BATCHEXEC_CREDENTIAL" in problems(env, BATCHEXEC_CREDENTIAL="x")[0]


class TestMistakes:
    def test_all_mistakes_are_reported_together(self) -> None:
        found = problems(
            BatchConfig.load,
            environ={"BATCHEXEC_SLOTS": "many", "BATCHEXEC_RETRYS": "1"},
            max_nodes=0,
            vm_sise="Standard_D2s_v5",
        )
        assert set(found) == {
            "unknown field 'vm_sise': did you mean 'vm_size'? (keyword)",
            "unknown environment variable 'BATCHEXEC_RETRYS': did you mean 'BATCHEXEC_RETRIES'?",
            "max_nodes: expected 1 or more, got 0 (keyword)",
            "slots: expected a whole number, got 'many' (environment BATCHEXEC_SLOTS)",
        }

    @pytest.mark.parametrize("make", [BatchConfig, BatchConfig.load])
    def test_a_mistyped_keyword_is_refused_with_the_closest_name(self, make: Callable[..., object]) -> None:
        assert problems(make, max_node=3) == (
            "unknown field 'max_node': did you mean 'max_nodes'? (keyword)",
        )

    def test_names_that_other_tools_use_are_recognised(self) -> None:
        assert "did you mean 'spot'" in problems(BatchConfig, low_priority=True)[0]

    def test_a_name_close_to_none_lists_all(self) -> None:
        assert "valid are batch_account, " in problems(BatchConfig, zzz=1)[0]

    def test_origin_of_an_unknown_field_is_an_error(self) -> None:
        assert problems(BatchConfig().origin, "max_node")[0].endswith("did you mean 'max_nodes'?")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("max_nodes", True),
            ("max_nodes", 2.0),
            ("max_nodes", "2"),
            ("max_nodes", -1),
            ("idle_minutes", 0),
            ("retries", -1),
            ("slots", 0),
            ("slots", 257),
            ("seed", -1),
            ("timeout", 0),
            ("timeout", True),
            ("timeout", float("nan")),
            ("timeout", float("inf")),
            ("wall_clock_hours", 169),
            ("source_limit_mb", -1),
            ("spot", 1),
            ("spot", "yes"),
            ("where", "cloud"),
            ("vm_size", ""),
            ("vm_size", 4),
            ("pool_id", "a b"),
            ("pool_id", "x" * 65),
            ("container", "Upper"),
            ("container", "ab"),
            ("container", "a--b"),
            ("job_prefix", "-x"),
            ("os_image", "ubuntu"),
            ("image", "python 3"),
            ("subnet_id", "subnet1"),
            ("env", {"A": 1}),
            ("env", {"A=B": "1"}),
            ("env", {"AZ_BATCH_JOB_ID": "1"}),
            ("env", "A=1"),
            ("pool_options", [1]),
            ("pool_options", {1: 2}),
        ],
    )
    def test_a_wrong_value_names_field_and_source(self, field: str, value: object) -> None:
        (text,) = problems(BatchConfig, **{field: value})
        assert text.startswith((f"{field}: expected ", f"{field}: cannot"))
        assert text.endswith("(keyword)")

    @pytest.mark.parametrize(
        ("variable", "text"),
        [
            ("BATCHEXEC_MAX_NODES", "2.5"),
            ("BATCHEXEC_MAX_NODES", "true"),
            ("BATCHEXEC_SPOT", "maybe"),
            ("BATCHEXEC_TIMEOUT", "nan"),
            ("BATCHEXEC_ENV", "A=1"),
            ("BATCHEXEC_ENV", "[1]"),
        ],
    )
    def test_a_wrong_variable_is_named(self, variable: str, text: str) -> None:
        (problem,) = problems(env, **{variable: text})
        assert problem.endswith(f"(environment {variable})")

    def test_a_config_of_another_type_is_refused(self) -> None:
        with pytest.raises(TypeError, match="got int"):
            BatchConfig.load(3)  # type: ignore[arg-type]

    def test_numbers_of_numpy_are_numbers(self) -> None:
        config = BatchConfig(max_nodes=np.int64(3), timeout=np.float32(1.5), connect_timeout=5)
        assert [type(v) for v in (config.max_nodes, config.timeout, config.connect_timeout)] == [
            int,
            float,
            float,
        ]

    def test_a_prefix_needs_a_container(self) -> None:
        assert problems(BatchConfig, prefix="a/b") == (
            "prefix: needs container, an existing container (keyword)",
        )
        assert BatchConfig(prefix="/a/b/", container="shared").prefix == "a/b"

    def test_the_node_agent_follows_the_os_image(self) -> None:
        assert BatchConfig(os_image="canonical:ubuntu-22_04-lts:server:latest").node_agent_sku.endswith(
            "22.04"
        )
        assert BatchConfig(os_image="microsoft-dsvm:ubuntu-hpc:2204:latest").node_agent_sku.endswith("22.04")
        other = "almalinux:almalinux-hpc:8_7-hpc-gen2:latest"
        assert problems(BatchConfig, os_image=other)[0].startswith("node_agent_sku: needed for os_image")
        assert (
            BatchConfig(os_image=other, node_agent_sku="batch.node.el 8").node_agent_sku == "batch.node.el 8"
        )

    def test_windows_nodes_are_refused(self) -> None:
        image = "microsoftwindowsserver:windowsserver:2022-datacenter:latest"
        for given in ({"os_image": image}, {"node_agent_sku": "batch.node.windows amd64"}):
            (said,) = problems(BatchConfig, **given)
            assert said.startswith("os_image: neither functions nor Commands run on Windows")


class TestFiles:
    def test_a_current_directory_that_was_removed_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(ConfigError, match="the current directory was removed"):
            BatchConfig.load(environ={})

    def test_the_nearest_file_upwards_is_read(self, tmp_path: Path) -> None:
        deep = tmp_path / "a" / "b" / "c"
        deep.mkdir(parents=True)
        (tmp_path / "batchexec.toml").write_text("max_nodes = 2\nretries = 2")
        (tmp_path / "a" / "pyproject.toml").write_text("[tool.batchexec]\nmax_nodes = 3\n")
        (tmp_path / "a" / "b" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
        config = BatchConfig.load(start_dir=deep)
        assert (config.max_nodes, config.retries) == (3, 1)
        file = tmp_path / "a" / "pyproject.toml"
        assert config.origin("max_nodes") == f"pyproject.toml:[tool.batchexec] ({file})"

    def test_our_own_file_beats_the_pyproject_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").write_text("max_nodes = 2")
        (tmp_path / "pyproject.toml").write_text("[tool.batchexec]\nmax_nodes = 3\n")
        assert BatchConfig.load().max_nodes == 2

    def test_the_search_ends_at_the_home_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "home" / "work").mkdir(parents=True)
        (tmp_path / "batchexec.toml").write_text("max_nodes = 2")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
        assert BatchConfig.load(start_dir=tmp_path / "home" / "work").max_nodes == 4
        (tmp_path / "home" / "batchexec.toml").write_text("max_nodes = 3")
        assert BatchConfig.load(start_dir=tmp_path / "home" / "work").max_nodes == 3

    def test_a_broken_pyproject_of_somebody_else_does_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text("[tool")
        assert BatchConfig.load() == BatchConfig()

    def test_a_broken_file_of_ours_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").write_text("max_nodes =")
        assert problems(BatchConfig.load)[0].startswith(f"{tmp_path / 'batchexec.toml'} is not valid TOML")
        (tmp_path / "batchexec.toml").write_bytes(b"\xff")
        assert "is not UTF-8" in problems(BatchConfig.load)[0]

    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_path_is_read_in_place_of_the_nearest(
        self, tmp_path: Path, kind: Callable[[Path], Any]
    ) -> None:
        (tmp_path / "batchexec.toml").write_text("retries = 5")
        (tmp_path / "mine.toml").write_text("max_nodes = 2")
        config = BatchConfig.load(kind(tmp_path / "mine.toml"))
        assert (config.max_nodes, config.retries) == (2, 1)

    def test_a_path_that_is_not_there_is_an_error(self) -> None:
        assert "nowhere.toml" in problems(BatchConfig.load, "nowhere.toml")[0]

    def test_a_mistyped_key_is_refused_with_its_place(self, tmp_path: Path) -> None:
        file = tmp_path / "batchexec.toml"
        file.write_text("max-nodes = 2")
        expected = f"unknown field 'max-nodes': did you mean 'max_nodes'? (batchexec.toml:[default] ({file}))"
        assert problems(BatchConfig.load) == (expected,)

    def test_text_numbers_and_tables_of_a_file_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").write_text(
            'max_nodes = "2"\ntimeout = 3\nspot = "yes"\n[env]\nA = "1"\n'
        )
        config = BatchConfig.load()
        assert (config.max_nodes, config.timeout, config.spot, config.env) == (2, 3.0, True, {"A": "1"})


class TestProfiles:
    @pytest.fixture(autouse=True)
    def _profiles(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").write_text(
            "max_nodes = 2\nretries = 2\n[profile.gpu]\nmax_nodes = 8\n[profile.spare]\nspot = true\n"
        )

    def test_a_profile_lies_over_the_top_level(self, tmp_path: Path) -> None:
        config = BatchConfig.load(profile="gpu")
        assert (config.max_nodes, config.retries, config.profile) == (8, 2, "gpu")
        assert config.origin("max_nodes") == f"batchexec.toml:[profile.gpu] ({tmp_path / 'batchexec.toml'})"

    def test_the_environment_chooses_one_and_the_keyword_another(self) -> None:
        environ = {"BATCHEXEC_PROFILE": "gpu"}
        assert BatchConfig.load(environ=environ).max_nodes == 8
        assert BatchConfig.load(environ=environ, profile="spare").max_nodes == 2

    def test_an_unknown_profile_names_the_known_ones(self, tmp_path: Path) -> None:
        file = tmp_path / "batchexec.toml"
        expected = f"unknown profile 'gpus': known are gpu, spare ({file})"
        assert problems(BatchConfig.load, profile="gpus") == (expected,)

    def test_a_profile_without_a_file_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").unlink()
        assert problems(BatchConfig.load, profile="gpu")[0].startswith(
            "unknown profile 'gpu': no batchexec.toml"
        )

    def test_a_loaded_config_can_switch_profile(self) -> None:
        loaded = BatchConfig.load(profile="gpu", seed=1)
        switched = BatchConfig.load(loaded, profile="spare")
        assert (switched.max_nodes, switched.spot, switched.seed) == (2, True, 1)

    def test_profiles_of_a_pyproject(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").unlink()
        (tmp_path / "pyproject.toml").write_text("[tool.batchexec.profile.gpu]\nmax_nodes = 9\n")
        config = BatchConfig.load(profile="gpu")
        assert config.max_nodes == 9
        assert config.origin("max_nodes").startswith("pyproject.toml:[tool.batchexec.profile.gpu]")

    def test_profile_as_a_plain_value_is_explained(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").write_text('profile = "gpu"')
        assert "[profile.NAME]" in problems(BatchConfig.load)[0]


class TestAccount:
    @pytest.mark.parametrize(
        ("text", "url"),
        [
            ("lab.westeurope.batch.azure.com", ENDPOINT),
            (ENDPOINT + "/", ENDPOINT),
            ("http://127.0.0.1:8080/lab", "http://127.0.0.1:8080/lab"),
        ],
    )
    def test_an_endpoint_gets_its_scheme_and_loses_its_slash(self, text: str, url: str) -> None:
        config = BatchConfig(batch_endpoint=text)
        assert config.batch_endpoint == url
        assert config.batch_account == "lab"
        assert config.origin("batch_account") == "derived from batch_endpoint (keyword)"

    @pytest.mark.parametrize(
        "text", ["ftp://x", "https://", "https://[", "https://x:y", "https://a b", "https://u:p@x"]
    )
    def test_what_is_no_url_is_refused(self, text: str) -> None:
        assert problems(BatchConfig, batch_endpoint=text)[0].startswith("batch_endpoint: expected")

    def test_an_account_that_is_not_the_endpoints_is_refused(self) -> None:
        (text,) = problems(BatchConfig, batch_account="other", batch_endpoint=ENDPOINT)
        assert text.startswith("batch_account 'other' (keyword) does not belong to batch_endpoint")

    def test_a_connection_string_gives_account_key_and_endpoint(self) -> None:
        config = BatchConfig(**BATCH, storage_connection_string=CONNECTION)
        assert (config.storage_account, config.storage_key) == ("files", KEY)
        assert config.blob_endpoint == "https://files.blob.core.windows.net"
        assert config.origin("storage_key") == "derived from storage_connection_string (keyword)"

    @pytest.mark.parametrize(
        ("text", "endpoint"),
        [
            (f"AccountName=files;AccountKey={KEY}", "https://files.blob.core.windows.net"),
            (
                f"AccountName=files;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
                "https://files.blob.core.chinacloudapi.cn",
            ),
            (
                f"BlobEndpoint=http://127.0.0.1:1/files;AccountName=files;AccountKey={KEY};",
                "http://127.0.0.1:1/files",
            ),
            ("UseDevelopmentStorage=true", "http://127.0.0.1:10000/devstoreaccount1"),
        ],
    )
    def test_forms_of_connection_strings(self, text: str, endpoint: str) -> None:
        assert BatchConfig(**BATCH, storage_connection_string=text).blob_endpoint == endpoint

    def test_a_more_explicit_storage_account_beats_the_connection_string(self) -> None:
        environ = {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION}
        config = BatchConfig.load(environ=environ, **BATCH, storage_account="mine")
        assert (config.storage_account, config.storage_key) == ("mine", None)
        assert config.blob_endpoint == "https://mine.blob.core.windows.net"

    def test_a_more_explicit_connection_string_beats_the_storage_account(self) -> None:
        environ = {"AZURE_STORAGE_ACCOUNT": "other", "AZURE_STORAGE_KEY": OTHER_KEY}
        config = BatchConfig.load(environ=environ, **BATCH, storage_connection_string=CONNECTION)
        assert (config.storage_account, config.storage_key) == ("files", KEY)

    def test_a_new_connection_string_replaces_that_of_a_loaded_config(self) -> None:
        loaded = BatchConfig.load(environ={}, **BATCH, storage_connection_string=CONNECTION)
        text = f"AccountName=mine;AccountKey={OTHER_KEY}"
        config = BatchConfig.load(loaded, storage_connection_string=text)
        assert (config.storage_account, config.storage_key) == ("mine", OTHER_KEY)

    def test_a_new_storage_account_drops_connection_string_and_key_of_a_loaded_config(self) -> None:
        loaded = BatchConfig.load(environ={}, **BATCH, storage_connection_string=CONNECTION)
        config = BatchConfig.load(loaded, storage_account="mine")
        assert (config.storage_account, config.storage_key) == ("mine", None)
        assert config.storage_connection_string is None

    def test_a_connection_string_of_the_environment_beats_an_account_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "batchexec.toml").write_text('storage_account = "mine"')
        config = BatchConfig.load(environ={"AZURE_STORAGE_CONNECTION_STRING": CONNECTION})
        assert (config.storage_account, config.storage_key) == ("files", KEY)

    def test_a_key_given_beside_a_connection_string_is_kept(self) -> None:
        environ = {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION}
        assert BatchConfig.load(environ=environ, storage_key=OTHER_KEY).storage_key == OTHER_KEY

    def test_two_accounts_of_equal_rank_are_a_contradiction(self) -> None:
        (text,) = problems(BatchConfig, **BATCH, storage_account="mine", storage_connection_string=CONNECTION)
        assert "is not the account of storage_connection_string" in text

    def test_the_storage_account_is_read_from_the_blob_endpoint(self) -> None:
        assert BatchConfig(blob_endpoint="https://files.blob.core.windows.net").storage_account == "files"
        assert BatchConfig(blob_endpoint="http://127.0.0.1:10000/files").storage_account == "files"


class TestWhere:
    def test_nothing_set_runs_here(self) -> None:
        assert BatchConfig.load().resolved_where == "local"

    def test_a_pool_or_container_alone_is_no_account(self) -> None:
        assert BatchConfig.load(pool_id="p", container="shared", max_nodes=2).resolved_where == "local"

    def test_batch_and_storage_run_on_azure(self) -> None:
        assert BatchConfig.load(**BATCH, storage_connection_string=CONNECTION).resolved_where == "azure"

    def test_no_key_is_needed_where_a_token_serves(self) -> None:
        config = env(AZURE_BATCH_ENDPOINT=ENDPOINT, AZURE_STORAGE_ACCOUNT="files")
        assert config.resolved_where == "azure"
        assert (config.batch_account, config.batch_key, config.storage_key) == ("lab", None, None)

    def test_storage_variables_of_other_tools_run_here(self) -> None:
        assert env(AZURE_STORAGE_CONNECTION_STRING=CONNECTION).resolved_where == "local"
        assert env(AZURE_STORAGE_ACCOUNT="files", AZURE_STORAGE_KEY=KEY).resolved_where == "local"

    def test_broken_storage_variables_of_other_tools_do_no_harm(self) -> None:
        assert env(AZURE_STORAGE_KEY="%%%", AZURE_STORAGE_ACCOUNT="A B").resolved_where == "local"

    @pytest.mark.parametrize(
        ("settings", "missing"),
        [
            ({"batch_account": "lab"}, {"batch_endpoint", "storage_account"}),
            ({"batch_account": "lab", "batch_key": KEY}, {"batch_endpoint", "storage_account"}),
            ({"batch_key": KEY}, {"batch_account", "batch_endpoint", "storage_account"}),
            ({"batch_endpoint": ENDPOINT}, {"storage_account"}),
            ({"batch_endpoint": "https://my.own.name"}, {"batch_account", "storage_account"}),
            ({**BATCH, "storage_key": KEY}, {"storage_account"}),
            ({"storage_account": "files"}, {"batch_account", "batch_endpoint"}),
            ({"storage_connection_string": CONNECTION}, {"batch_account", "batch_endpoint"}),
            ({"credential": object()}, None),
            ({"where": "azure"}, None),
        ],
    )
    def test_a_half_configuration_is_an_error_that_names_what_is_missing(
        self, settings: dict[str, Any], missing: set[str] | None
    ) -> None:
        config = BatchConfig.load(**settings)
        found = problems(lambda: config.resolved_where)
        if missing is None:
            assert found[0].startswith("no account is configured: set AZURE_BATCH_ACCOUNT")
        else:
            assert {text.split(" is missing")[0] for text in found} == missing
        assert KEY not in str(found)

    def test_storage_meant_for_us_without_batch_is_an_error(self, tmp_path: Path) -> None:
        assert problems(lambda: env(BATCHEXEC_STORAGE_ACCOUNT="files").resolved_where)
        (tmp_path / "batchexec.toml").write_text('storage_account = "files"')
        assert problems(lambda: BatchConfig.load().resolved_where)

    def test_a_missing_endpoint_says_where_to_find_it(self) -> None:
        found = problems(lambda: env(AZURE_BATCH_ACCOUNT="lab").resolved_where)
        assert "az batch account show --name lab" in found[0]

    def test_an_empty_keyword_is_an_error_not_a_local_run(self) -> None:
        assert problems(BatchConfig.load, batch_account="") == (
            "batch_account: expected a text, got '' (keyword)",
        )

    def test_a_broken_batch_variable_is_an_error_not_a_local_run(self) -> None:
        assert problems(env, AZURE_BATCH_ACCESS_KEY="%%%")

    def test_local_ignores_account_settings(self) -> None:
        config = env(BATCHEXEC_WHERE="local", AZURE_BATCH_ACCOUNT="lab", AZURE_BATCH_ACCESS_KEY="%%%")
        assert config.resolved_where == "local"


class TestSecrets:
    secrets: dict[str, Any] = {  # noqa: RUF012
        "batch_key": KEY,
        "storage_connection_string": CONNECTION.replace(KEY, OTHER_KEY),
        "env": {"TOKEN": "hush-hush"},
        "pool_options": {"startTask": {"password": "hush-hush"}},
    }

    def test_no_view_of_a_config_shows_a_secret(self) -> None:
        config = BatchConfig.load(environ={}, **{**BATCH, **self.secrets})
        origins = [config.origin(name) for name in config.describe()]
        views = [repr(config), str(config), f"{config}", repr(config.describe()), repr(origins)]
        for view in views:
            assert not any(secret in view for secret in (KEY, OTHER_KEY, "hush-hush"))
        assert config.describe()["batch_key"] == "***"
        assert config.describe()["storage_key"] == "***"
        assert config.describe()["batch_account"] == "lab"
        assert config.describe()["max_nodes"] == 4

    def test_the_value_itself_is_whole_but_its_repr_is_not(self) -> None:
        config = BatchConfig(**BATCH)
        assert f"{config.batch_key}" == KEY
        assert repr([config.batch_key]) == "['***']"
        storage = BatchConfig(storage_account="files", storage_key=KEY, **BATCH)
        derived = BatchConfig(storage_connection_string=CONNECTION, **BATCH)
        assert repr([storage.storage_key, derived.storage_key]) == "['***', '***']"

    def test_a_wrong_secret_is_not_quoted_however_short(self) -> None:
        expected = "batch_key: expected an account key in base64, the value is not shown (keyword)"
        assert problems(BatchConfig, batch_key="pass word") == (expected,)

    def test_a_config_with_secrets_cannot_be_pickled(self) -> None:
        with pytest.raises(TypeError, match="batch_key cannot be pickled: secrets do not travel") as caught:
            pickle.dumps(BatchConfig(**BATCH))
        assert KEY not in str(caught.value)
        with pytest.raises(TypeError, match="credential"):
            pickle.dumps(BatchConfig(credential=object()))

    def test_a_config_without_secrets_travels_with_its_origins(self) -> None:
        config = BatchConfig.load(environ={"BATCHEXEC_SEED": "3"}, env={"A": "1"}, batch_endpoint=ENDPOINT)
        twin = pickle.loads(pickle.dumps(config))
        assert twin == config
        assert [twin.origin(n) for n in twin.describe()] == [config.origin(n) for n in config.describe()]
        assert copy.deepcopy(config) is config

    @pytest.mark.parametrize(
        "field", [f.name for f in dataclasses.fields(BatchConfig) if f.init and f.name != "credential"]
    )
    @pytest.mark.parametrize(
        "pasted", [KEY + "!", CONNECTION + "!", f"https://x.blob/c?sv=1&sig={KEY[:43]}%3D"]
    )
    def test_a_key_pasted_into_any_field_is_not_echoed(self, field: str, pasted: str) -> None:
        try:
            BatchConfig.load(environ={f"BATCHEXEC_{field.upper()}": pasted, "BATCHEXEC_MAX_NODES": "0"})
        except ConfigError:
            text = traceback.format_exc()
            assert KEY[:20] not in text
        else:
            pytest.fail("max_nodes=0 was accepted")


class TestSizes:
    @pytest.mark.parametrize(
        ("size", "count"),
        [
            ("Standard_D4s_v5", 4),
            ("standard_d4S_V5", 4),
            ("Standard_D2_v3", 2),
            ("Standard_D96ads_v5", 96),
            ("Standard_D3_v2", 4),
            ("Standard_DS3_v2", 4),
            ("Standard_DS3_v2_Promo", 4),
            ("Standard_D14_v2", 16),
            ("Standard_D2", 2),
            ("Standard_DS11-1_v2", 1),
            ("Standard_A1_v2", 1),
            ("Standard_A8m_v2", 8),
            ("Standard_A5", 2),
            ("Basic_A2", 2),
            ("Standard_B1ms", 1),
            ("Standard_B1ls", 1),
            ("Standard_B12ms", 12),
            ("Standard_E64-16s_v5", 16),
            ("Standard_E104i_v5", 104),
            ("Standard_F16s_v2", 16),
            ("Standard_F1s", 1),
            ("Standard_G3", 8),
            ("Standard_GS5", 32),
            ("Standard_HB120rs_v3", 120),
            ("Standard_HB120-64rs_v3", 64),
            ("Standard_HC44rs", 44),
            ("Standard_H16mr", 16),
            ("Standard_L8as_v3", 8),
            ("Standard_M128-32ms", 32),
            ("Standard_M832ids_16_v3", 832),
            ("Standard_NC6_Promo", 6),
            ("Standard_NC24ads_A100_v4", 24),
            ("Standard_NC40ads_H100_v5", 40),
            ("Standard_ND96isr_H100_v5", 96),
            ("Standard_ND96is_MI300X_v5", 96),
            ("Standard_NV36ads_A10_v5", 36),
            ("Standard_DC8as_cc_v5", 8),
            ("Standard_FX12mds", 12),
        ],
    )
    def test_vcpus_are_read_from_the_name(self, size: str, count: int) -> None:
        assert vcpus(size) == count

    @pytest.mark.parametrize(
        "size", ["big", "Standard_", "Standard_D", "D4s_v5", "Standard_D0s_v5", "Standard_A99"]
    )
    def test_a_name_that_does_not_tell_asks_for_slots(self, size: str) -> None:
        assert "set slots" in problems(vcpus, size)[0]
        assert "set slots" in problems(BatchConfig, vm_size=size)[0]
        assert BatchConfig(vm_size=size, slots=2).slots_per_node == 2

    def test_slots_are_the_vcpus_unless_set_and_at_most_four_each(self) -> None:
        assert BatchConfig(vm_size="Standard_D8s_v5").slots_per_node == 8
        assert BatchConfig(slots=16).slots_per_node == 16
        assert problems(BatchConfig, slots=17) == (
            "slots: expected at most 16 on Standard_D4s_v5 (4 per vCPU), got 17 (keyword)",
        )


def test_the_documentation_shows_the_table_of_the_code() -> None:
    page = Path(__file__).parents[1] / "docs" / "configuration.md"
    assert markdown_table() in page.read_text(encoding="utf-8")


def test_importing_loads_no_toml_reader_and_nothing_outside_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import batchexec.config\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names - {'batchexec'}), 'tomllib' in new, 'difflib' in new)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False False"
