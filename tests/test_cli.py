"""The command: finding its subcommands, the demo, the emulator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchexec import _cli


def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchexec._cli", *words]
    return subprocess.run(command, capture_output=True, text=True, input=given)


def test_alone_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in _cli.COMMANDS)


def test_an_unknown_command_is_refused_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        _cli.main(["demmo"])
    assert end.value.code == 2
    assert "unknown command 'demmo': did you mean 'demo'?" in capsys.readouterr().err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in _cli.COMMANDS:
        with pytest.raises(SystemExit) as end:
            _cli.main([name, "--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: batchexec {name}")


def test_results_are_not_fetched_to_where_their_table_goes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        _cli.main(["fetch", "some-job", "--to", "runs.csv"])
    assert end.value.code == 2
    assert "--to names the pickle file" in capsys.readouterr().err


def test_a_mistake_of_configuration_is_one_line_not_a_traceback() -> None:
    done = run("demo", "--small", "--where", "azure")
    assert done.returncode == 1
    assert "batchexec demo: ConfigError: no account is configured" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_gets_the_scores_of_the_plain_loop_and_says_what_it_took() -> None:
    done = run("demo", "--small", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "20 fits of an SVM to 1,797 handwritten digits" in done.stdout
    assert re.search(r"time: +\d+\.\d\d times as fast", done.stdout)
    assert re.search(r"scores: +all equal, bit for bit", done.stdout)
    assert re.search(r"work: +\d+ chunks, one task each, on 1 node with 2 slots \(local\)", done.stdout)
    assert re.search(r"requests: [1-9]\d* to Batch and Blob storage", done.stdout)
    assert re.search(r"logs: +http://127\.0\.0\.1:", done.stdout)


def test_the_demo_without_scikit_learn_says_what_to_install() -> None:
    code = "import sys; sys.modules['sklearn'] = None; from batchexec._cli import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'The demo needs scikit-learn: pip install "batchexec[demo]"\n'


def test_the_emulator_is_a_command_of_its_own(tmp_path: Path) -> None:
    done = run("emulator", "--json", "--until-eof", "--root", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batch_endpoint"].startswith("http://127.0.0.1:")


def test_a_shell_finds_the_emulator_that_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "batchexec._cli", "emulator"]
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout
            ready = json.loads(process.stdout.readline())
            shown = "echo $AZURE_BATCH_ENDPOINT $AZURE_BATCH_ACCESS_KEY $AZURE_STORAGE_CONNECTION_STRING"
            script = ["sh", "-c", f'eval "$("$@" env)"; {shown}', "sh", *command]
            shell = subprocess.run(script, capture_output=True, text=True, env=env)
            assert shell.stdout.split() == [ready["batch_endpoint"], ready["batch_key"], ready["connection_string"]]
            (file,) = tmp_path.glob("*/*.json")
            assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        finally:
            process.terminate()
    after = subprocess.run([*command, "env"], capture_output=True, text=True, env=env)
    assert (after.returncode, after.stdout) == (1, "")
    assert "no emulator of this user is running" in after.stderr
