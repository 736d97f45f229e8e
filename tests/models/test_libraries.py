"""timm's and torchvision's networks by name: built for the data, started from weights, saved and loaded again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from reference import assert_state, message_of, state_of, toy_data
from torch import Tensor

from robust_student.core.errors import UserError
from robust_student.core.extras import fix_for_torchvision
from robust_student.core.tensors import Shape
from robust_student.data.readers.load import Data
from robust_student.models import libraries
from robust_student.models.costs import count_parameters
from robust_student.models.libraries import LibraryNetwork, library_module
from robust_student.models.model import as_model
from robust_student.models.preprocessing import Preprocessing
from robust_student.models.registry import build, read_recipe
from robust_student.models.run_directory import load, save

COLOUR = toy_data(shape=(3, 32, 32))
GREY = toy_data(shape=(1, 32, 32))
SMALL = ["timm:test_resnet", "timm:test_vit", "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def refusal(spec: str, shape: Shape = (3, 32, 32)) -> str:
    return message_of(lambda: build(spec, shape, 3))


# Names ----------------------------------------------------------------------------------------------------------------


def test_a_spec_is_taken_apart() -> None:
    network = LibraryNetwork.parse("timm:resnet10t.c3_in1k,drop_rate=0.1,pretrained,act_layer=silu")
    assert network.name == "resnet10t.c3_in1k" and network.pretrained
    assert network.architecture == "timm:resnet10t,drop_rate=0.1,act_layer=silu"
    assert LibraryNetwork.parse(network.architecture).architecture == network.architecture


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("timm:resnet10", "did you mean 'resnet1"),
        ("torchvision:shufflenet", "did you mean 'shufflenet_v2_x"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classifier"),
        ("torchvision:r3d_18", "no classifier"),
        ("timm:hf-hub:somebody/network", "no classifier"),
        ("timm:local-dir:folder", "no classifier"),
        ("timm:../../file", "no classifier"),
        ("timm:test_resnet,drop_rate", "'drop_rate' is not 'option=value'"),
        ("timm:test_resnet,=3", "'=3' is not"),
        ("timm:test_resnet,drop_rate=[", "is not a number or a word"),
        ("timm:test_resnet,checkpoint_path=evil.pth", "'checkpoint_path' is not set there"),
        ("timm:test_resnet,pretrained_cfg=evil", "'pretrained_cfg' is not set there"),
        ("timm:test_resnet,pretrained_cfg_overlay=evil", "is not set there"),
        ("timm:test_resnet,num_classes=7", "'num_classes' is not set there"),
        ("timm:test_resnet,pretrained=true", "'pretrained' is not set there"),
        ("torchvision:resnet18,weights=DEFAULT", "'weights' is not set there"),
        ("timm:test_resnet,depth=3", "timm cannot build it"),
        ("torchvision:resnet18,depth=3", "torchvision cannot build it"),
        ("timm:test_vit,img_size=large", "a side in pixels"),
        ("timm:test_vit,img_size=0", "a side in pixels"),
        ("timm:", "names no file"),
        ("timm:test_resnet@", "names no file of weights after '@'"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_line(spec: str, words: str) -> None:
    if spec == "timm:":
        words = "unknown name 'timm:'"
    assert words in refusal(spec)


@pytest.mark.parametrize("spec", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_tables_are_refused(spec: str) -> None:
    assert "needs images" in refusal(spec, (20,))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("No module named 'timm'"), "pip install 'robust-student[vision]'"),
        (RuntimeError("operator torchvision::nms does not exist\nmore"), "does not fit this torch"),
    ],
)
def test_a_missing_or_broken_library_is_named_with_its_extra(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, *rest: Any) -> Any:
        raise error

    library_module.cache_clear()
    libraries._names.cache_clear()
    monkeypatch.setattr("robust_student.core.extras.import_module", fail)
    try:
        with pytest.raises(UserError) as caught:
            build("timm:resnet18", (3, 32, 32), 3)
    finally:
        monkeypatch.undo()
        library_module.cache_clear()
    if isinstance(error, RuntimeError):
        assert str(caught.value).endswith(fix_for_torchvision())
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.parametrize(
    "data", [COLOUR, GREY, replace(COLOUR, classes=COLOUR.classes[:2])], ids=["rgb", "grey", "two"]
)
def test_a_network_is_built_for_the_data_and_comes_back_from_its_run(spec: str, data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = as_model(spec, data)
    assert model.card.network == spec and model.card.network_size is None
    mean, std = data.statistics()
    torch.testing.assert_close((model.mean, model.std), (mean, std))
    model.train()(data.training_examples.floats(slice(0, 8)))  # moves the statistics of BatchNorm
    save(model, tmp_path)
    again = load(tmp_path)
    assert_state(again, state_of(model))
    assert torch.equal(again(data.test.floats()), model.eval()(data.test.floats()))


def test_options_change_the_network_and_are_kept(tmp_path: Path) -> None:
    plain, wide = (as_model(f"timm:test_resnet{option}", COLOUR) for option in ("", ",stem_width=8"))
    assert count_parameters(plain) != count_parameters(wide)
    save(wide, tmp_path)
    assert load(tmp_path).card.network == "timm:test_resnet,stem_width=8"


@pytest.mark.parametrize(("size", "expected"), [("64", (64, 64)), ("48x64", (48, 64))])
def test_a_network_of_a_fixed_size_resizes_its_inputs_when_asked(
    size: str, expected: tuple[int, int], tmp_path: Path
) -> None:
    model = as_model(f"timm:test_vit,img_size={size}", COLOUR)
    assert model.card.network_size == expected and model.card.input_shape == (3, 32, 32)
    save(model, tmp_path)
    inputs = COLOUR.test.floats()
    assert torch.equal(load(tmp_path)(inputs), model.eval()(inputs))


def test_torchvisions_vision_transformer_takes_the_datas_size() -> None:
    with torch.device("meta"):
        assert build("torchvision:vit_b_32", (3, 64, 64), 3)(torch.empty(2, 3, 64, 64)).shape == (2, 3)


# Weights --------------------------------------------------------------------------------------------------------------


class Downloads:
    """Stands where a library fetches weights: keeps what was asked for, gives the weights of a network of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.keywords: dict[str, Any] = {}
        self.weights: dict[str, Tensor] | Exception = {}
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", self.fetch)
        monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", self.fetch)

    def fetch(self, source: Any, *rest: Any, **keywords: Any) -> dict[str, Tensor]:
        self.asked.append(str(source))
        self.keywords = keywords
        if isinstance(self.weights, Exception):
            raise self.weights
        return dict(self.weights)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    return Downloads(monkeypatch)


