"""`env=`: variables of the tasks, with values or by names that are passed on from here."""

from __future__ import annotations

import helpers_outputs as outputs
import pytest

from batchexec import BatchConfig, BatchExecutor
from batchexec.errors import ConfigError


def test_names_are_passed_on_with_the_values_that_they_have_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "se cret=1\n")
    monkeypatch.setenv("MY_EMPTY", "")
    monkeypatch.setenv("NOT_NAMED", "stays here")
    names = ("MY_TOKEN", "MY_EMPTY", "GIVEN", "NOT_NAMED")
    expected = {"MY_TOKEN": "se cret=1\n", "MY_EMPTY": "", "GIVEN": None, "NOT_NAMED": None}
    with BatchExecutor(max_workers=1, env=["MY_TOKEN", "MY_EMPTY"]) as executor:
        assert executor.submit(outputs.environment, *names).result() == expected
        monkeypatch.setenv("MY_TOKEN", "changed later")
        assert executor.submit(outputs.environment, *names).result() == expected
    with BatchExecutor(max_workers=1, env={"MY_TOKEN": None, "GIVEN": "here"}) as executor:
        found = executor.submit(outputs.environment, *names).result()
    assert found == {"MY_TOKEN": "changed later", "MY_EMPTY": None, "GIVEN": "here", "NOT_NAMED": None}


def test_names_come_from_environment_and_file_too(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    assert BatchConfig.load(environ={"BATCHEXEC_ENV": '["MY_TOKEN"]'}).env == {"MY_TOKEN": "secret"}
    (tmp_path / "batchexec.toml").write_text('env = ["MY_TOKEN"]\n')  # type: ignore[operator]
    config = BatchConfig.load(environ={}, start_dir=tmp_path)  # type: ignore[arg-type]
    assert config.env == {"MY_TOKEN": "secret"}
    assert "secret" not in repr(config)
    assert config.describe()["env"] == {"MY_TOKEN": "***"}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (["MY_UNSET"], r"env: expected names of variables that are set here \(MY_UNSET is not\)"),
        ({"A=B": "1"}, "names without '=', blanks or the service's own prefix AZ_BATCH_"),
        (["AZ_BATCH_TASK_ID"], "names of variables that are set here"),
        ({"AZ_BATCH_TASK_ID": "x"}, "the service's own prefix AZ_BATCH_"),
        ({"A": "nul\0"}, r"a text for every name \(A has one with a NUL character\)"),
        ({"B": "1", "A": 1}, r"a text for every name \(A has a value of type int\)"),
        ("MY_TOKEN", "a mapping of names, or a list of names"),
        ([1], "a mapping of names, or a list of names"),
    ],
)
def test_what_cannot_be_a_variable_is_said_before_anything_starts(env: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BatchExecutor(env=env)
