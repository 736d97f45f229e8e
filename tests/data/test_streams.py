"""Streams through the public API: which examples come when, however many processes share them."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import message_of
from streamed import hub_shards, stream_of, values, web_shards

from robust_student import load, load_data
from robust_student.cli.main import main
from robust_student.core.errors import UserError
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data import examples
from robust_student.runtime.files import read_json

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture(params=["wds", "hf-stream"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both kinds of streams, over the same examples in the same shards."""
    return web_shards(tmp_path) if request.param == "wds" else hub_shards(tmp_path / "hub")


def test_a_stream_gives_every_example_once_with_its_label_and_number(spec: str) -> None:
    data = load_data(spec)
    stream = stream_of(data)
    assert (stream.length, len(stream), stream.shape, data.shape) == (20, 20, (3, 5, 4), (3, 5, 4))
    assert data.classes == ("cat", "dog", "owl") and data.input_range == UNIT_RANGE
    numbers_by_value: dict[int, int] = {}
    for epoch in (1, 2):
        batches = list(stream.batches(epoch=epoch, batch_size=4, seed=0))
        assert len(batches) == 5 and all(inputs.shape == (4, 3, 5, 4) for inputs, _, _ in batches)
        assert all(
            inputs.dtype == torch.uint8 and labels.dtype == ids.dtype == torch.int64 for inputs, labels, ids in batches
        )
        seen = values(batches)
        assert sorted(seen) == list(range(100, 120))
        assert [value % 3 for value in seen] == [label for _, labels, _ in batches for label in labels.tolist()]
        ids = [number for _, _, ids in batches for number in ids.tolist()]
        assert len(set(ids)) == 20
        assert all(
            numbers_by_value.setdefault(value, number) == number for value, number in zip(seen, ids, strict=True)
        )


def test_test_and_validation_parts_are_in_memory(spec: str) -> None:
    data = load_data(spec)
    assert data.validation is not None
    assert [int(image.unique()) for image in data.test.inputs] == [0, 1, 2, 3]
    assert data.test.labels.tolist() == [0, 1, 2, 0]
    assert [int(image.unique()) for image in data.validation.inputs] == [10, 11, 12]