@pytest.mark.parametrize(
    ("spec", "normalisation", "size"),
    [
        ("timm:test_resnet", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), (160, 160)),
        ("torchvision:shufflenet_v2_x0_5", IMAGENET, (224, 224)),
    ],
)
@pytest.mark.parametrize("data", [COLOUR, GREY], ids=["rgb", "grey"])
def test_a_student_starts_from_pretrained_weights_with_their_normalisation_and_size(
    spec: str, normalisation: Any, size: tuple[int, int], data: Data, downloads: Downloads, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    theirs = build(spec, (3, 32, 32), 1000)
    downloads.weights = state_of(theirs)
    model = as_model(f"{spec},pretrained", data)
    assert len(downloads.asked) == 1
    own, start = state_of(model.network), state_of(theirs)
    different = [name for name in own if own[name].shape != start[name].shape]
    assert 0 < len(different) <= 2  # weight and bias of the last layer
    assert all(torch.equal(own[name], start[name]) for name in own if name not in different)
    for statistic, expected in zip((model.mean, model.std), normalisation, strict=True):
        torch.testing.assert_close(statistic, torch.tensor(expected).view(3, 1, 1))
    assert model.card.network_size == size and model.card.classes == data.classes and model.card.order is None
    assert model.card.network == spec
    save(model, tmp_path)
    inputs = data.test.floats(slice(0, 2))
    assert torch.equal(load(tmp_path)(inputs), model.eval()(inputs))
    assert len(downloads.asked) == 1  # nothing is fetched again
    if data is GREY:
        colour = (inputs.expand(-1, 3, -1, -1) - model.mean) / model.std
        assert model.resize is not None and torch.equal(model(inputs), model.network(model.resize(colour)))


def test_weights_are_fetched_without_unpickling(downloads: Downloads) -> None:
    downloads.weights = state_of(build("torchvision:squeezenet1_1", (3, 32, 32), 1000))
    build("torchvision:squeezenet1_1,pretrained", (3, 32, 32), 3)
    assert downloads.keywords["weights_only"] is True and downloads.keywords["check_hash"] is True


@pytest.mark.parametrize("spec", ["timm:test_resnet,pretrained", "torchvision:squeezenet1_1,pretrained"])
def test_weights_out_of_reach_are_an_error_that_says_what_to_do(spec: str, downloads: Downloads) -> None:
    downloads.weights = OSError("[Errno -3] Temporary failure in name resolution\nsecond line")
    message = refusal(spec)
    assert "no pretrained weights" in message and "@FILE" in message and "name resolution" in message


def test_a_download_of_something_else_is_an_error(downloads: Downloads) -> None:
    downloads.weights = {"some": torch.zeros(3)}
    assert "squeezenet1_1" in refusal("torchvision:squeezenet1_1,pretrained")


def test_googlenets_weights_keep_their_transformation_of_the_input() -> None:
    assert LibraryNetwork.parse("torchvision:googlenet,pretrained").architecture.endswith(",transform_input=true")
    assert LibraryNetwork.parse("torchvision:googlenet").architecture == "torchvision:googlenet"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("timm:test_resnet", Preprocessing()),
        ("timm:test_vit,img_size=64", Preprocessing(size=(64, 64))),
        ("timm:test_resnet@w.pth", Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ("timm:test_vit@w.pth", Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (160, 160))),
        ("timm:test_vit,img_size=32@w.pth", Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (32, 32))),
        ("timm:test_resnet,pretrained", Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (160, 160))),
        ("timm:resnet10t,pretrained", Preprocessing(*IMAGENET, (176, 176))),
        ("torchvision:squeezenet1_1@w.pth", Preprocessing(*IMAGENET)),
        ("torchvision:vit_b_32,image_size=48x64", Preprocessing(size=(48, 64))),
        ("torchvision:vit_b_32@w.pth", Preprocessing(*IMAGENET, (224, 224))),
    ],
)
def test_what_a_network_expects_of_its_inputs(spec: str, expected: Preprocessing) -> None:
    assert read_recipe(spec).preprocessing == expected


def test_torchvisions_weights_bring_the_names_of_their_classes() -> None:
    preprocessing = read_recipe("torchvision:resnet18,pretrained").preprocessing
    assert (
        preprocessing.classes is not None and len(preprocessing.classes) == 1000 and preprocessing.classes[0] == "tench"
    )
    assert (preprocessing.mean, preprocessing.std) == IMAGENET and preprocessing.size == (224, 224)


def test_a_students_own_file_of_weights_is_a_start_even_for_other_classes(tmp_path: Path) -> None:
    torch.manual_seed(2)
    theirs = build("timm:test_resnet", (3, 32, 32), 7)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "w.pth")
    model = as_model(f"timm:test_resnet@{tmp_path / 'w.pth'}", COLOUR)
    own, start = state_of(model.network), state_of(theirs)
    assert [name for name in own if not torch.equal(own[name], start[name])] == ["fc.weight", "fc.bias"]
    assert model.card.network == "timm:test_resnet"
