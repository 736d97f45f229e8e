"""Hugging Face datasets that are read as they are needed, from the Hub or from files."""

from collections.abc import Iterator
from typing import Any

from robust_student.core.errors import UserError
from robust_student.data.examples import Data
from robust_student.data.readers.huggingface import OPTIONS as NAMED
from robust_student.data.readers.huggingface import (
    Columns,
    choose_splits,
    class_number,
    encoded,
    find_columns,
    load_splits,
    undecoded,
)
from robust_student.data.readers.shards import OPTIONS as SHARED
from robust_student.data.readers.shards import (
    EncodedExample,
    Shards,
    asked_format,
    class_names,
    number_option,
    streamed,
)
from robust_student.data.spec import Spec

OPTIONS = (*NAMED, *SHARED)
"""Names that may follow the name or path."""
_ROWS = 1_000  # of a saved dataset, per shard


def read_hf_stream(spec: Spec) -> Data:
    """`hf-stream:NAME_OR_PATH,size=HxW[,length=N][,classes=FILE]...` with the options of `hf:`; rows read as needed.

    A shard is a file of the dataset. `length` is known where the dataset says it. Needs the extra `data`.
    """
    form = asked_format(spec)
    splits = choose_splits(load_splits(spec, streaming=True), spec)
    lengths = {part: _length(dataset) for part, dataset in splits.items()}
    if "length" not in spec.options and lengths["train"] is None:
        spec.refuse("the dataset does not state the number of its training examples; add length=N")
    datasets = {part: _streaming(dataset) for part, dataset in splits.items()}
    columns = find_columns(datasets["train"].features, spec)
    classes = columns.classes or class_names(spec)
    if not classes:
        spec.refuse("the dataset has no class names; add classes=FILE (one per line) or their number, as in classes=10")
    parts: dict[str, Shards] = {
        part: _HubShards(undecoded(dataset, columns.image, spec), columns, classes, f"data '{spec.text}': {part}")
        for part, dataset in datasets.items()
    }
    return streamed(spec, parts, classes, number_option(spec, "length", lengths["train"] or 1), form)


class _HubShards(Shards):
    """The files of one split."""

    def __init__(self, dataset: Any, columns: Columns, classes: tuple[str, ...], source: str) -> None:
        self.dataset, self.columns, self.classes, self.source = dataset, columns, classes, source

    def __len__(self) -> int:
        return int(self.dataset.num_shards)

    def read(self, shard: int) -> Iterator[EncodedExample]:
        """The rows of a shard in their order, their images as files."""
        rows = self.dataset.shard(num_shards=len(self), index=shard)
        try:
            for position, row in enumerate(rows):
                place = f"{self.source} shard {shard} row {position}"
                label = class_number(row[self.columns.label], self.classes, place)
                yield EncodedExample(encoded(row[self.columns.image], place), label, place)
        except UserError:
            raise
        except Exception as error:  # whatever the library makes of a damaged file or a lost connection
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"{self.source} shard {shard}: datasets cannot read it ({reason})") from None


def _streaming(dataset: Any) -> Any:
    """The dataset as one that is iterated over: one that `save_to_disk` wrote is divided into shards of _ROWS rows."""
    if hasattr(dataset, "to_iterable_dataset"):
        return dataset.to_iterable_dataset(num_shards=max(1, len(dataset) // _ROWS))
    return dataset


def _length(dataset: Any) -> int | None:
    """How many rows a split has, where that is known without reading it."""
    if hasattr(dataset, "to_iterable_dataset"):
        return len(dataset)
    splits = dataset.info.splits or {}
    split = splits.get(str(dataset.split)) if dataset.split is not None else None
    return None if split is None or not split.num_examples else int(split.num_examples)
