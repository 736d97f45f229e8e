"""Folders in the layout of the Hugging Face hub, written by the libraries themselves, and repositories in the cache."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import PyTorchModelHubMixin
from reference import message_of, state_of, toy_data
from timm.models import save_for_hf
from torch import Tensor, nn

from robust_student.models.hub import folder_of, is_repository, read_repository
from robust_student.models.model import as_model
from robust_student.models.open_model import open_model
from robust_student.models.preprocessing import Preprocessing
from robust_student.models.registry import build, read_recipe
from robust_student.models.run_directory import load, save

DATA = toy_data()  # 1x4x4, three classes
COLOUR = toy_data(shape=(3, 32, 32))
CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden=3, num_classes=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, inputs):
        return self.layers(inputs)
"""


class Net(nn.Module, PyTorchModelHubMixin):  # type: ignore[misc]
    """The same network with the hub's mixin, as its author would have written it."""

    def __init__(self, hidden: int = 3, num_classes: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


def write(folder: Path, config: Any, network: nn.Module, **more: Any) -> Path:
    """A folder in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    for name, content in more.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A network saved by the mixin as `folder`, with its code in `net.py` of the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(CODE)
    torch.manual_seed(3)
    network = Net(hidden=5)
    PyTorchModelHubMixin.save_pretrained(network, tmp_path / "folder")
    return network


@pytest.mark.parametrize("place", ["folder", "hub:folder"])
def test_a_folder_of_the_mixin_is_opened_with_the_users_class(place: str, mixed: Net) -> None:
    """Its config.json holds the class's arguments (five hidden units) but not its name."""
    inputs = DATA.test.floats()
    assert torch.equal(open_model(f"net.py:Net@{place}", DATA)(inputs), mixed(inputs))
    assert "name its class: file.py:Class@" in message_of(lambda: open_model(place, DATA))


def test_a_student_is_not_started_from_a_folder_of_arguments(mixed: Net) -> None:
    assert "built from its name" in message_of(lambda: as_model("net.py:Net@folder", DATA))


def test_timms_own_folders_are_opened_with_their_normalisation_size_and_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3, stem_width=8)
    names = ["class 2", "class 0", "class 1"]
    save_for_hf(
        network,
        tmp_path,
        model_config={"label_names": names},
        data_config={"input_size": (3, 48, 48)},
        safe_serialization=True,
    )
    model = open_model(str(tmp_path), COLOUR)
    assert model.card.network is not None and model.card.network.startswith("timm:test_resnet")
    assert model.card.network_size == (48, 48) and model.card.order == (1, 2, 0)
    inputs = COLOUR.test.floats(slice(0, 4))
    resized = nn.functional.interpolate((inputs - 0.5) / 0.5, (48, 48), mode="bilinear", antialias=True)
    torch.testing.assert_close(model(inputs), network.eval()(resized)[:, [1, 2, 0]], rtol=1e-4, atol=1e-5)


def test_a_student_starts_from_a_repository_and_comes_back_without_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5)
    save_for_hf(network, tmp_path / "theirs", safe_serialization=True)
    model = as_model(f"hub:{tmp_path / 'theirs'}", COLOUR)
    own, start = state_of(model.network), state_of(network)
    assert [name for name in own if not torch.equal(own[name], start[name])] == ["fc.weight", "fc.bias"]
    (tmp_path / "run").mkdir()
    save(model, tmp_path / "run")
    shutil.rmtree(tmp_path / "theirs")
    inputs = COLOUR.test.floats(slice(0, 4))
    assert torch.equal(load(tmp_path / "run")(inputs), model.eval()(inputs))


def test_a_config_may_name_a_built_in_network_and_say_everything_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("mlp:4", (1, 4, 4), 3)
    config = {"network": "mlp:4", "id2label": {"0": "class 1", "1": "class 2", "2": "class 0"}}
    write(tmp_path, config, network, preprocessor_config={"image_mean": [0.3], "image_std": [0.2], "size": 4})
    model, inputs = open_model(str(tmp_path), DATA), DATA.test.floats()
    torch.testing.assert_close(model(inputs), network((inputs - 0.3) / 0.2)[:, [2, 0, 1]])
    assert model.card.network == "mlp:4" and read_recipe(str(tmp_path)).preprocessing.size == (4, 4)


