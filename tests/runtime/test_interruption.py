"""Ctrl-C and SIGTERM outside the training loop: one line, the exit code of the signal, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

import robust_student
from robust_student.cli.doctor import Doctor
from robust_student.cli.main import main
from robust_student.runtime.files import replacing

SLOW = "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(300)\n"
"""A PyTorch whose import takes five minutes."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_is_one_line(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(SLOW)
    places = os.pathsep.join([str(tmp_path), *sys.path])
    words = [sys.executable, "-m", "robust_student", "doctor"]
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": places},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(
            signal.signal, number, signal.SIG_DFL
        ),  # a job in the background inherits that it is ignored
    )
    while not (tmp_path / "importing").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate()[1] == "robust-student: interrupted\n"
    assert process.returncode == 128 + number


def test_the_package_is_imported_without_pytorch_and_knows_its_public_names() -> None:
    loaded = "print('torch' in sys.modules)"
    code = f"import sys, robust_student; {loaded}; robust_student.Norm; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"
    assert all(getattr(robust_student, name) is not None for name in dir(robust_student))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = robust_student.nothing


def test_a_terminated_command_cleans_up_and_says_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: Sequence[str]) -> None:
        with replacing(tmp_path / "output"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)

    monkeypatch.setattr(Doctor, "run", work)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "robust-student: interrupted\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
