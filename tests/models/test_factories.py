"""Code of the user's own: who may have it called. What a factory gets and returns is in test_models.py."""

import importlib
import itertools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from reference import message_of, toy_data

from robust_student.cli.main import main
from robust_student.models.factories import require_own
from robust_student.models.model import as_model
from robust_student.models.run_directory import load, save
from robust_student.runtime.files import read_json, write_json

CODE = """
from pathlib import Path
from torch import nn

Path({witness!r}).touch()

def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))
"""
COUNTER = itertools.count()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory: a fresh one, whose modules are forgotten afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    for name in [name for name in sys.modules if name.startswith("code_of_mine_")]:
        del sys.modules[name]


def write_code(file: Path) -> Path:
    """A module with a factory; the file that is there once it has been run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    witness = file.with_suffix(".ran")
    file.write_text(CODE.format(witness=str(witness)))
    importlib.invalidate_caches()
    return witness


def run_with(folder: Path, network: str) -> Path:
    """A run whose card names code."""
    folder.mkdir(parents=True, exist_ok=True)
    save(as_model("mlp:4", toy_data()), folder)
    write_json(folder / "model.json", read_json(folder / "model.json") | {"network": network})
    return folder


def fresh() -> str:
    return f"code_of_mine_{next(COUNTER)}"


@pytest.mark.parametrize("place", ["net.py", "deep/er/net.py"])
def test_a_file_below_the_current_directory_is_the_users_own(place: str, here: Path) -> None:
    write_code(here / place)
    require_own(f"{place}:make", here / "runs" / "student")
    require_own(f"{here / place}:make", here / "runs" / "student")


@pytest.mark.parametrize("package", ["", "parts."])
def test_a_module_below_the_current_directory_is_the_users_own_and_is_not_run_to_find_out(
    package: str, here: Path
) -> None:
    name = fresh()
    witness = write_code(here / name / "parts" / "net.py" if package else here / name / "net.py")
    ran = write_code(here / name / "__init__.py")
    require_own(f"{name}.{package}net:make", here / "run")
    assert not witness.exists() and not ran.exists()


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("run/evil.py:make", "it came with the run"),
        ("run.evil:make", "it came with the run"),
        ("../outside.py:make", "not below the current directory"),
        ("{outside}:make", "not below the current directory"),
        ("os:abort", "not below the current directory"),
        ("sys:exit", "not below the current directory"),
        ("json.tool:main", "not below the current directory"),
        ("torch.hub:get_dir", "not below the current directory"),
        ("no_such_module:make", "not below the current directory"),
        ("no_such_module.net:make", "not below the current directory"),
        ("link.py:make", "not below the current directory"),
        ("..net:make", "not below the current directory"),
    ],
)
def test_code_that_need_not_be_the_users_own_is_not_called(network: str, why: str, here: Path) -> None:
    outside, inside = write_code(here.parent / "outside.py"), write_code(here / "run" / "evil.py")
    (here / "link.py").symlink_to(here.parent / "outside.py")
    run = run_with(here / "run", network.format(outside=here.parent / "outside.py"))
    message = message_of(lambda: load(run))
    assert why in message and "--trust" in message and "trust=True" in message
    assert not outside.exists() and not inside.exists()


def test_a_run_in_the_current_directory_does_not_make_its_code_the_users_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(here / "run", "evil.py:make")
    witness = write_code(here / "run" / "evil.py")
    monkeypatch.chdir(here / "run")
    assert "it came with the run" in message_of(lambda: load("."))
    assert not witness.exists()


def test_installed_packages_below_the_current_directory_are_not_the_users_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment is often below the project."""
    name = fresh()
    site = here / ".venv" / "lib" / "site-packages"
    write_code(site / name / "net.py")
    monkeypatch.syspath_prepend(str(site))
    own = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(site) if kind == "purelib" else own(kind))
    assert "an installed package" in message_of(lambda: require_own(f"{name}.net:make", here / "run"))


def test_a_module_that_is_imported_already_is_judged_by_where_it_came_from(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same name in the current directory would not be what is called."""
    name = fresh()
    write_code(here.parent / f"{name}.py")
    monkeypatch.syspath_prepend(str(here.parent))
    importlib.import_module(name)
    write_code(here / f"{name}.py")
    assert "not below" in message_of(lambda: require_own(f"{name}:make", here / "run"))


def test_ones_own_run_is_loaded_as_ever_and_a_strangers_with_trust(here: Path) -> None:
    data = toy_data()
    write_code(here / "net.py")
    (here / "own").mkdir()
    save(as_model("net.py:make", data), here / "own")
    assert load("own").card.network == "net.py:make"
    witness = write_code(here / "own" / "strange.py")
    write_json(here / "own" / "model.json", read_json(here / "own" / "model.json") | {"network": "own/strange.py:make"})
    assert "it came with the run" in message_of(lambda: load("own"))
    assert not witness.exists()
    assert load("own", trust=True)(data.test.floats()).shape == (len(data.test), 3)
    assert witness.exists()


def test_the_command_line_asks_for_trust(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--data", "digits", "--model", "linear", "--epochs", "1", "--output", "run"])
    (here / "run" / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    write_json(here / "run" / "model.json", read_json(here / "run" / "model.json") | {"network": "run/net.py:make"})
    # Settings that measure next to nothing: what matters is that it starts.
    few = ["--examples", "10", "--attack-examples", "2", "--autoattack", "none", "--pgd-steps", "1", "--snr-db", "0"]
    certify = ["--examples", "2", "--linear-examples", "1", "--budgets", "0.01", "--attacks", "pgd-bisection"]
    commands = [
        ["evaluate", "run", "--data", "digits", "--output", "evaluation", *few],
        ["certify", "run", "--data", "digits", "--output", "certificates", *certify],
        [
            "distill",
            "--teacher",
            "run",
            "--data",
            "digits",
            "--model",
            "linear",
            "--epochs",
            "1",
            "--output",
            "student",
        ],
        ["predict", "--model", "run", "digit.png"],
    ]
    Image.new("L", (8, 8), 100).save("digit.png")
    for words in commands:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2 and "--trust" in capsys.readouterr().err
        main([*words, "--trust"])