def test_a_run_of_ours_is_opened_from_the_hubs_place_for_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = as_model("mlp:4", DATA)
    save(model, tmp_path)
    inputs = DATA.test.floats()
    for spec in (str(tmp_path), f"hub:{tmp_path}"):
        assert torch.equal(open_model(spec, DATA)(inputs), model.eval()(inputs))
    assert "holds a run" in message_of(lambda: build(f"hub:{tmp_path}", (1, 4, 4), 3))


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object, found list"),
        ({}, "names no network"),
        ({"network": 3}, "names no network"),
        ({"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}, "names no network"),
        ({"network": "evil.py:make"}, "names 'evil.py:make', not a built-in"),
        ({"network": "os:abort"}, "names 'os:abort', not a built-in"),
        ({"network": "hub:somebody/else"}, "names 'hub:somebody/else', not"),
        ({"network": "mlp:4@other.pt"}, "names 'mlp:4@other.pt', not"),
        ({"network": "timm:test_resnet,pretrained"}, "other weights than its own"),
        ({"network": "unheard"}, "unknown name 'unheard'"),
        ({"architecture": "test_resnet,pretrained"}, "other weights than its own"),
        ({"architecture": "hf-hub:somebody/else"}, "no classifier"),
        (
            {"architecture": "test_resnet", "model_args": {"checkpoint_path": "evil.pth"}},
            "'checkpoint_path' is not set",
        ),
        ({"architecture": "test_resnet", "model_args": {"drop_rate": "1,pretrained"}}, "is not 'option=value'"),
        ({"network": "mlp:4", "mean": [0.1, 0.2, 0.3, 0.4], "std": [1, 1, 1, 1]}, ""),
        ({"network": "mlp:4", "classes": ["a", "b"]}, "has 2 classes, the data has 3"),
        ({"network": "mlp:5"}, "the network expects (5"),
    ],
    ids=str,
)
def test_a_bad_config_is_refused_in_one_line(config: Any, words: str, tmp_path: Path) -> None:
    write(tmp_path, config, build("mlp:4", (1, 4, 4), 3))
    assert words in message_of(lambda: open_model(str(tmp_path), DATA))


def test_a_folder_without_weights_is_refused_by_the_missing_file(tmp_path: Path) -> None:
    write(tmp_path, {"network": "mlp:4"}, build("mlp:4", (1, 4, 4), 3))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "no file model.safetensors" in message_of(lambda: open_model(str(tmp_path), DATA))
    assert "no file config.json" in message_of(lambda: read_repository(tmp_path / "absent"))


# The hub itself -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one repository in two revisions, as a download leaves it; the hub is out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--somebody--digits"
    for seed, revision in ((1, "1" * 40), (2, "2" * 40)):
        torch.manual_seed(seed)
        write(repository / "snapshots" / revision, {"network": "mlp:4"}, build("mlp:4", (1, 4, 4), 3))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("2" * 40)
    (repository / "refs" / "first").write_text("1" * 40)
    return tmp_path


def test_a_repository_is_opened_from_the_cache_at_a_revision(cache: Path) -> None:
    inputs = DATA.test.floats()
    for spec, seed in (("hub:somebody/digits", 2), ("hub:somebody/digits@first", 1)):
        torch.manual_seed(seed)
        expected = build("mlp:4", (1, 4, 4), 3)(inputs)
        torch.testing.assert_close(open_model(spec, DATA)(inputs), expected)


@pytest.mark.parametrize("spec", ["hub:somebody/unheard", "hub:a/b/c/d", "hub:somebody/digits@nowhere", "hub:-"])
def test_a_repository_out_of_reach_is_refused_in_one_line(spec: str, cache: Path) -> None:
    assert "no such folder" in message_of(lambda: open_model(spec, DATA))


@pytest.mark.parametrize("spec", ["hub:", "hub:  "])
def test_no_repository_is_no_name(spec: str) -> None:
    assert "write hub:USER/REPO" in message_of(lambda: open_model(spec, DATA))


def test_only_json_and_safetensors_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def fetch(repository: str, **keywords: Any) -> str:
        asked.update(keywords, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert folder_of("hub:user/repo@v1") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("user/repo", "v1")
    assert all(name.endswith((".json", ".jsonl", ".safetensors")) for name in asked["allow_patterns"])


def test_the_extra_is_named_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert "pip install 'robust-student[hub]'" in message_of(lambda: folder_of("hub:user/repo"))


def test_a_run_is_no_repository(tmp_path: Path) -> None:
    save(as_model("mlp:4", DATA), tmp_path)
    assert not is_repository(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not is_repository(tmp_path) and read_repository(tmp_path).preprocessing == Preprocessing()
