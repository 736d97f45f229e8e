"""Completion in the shell."""

import subprocess
from pathlib import Path

import pytest
from command_line import refused, run

ASK = """source "$0"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_robust_student
echo "${COMPREPLY[@]}"
"""
"""Ask bash for what may follow the words of a line, the last of them unfinished."""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("robust-student dis", "distill"),
        ("robust-student train --data digits --epo", "--epochs"),
        ("robust-student distill --secant.sha", "--secant.shared"),
        ("robust-student evaluate model --snr-db 0 -5 --pgd-lin", "--pgd-linf"),
    ],
)
def test_bash_completes_commands_and_flags(
    line: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--print-completion", "bash")
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    done = subprocess.run(["bash", "-c", ASK, str(script), *line.split()], capture_output=True, text=True, check=True)
    assert stop.value.code == 0 and expected in done.stdout.split()


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown shell 'bsh'; did you mean 'bash'?" in refused(capsys, "--print-completion", "bsh")
    assert "unknown shell ''; choose from bash, " in refused(capsys, "--print-completion")
