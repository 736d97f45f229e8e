"""Image folders: one sub-folder of images per class."""

from pathlib import Path

from robust_student.core.errors import UserError
from robust_student.core.tensors import UNIT_RANGE
from robust_student.data.cache import remember, stamps
from robust_student.data.decoding import ALONE, EncodedImages, decode_all, read_headers
from robust_student.data.examples import Data, Examples
from robust_student.data.groups import captured, with_groups
from robust_student.data.images import IMAGE_SUFFIXES, ImageFormat, common_format
from robust_student.data.samples import held_out_by_name, with_test_part
from robust_student.data.spec import Spec

_VALIDATION = ("validation", "val", "valid")
"""Names of the folder of validation images."""
Listing = dict[str, list[Path]]
"""The image files of each class."""


def read_folder(spec: Spec) -> Data:
    """Images in one sub-folder per class; `train`, `test` and `validation` below the folder where they exist.

    Without `test`, `validation` is the test set. Without either, a fifth of the images, chosen by a hash of their
    names, is set aside: adding images moves none of the others. Groups are captured in paths below a part's folder;
    with them the fifth is chosen group by group, and stratified.
    """
    folder = spec.folder
    spec.require_images()
    roots, listings, classes = _listed(spec)
    paths = [path for listing in listings.values() for images in listing.values() for path in images]
    form = _format(paths, spec)
    if "test" not in listings and spec.group is None:
        listings["train"], listings["test"] = _divide(listings["train"], folder, spec)
    parts = {part: _decode(listing, classes, form, spec.workers) for part, listing in listings.items()}
    if spec.group is not None:
        parts = _grouped(parts, listings, roots, classes, spec.group)
    parts = with_test_part(parts, classes)
    name, validation = folder.resolve().name, parts.get("validation")
    return Data(name, parts["train"], parts["test"], tuple(classes), UNIT_RANGE, validation=validation)


def image_files(spec: Spec) -> dict[str, list[Path]]:
    """The files of each part of a folder in the order of its examples, where it is divided by names; UserError."""
    _, listings, classes = _listed(spec)
    if "test" not in listings:
        listings["train"], listings["test"] = _divide(listings["train"], spec.folder, spec)
    return {part: _in_order(listing, classes) for part, listing in listings.items()}


def _listed(spec: Spec) -> tuple[dict[str, Path], dict[str, Listing], list[str]]:
    """The folder and the files of each part that is there, and the classes."""
    roots = _roots(spec.folder)
    listings = {part: _list_images(root) for part, root in roots.items()}
    classes = sorted(listings["train"])
    for part, listing in listings.items():
        if set(listing) - set(classes):
            extra = sorted(set(listing) - set(classes))[0]
            raise UserError(f"data folder {roots[part]}: class '{extra}' has no training images")
    if len(classes) < 2:
        spec.refuse(f"found {len(classes)} class, need at least two sub-folders of images")
    return roots, listings, classes


def _roots(folder: Path) -> dict[str, Path]:
    """The folder of each part; `train` alone is the whole folder where there are no parts."""
    train, test = folder / "train", folder / "test"
    validation = [folder / name for name in _VALIDATION if (folder / name).is_dir()]
    if len(validation) > 1:
        names = " and ".join(f"'{path.name}'" for path in validation)
        raise UserError(f"data folder {folder}: {names} may both hold the validation images; keep one")
    if not train.is_dir() or not (test.is_dir() or validation):
        return {"train": folder}
    if not test.is_dir():
        return {"train": train, "test": validation[0]}
    return {"train": train, "test": test} | ({"validation": validation[0]} if validation else {})


def _list_images(root: Path) -> Listing:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    listing = {}
    for folder in folders:
        images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise UserError(f"data folder {folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        listing[folder.name] = images
    return listing


def _divide(listing: Listing, folder: Path, spec: Spec) -> tuple[Listing, Listing]:
    """The images to train on and the fifth that is held out by name."""
    train: Listing = {}
    test: Listing = {}
    for name, images in listing.items():
        chosen = {path for path in images if held_out_by_name(path.relative_to(folder).as_posix())}
        train[name], test[name] = [p for p in images if p not in chosen], [p for p in images if p in chosen]
        if not train[name]:
            few = f"all {len(images)} images of class '{name}' fall into the fifth held out for testing"
            spec.refuse(f"{few}; add images, or make sub-folders train and test")
    if not any(test.values()):
        spec.refuse("too few images to hold out a fifth for testing; add images, or make sub-folders train and test")
    return train, test


def _format(paths: list[Path], spec: Spec) -> ImageFormat:
    """What a model expects; else what suits all images, remembered where they are many."""
    if spec.shape is not None:
        return ImageFormat(*spec.shape)

    def compute() -> ImageFormat:
        return common_format(read_headers(_pictures(paths), spec.workers), spec.size)

    if len(paths) <= ALONE:
        return compute()
    return ImageFormat(*remember({"what": "format", "files": stamps(paths), "size": spec.size}, compute))


def _grouped(
    parts: dict[str, Examples], listings: dict[str, Listing], roots: dict[str, Path], classes: list[str], pattern: str
) -> dict[str, Examples]:
    """The parts with groups, which the pattern captures in each path below the part's folder."""
    names = {}
    for part, listing in listings.items():
        paths = _in_order(listing, classes)
        below = [path.relative_to(roots[part]).as_posix() for path in paths]
        names[part] = captured(below, pattern, [f"image {path}" for path in paths])
    return with_groups(parts, names)


def _in_order(listing: Listing, classes: list[str]) -> list[Path]:
    return [path for name in classes for path in listing.get(name, [])]


def _decode(listing: Listing, classes: list[str], form: ImageFormat, workers: int) -> Examples:
    paths = _in_order(listing, classes)
    labels = [label for label, name in enumerate(classes) for _ in listing.get(name, [])]
    return decode_all(_pictures(paths), labels, form, workers)


def _pictures(paths: list[Path]) -> EncodedImages:
    return EncodedImages(paths, [f"image {path}" for path in paths], {"what": "files", "files": stamps(paths)})
