"""WebDataset shards: tar files in which the files of one example share a name."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from robust_student.core.errors import UserError
from robust_student.core.extras import require
from robust_student.data.cache import remember, stamps
from robust_student.data.examples import Data
from robust_student.data.images import IMAGE_SUFFIXES
from robust_student.data.readers.huggingface import class_number
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

OPTIONS = ("test", "validation", *SHARED)
"""Names that may follow the pattern of the training shards."""
_SCHEMES = ("", "file", "http", "https", "gs", "hf", "ais")
_LABELS = ("cls", "cls.txt", "json")
_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)


def read_wds(spec: Spec) -> Data:
    """`wds:PATTERN,test=PATTERN,classes=FILE,size=HxW[,validation=PATTERN][,length=N]...`: shards, read as needed.

    A pattern is a path or address with braces (`train-{0000..0099}.tar`) or, for local files, asterisks. An example is
    an image (`KEY.jpg`, ...) and its class number or name in `KEY.cls` or as "label" in `KEY.json`; other files are
    not read, and nothing is unpickled. `length` counts the examples of the training shards; local ones are counted.
    Needs the extra `streaming`.
    """
    require("webdataset", "streaming", f"data '{spec.text}'")
    form, classes = asked_format(spec), class_names(spec)
    if not classes:
        spec.refuse("needs the class names; add classes=FILE (one per line) or their number, as in classes=10")
    patterns = {"train": spec.place} | {part: spec.options[part] for part in OPTIONS[:2] if part in spec.options}
    shards = {part: _WebShards(_expanded(pattern, spec), classes) for part, pattern in patterns.items()}
    train = shards["train"]
    if "length" not in spec.options and not all(_is_local(url) for url in train.urls):
        spec.refuse("needs the number of training examples, because only local shards can be counted; add length=N")
    length = number_option(spec, "length", 1) if "length" in spec.options else sum(map(_count, train.urls))
    parts: dict[str, Shards] = {part: shards_of_part for part, shards_of_part in shards.items()}
    return streamed(spec, parts, classes, length, form)


class _WebShards(Shards):
    """Tar files of one part of a set."""

    def __init__(self, urls: list[str], classes: tuple[str, ...]) -> None:
        self.urls, self.classes = urls, classes

    def __len__(self) -> int:
        return len(self.urls)

    def read(self, shard: int) -> Iterator[EncodedExample]:
        """The examples of a shard in their order, as bytes: webdataset takes the files apart, it decodes nothing."""
        from webdataset.gopen import gopen
        from webdataset.tariterators import group_by_keys, tar_file_expander

        url = self.urls[shard]
        try:
            with gopen(url, "rb") as stream:
                files = tar_file_expander([{"url": url, "stream": stream}], select_files=_is_image_or_label)
                for content in group_by_keys(files):
                    yield self._sample(content, f"data shard {url}: example '{content['__key__']}'")
        except (OSError, ValueError, EOFError, tarfile.TarError) as error:
            reason = " ".join(str(error.args[0] if error.args else error).split())[:200]
            raise UserError(f"data shard {url}: cannot read it ({reason})") from None

    def _sample(self, content: dict[str, Any], place: str) -> EncodedExample:
        images = [name for name in content if name in _IMAGES]
        labels = [name for name in _LABELS if name in content]
        if len(images) != 1:
            raise UserError(f"{place}: holds {len(images)} images, not one")
        if not labels:
            raise UserError(f"{place}: holds no label ({', '.join(_LABELS)})")
        return EncodedExample(content[images[0]], self._label(labels[0], content[labels[0]], place), place)

    def _label(self, kind: str, content: bytes, place: str) -> int:
        try:
            text = content.decode("utf-8").strip()
            label = json.loads(text)["label"] if kind == "json" else text
        except (UnicodeDecodeError, ValueError, KeyError, TypeError):
            raise UserError(f"{place}: its {kind} file holds no label") from None
        if isinstance(label, str) and label not in self.classes and label.isdecimal() and len(label) < 10:
            label = int(label)
        return class_number(label, self.classes, place)


def _expanded(pattern: str, spec: Spec) -> list[str]:
    """The shards that a pattern names, in order; UserError where a local one is missing or it would run a command."""
    from webdataset.shardlists import expand_urls

    urls = []
    for url in expand_urls(pattern):
        if urlparse(url).scheme not in _SCHEMES or url == "-":
            spec.refuse(f"cannot read shards from '{url[:60]}'; give files, or addresses of {', '.join(_SCHEMES[1:])}")
        matches = [url]
        if _is_local(url) and "*" in url:
            matches = [str(path) for path in sorted(Path(url).parent.glob(Path(url).name))]
        if not matches or (_is_local(url) and not Path(matches[0]).is_file()):
            spec.refuse(f"no shard {url}")
        urls += matches
    return urls


def _is_local(url: str) -> bool:
    return urlparse(url).scheme == ""


def _is_image_or_label(name: str) -> bool:
    """Whether a file is an image or a label; anything else is not even read."""
    suffix = name.rpartition("/")[2].partition(".")[2].lower()
    return suffix in _IMAGES or suffix in _LABELS


def _count(url: str) -> int:
    """How many examples a local shard holds, from the names of its files; remembered."""

    def compute() -> int:
        from webdataset.tariterators import base_plus_ext

        count, last = 0, None
        try:
            with tarfile.open(url) as tar:
                for entry in tar:
                    if entry.isreg() and _is_image_or_label(entry.name):
                        key, _ = base_plus_ext(entry.name)
                        count, last = count + (key != last), key
        except (OSError, EOFError, tarfile.TarError) as error:
            raise UserError(f"data shard {url}: cannot read it ({' '.join(str(error).split())[:200]})") from None
        return count

    return int(remember({"what": "examples of a shard", "files": stamps([Path(url)])}, compute))
