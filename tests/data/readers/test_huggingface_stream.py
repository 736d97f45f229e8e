"""Streams through the library `datasets`."""

from pathlib import Path

import datasets
import pytest
from reference import message_of
from streamed import hub_shards, stream_of, values

from robust_student import load_data

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def test_a_saved_dataset_is_streamed_with_its_own_length(tmp_path: Path) -> None:
    hub_shards(tmp_path / "hub")
    saved = datasets.load_dataset(str(tmp_path / "hub"))
    saved.save_to_disk(str(tmp_path / "saved"))
    stream = stream_of(load_data(f"hf-stream:{tmp_path / 'saved'},size=5x4"))
    assert stream.length == 20
    assert sorted(values(list(stream.batches(epoch=1, batch_size=5, seed=0)))) == list(range(100, 120))


def test_a_dataset_without_length_or_class_names_asks_for_them(tmp_path: Path) -> None:
    spec = hub_shards(tmp_path / "hub").replace(",length=20", "")
    assert "add length=N" in message_of(lambda: load_data(spec))
    for path in (tmp_path / "hub").glob("*.parquet"):
        dataset = datasets.Dataset.from_parquet(str(path)).cast_column("label", datasets.Value("int64"))
        dataset.to_parquet(path)
    assert "add classes=FILE" in message_of(lambda: load_data(f"{spec},length=20"))
    assert load_data(f"{spec},length=20,classes=3").classes == ("0", "1", "2")


def test_a_damaged_file_of_a_stream_is_named(tmp_path: Path) -> None:
    spec = hub_shards(tmp_path / "hub")
    path = tmp_path / "hub" / "train-00001.parquet"
    data = load_data(spec)
    path.write_bytes(path.read_bytes()[:100])
    message = message_of(lambda: list(stream_of(data).batches(epoch=1, batch_size=2, seed=0)))
    assert "train shard 1" in message and "cannot read it" in message