def test_the_order_depends_on_epoch_and_seed_alone(spec: str) -> None:
    one, other = stream_of(load_data(spec)), stream_of(load_data(spec, workers=3))
    orders = {
        (epoch, seed): values(list(one.batches(epoch=epoch, batch_size=5, seed=seed)))
        for epoch in (1, 2)
        for seed in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    for (epoch, seed), order in orders.items():
        assert values(list(other.batches(epoch=epoch, batch_size=5, seed=seed))) == order


@pytest.mark.parametrize(("batch_size", "world"), [(1, 1), (3, 2), (2, 3), (4, 4), (20, 1), (21, 1)])
def test_processes_share_each_step_of_one_process_without_duplicates(spec: str, batch_size: int, world: int) -> None:
    stream = stream_of(load_data(spec))
    alone = list(stream.batches(epoch=3, batch_size=batch_size * world, seed=7))
    shared = [
        list(stream.batches(epoch=3, batch_size=batch_size, seed=7, rank=rank, world=world)) for rank in range(world)
    ]
    assert len(alone) == 20 // (batch_size * world) and all(len(part) == len(alone) for part in shared)
    for step, (inputs, labels, numbers) in enumerate(alone):
        whole_step = [torch.cat([part[step][k] for part in shared]) for k in range(3)]
        assert torch.equal(whole_step[0], inputs)
        assert torch.equal(whole_step[1], labels) and torch.equal(whole_step[2], numbers)


@pytest.mark.parametrize("skip", [0, 1, 4, 5, 9])
def test_skipping_resumes_exactly(spec: str, skip: int) -> None:
    stream = stream_of(load_data(spec))
    whole = list(stream.batches(epoch=2, batch_size=2, seed=1, rank=1, world=2))
    rest = list(stream.batches(epoch=2, batch_size=2, seed=1, skip=skip, rank=1, world=2))
    assert values(rest) == values(whole[skip:])


def test_an_epoch_may_be_left_early(spec: str) -> None:
    stream = stream_of(load_data(spec))
    first = list(islice(stream.batches(epoch=1, batch_size=3, seed=0), 2))
    assert values(first) == values(list(stream.batches(epoch=1, batch_size=3, seed=0))[:2])


def test_statistics_come_from_the_start_of_an_epoch(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(spec)
    mean, std = data.statistics()
    pixels = np.arange(100, 120) / 255
    np.testing.assert_allclose(mean.flatten().numpy(), [pixels.mean()] * 3, rtol=1e-5)
    np.testing.assert_allclose(std.flatten().numpy(), [pixels.std()] * 3, rtol=1e-5)
    monkeypatch.setattr(examples, "STATISTICS_EXAMPLES", 8)
    monkeypatch.setattr(examples, "_BATCH", 4)
    some = np.array(values(list(stream_of(data).batches(epoch=1, batch_size=4, seed=0))[:2])) / 255
    np.testing.assert_allclose(data.statistics()[0].flatten().numpy(), [some.mean()] * 3, rtol=1e-5)


def test_a_stream_is_resized_to_what_a_model_expects(spec: str) -> None:
    stream = stream_of(load_data(spec, shape=(1, 8, 9)))
    (batch,) = stream.batches(epoch=1, batch_size=20, seed=0)
    assert batch[0].shape == (20, 1, 8, 9) and sorted(values([batch])) == list(range(100, 120))


def test_what_needs_all_examples_at_once_says_so(spec: str) -> None:
    assert "is a stream" in message_of(lambda: load_data(spec).training_examples)


def test_without_validation_training_examples_are_set_aside(spec: str, tmp_path: Path) -> None:
    if spec.startswith("wds"):
        spec = spec.replace(f"validation={tmp_path}/validation-0.tar,", "")
    else:
        (tmp_path / "hub" / "validation-00000.parquet").unlink()
    data = load_data(spec)
    assert data.validation is not None and len(data.validation) == 2 and stream_of(data).length == 18
    aside = {int(image.unique()) for image in data.validation.inputs}
    seen = values(list(stream_of(data).batches(epoch=1, batch_size=6, seed=0)))
    assert sorted([*seen, *aside]) == list(range(100, 120))
    again = load_data(spec).validation
    assert again is not None and torch.equal(again.inputs, data.validation.inputs)


def test_without_a_test_part_validation_is_the_test_set_and_without_either_it_is_refused(
    spec: str, tmp_path: Path
) -> None:
    if spec.startswith("wds"):
        spec = spec.replace(f"test={tmp_path}/test-0.tar,", "")
    else:
        (tmp_path / "hub" / "test-00000.parquet").unlink()
    data = load_data(spec)
    assert [int(image.unique()) for image in data.test.inputs] == [10, 11, 12]
    assert data.validation is not None and len(data.validation) == 2
    if spec.startswith("wds"):
        spec = spec.replace(f"validation={tmp_path}/validation-0.tar,", "")
    else:
        (tmp_path / "hub" / "validation-00000.parquet").unlink()
    assert "a stream needs a test part" in message_of(lambda: load_data(spec))


def test_at_most_so_many_examples_of_a_held_out_part_are_read(spec: str) -> None:
    data = load_data(f"{spec},held_out=2")
    assert data.validation is not None and len(data.test) == len(data.validation) == 2
    assert torch.equal(data.test.inputs, load_data(f"{spec},held_out=2").test.inputs)


def test_shards_with_fewer_examples_than_stated_are_named(spec: str) -> None:
    spec = spec.replace(",length=20", "") + ",length=21"
    stream = stream_of(load_data(spec))
    with pytest.raises(UserError, match="hold 20 training examples, not 21"):
        list(stream.batches(epoch=1, batch_size=3, seed=0))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("length=none", "length 'none' is not a positive whole number"),
        ("shuffle=0", "shuffle '0' is not a positive"),
        ("held_out=-1", "held_out '-1' is not a positive"),
        ("channels=2", "channels=2 is neither 1"),
        ("size=5x", "size '5x' is neither"),
        ("size=0", "size '0' is neither"),
        ("sise=5", "unknown option 'sise'; did you mean 'size'"),
    ],
)
def test_bad_options_are_refused(spec: str, option: str, words: str) -> None:
    name, _, _ = option.partition("=")
    rest = ",".join(part for part in spec.split(",") if not part.startswith(f"{name}="))
    assert words in message_of(lambda: load_data(f"{rest},{option}"))


def test_a_size_must_come_from_somewhere(spec: str) -> None:
    spec = spec.replace(",size=5x4", "")
    assert "needs the size" in message_of(lambda: load_data(spec))
    assert load_data(spec, image_size=7).shape == (3, 7, 7)
    assert load_data(spec + ",channels=1", image_size=(7, 6)).shape == (1, 7, 6)


def test_the_same_commands_train_teach_and_evaluate_on_a_stream(spec: str, tmp_path: Path) -> None:
    runs, data = tmp_path / "runs", ["--data", spec, "--epochs", "2", "--batch-size", "8"]
    main(["train", *data, "--model", "linear", "--output", str(runs / "teacher")])
    main(["distill", *data, "--teacher", str(runs / "teacher"), "--model", "mlp:4", "--output", str(runs / "student")])
    few = ["--autoattack", "none", "--pgd-steps", "1"]
    models = [str(runs / name) for name in ("teacher", "student")]
    main(["evaluate", *models, "--data", spec, "--output", str(runs / "evaluation"), *few])
    assert {record["model"] for record in read_json(runs / "evaluation" / "summary.json")} == {"teacher", "student"}
    student = load(runs / "student")
    assert student.card.classes == ("cat", "dog", "owl") and [e["epoch"] for e in student.history] == [1, 2]
