"""Which mask belongs to which sample: by name."""

from __future__ import annotations

import os.path
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations import AnnotatedPicture, Annotations
from xaikit.files.pictures import PICTURES, comparable
from xaikit.shortcuts.masks import mask_files

MASK_ENDINGS = ("_mask", "-mask", "_segmentation", "-segmentation", "_seg", "-seg")


def files_of(folder: Path, names: Sequence[str], *, is_file: bool) -> list[Path]:
    """The mask of each sample in a folder: the file of the sample's name, whatever its ending.

    A mask may carry "_mask" or "_segmentation" after the name, and a folder without subfolders serves pictures in
    subfolders whose file names differ. Samples without file names are matched by their numbers, 0.png, 1.png, ...

    Args:
        folder: of the masks.
        names: of the samples.
        is_file: whether the names are paths of files.

    Raises:
        InvalidInputError: for a sample without a mask; it is named.
    """
    files = mask_files(folder, below=True)
    masks = {comparable(f.relative_to(folder).with_suffix("").as_posix()): f for f in files}
    stripped = {next((k.removesuffix(end) for end in MASK_ENDINGS if k.endswith(end)), k): f for k, f in masks.items()}
    masks = {**stripped, **masks}
    keys = [comparable(PurePosixPath(name).with_suffix("").as_posix() if is_file else name) for name in names]
    if is_file and len(set(keys)) < len(keys):
        twice = [name for name, key in zip(names, keys, strict=True) if keys.count(key) > 1]
        raise InvalidInputError(
            f"--mask {folder}: {twice[0]} and {twice[1]} have one name but for their endings, so a mask could be of "
            "either; rename one"
        )
    flat = {key: PurePosixPath(key).name for key in keys}
    if len(set(flat.values())) == len(keys) and not set(keys) & set(masks):
        keys = [flat[key] for key in keys]
    if not is_file and not set(keys) & set(masks):
        numbers = {str(int(key)): f for key, f in masks.items() if key.isdecimal()}
        masks, keys = numbers, [str(i) for i in range(len(names))]
    missing = [name for name, key in zip(names, keys, strict=True) if key not in masks]
    unused = sorted({f.name for f in masks.values()} - {masks[key].name for key in keys if key in masks})
    extra = f"; {unused[0]} belongs to no sample" if unused else ""
    if missing:
        raise InvalidInputError(
            f"--mask {folder} holds no mask for {missing[0]} ({len(missing)} of {len(names)} samples){extra}; a mask "
            "has the name of its picture, and one without the region is black"
        )
    if unused:
        warnings.warn(f"--mask {folder}: {unused[0]} belongs to no sample ({len(unused)} such)", stacklevel=2)
    return [masks[key] for key in keys]


def annotated(annotations: Annotations, names: Sequence[str]) -> list[AnnotatedPicture | None]:
    """What was drawn on each picture; None, with a note, for a picture that the annotations do not name.

    Names are compared with their folders, without the folder that all have in common, or alone, each with and without
    its ending; the first way that matches counts.

    Args:
        annotations: of a tool.
        names: of the pictures.

    Raises:
        InvalidInputError: where names match in several ways, where nothing matches, or where pictures without
            annotations and annotations without pictures look like a mistake.
    """
    path, tool = annotations.path, {_posix(p.name): p for p in annotations.pictures}
    if len(tool) < len(annotations.pictures):
        twice = [p.name for p in annotations.pictures]
        name = next(name for name in twice if twice.count(name) > 1)
        raise InvalidInputError(f"--mask {path} names the picture {name} {twice.count(name)} times")
    for ways in _ways(list(tool), list(names)):
        theirs, ours = ([way(name) for name in group] for way, group in zip(ways, (tool, names), strict=True))
        if not set(theirs) & set(ours):
            continue
        _refuse_twice(path, theirs, list(tool), ours)
        _refuse_twice(path, ours, list(names), theirs)
        pictures = dict(zip(theirs, tool.values(), strict=True))
        missing = [name for name, key in zip(names, ours, strict=True) if key not in pictures]
        unused = [p.name for key, p in pictures.items() if key not in set(ours)]
        _tell(path, len(names), missing, unused)
        return [pictures.get(key) for key in ours]
    shown = annotations.pictures[0].name if annotations.pictures else "none"
    raise InvalidInputError(
        f"--mask {path} names none of the {len(names)} pictures, such as {names[0]}; it has {shown}"
    )


def _ways(theirs: list[str], ours: list[str]) -> list[tuple[Callable[[str], str], Callable[[str], str]]]:
    """Ways of comparing names of a tool with those of the pictures, the strictest first."""
    below = (_without(_common_folder(theirs)), _without(_common_folder(ours)))
    ways = [(_posix, _posix), below, (_base, _base)]
    return [pair for one, other in ways for pair in ((one, other), (_stem(one), _stem(other)))]


def _without(folder: str) -> Callable[[str], str]:
    return lambda name: _posix(name).removeprefix(folder)


def _base(name: str) -> str:
    return PurePosixPath(_posix(name)).name


def _stem(way: Callable[[str], str]) -> Callable[[str], str]:
    def stem(name: str) -> str:
        key = PurePosixPath(way(name))
        # "scan.2" is a name, not a name with an ending.
        return key.with_suffix("").as_posix() if key.suffix.lower() in PICTURES else key.as_posix()

    return stem


def _common_folder(names: list[str]) -> str:
    folders = [PurePosixPath(_posix(name)).parent.as_posix() for name in names]
    common = os.path.commonpath(folders) if folders and all(f != "." for f in folders) else ""
    return f"{common}/" if common else ""


def _posix(name: str) -> str:
    return comparable(PurePosixPath(name.replace("\\", "/")).as_posix())


def _refuse_twice(path: str, keys: list[str], names: list[str], others: list[str]) -> None:
    """Refuse a name that two have, where the other side has it."""
    counts = Counter(keys)
    key = next((k for k in others if counts[k] > 1), None)
    if key is not None:
        twice = [name for name, k in zip(names, keys, strict=True) if k == key]
        raise InvalidInputError(
            f"--mask {path}: {twice[0]} and {twice[1]} are both called {key}; the annotations must name pictures with "
            "their folders"
        )


def _tell(path: str, total: int, missing: list[str], unused: list[str]) -> None:
    if missing and unused:
        raise InvalidInputError(
            f"--mask {path} says nothing of {missing[0]} ({len(missing)} of {total} pictures), and names {unused[0]}, "
            f"which is not there ({len(unused)} such); is it about other pictures?"
        )
    if missing:
        warnings.warn(
            f"--mask {path} says nothing of {missing[0]} ({len(missing)} of {total} pictures); such a picture counts "
            "as one without the region",
            stacklevel=3,
        )
    if unused:
        warnings.warn(f"--mask {path}: {unused[0]} belongs to no picture ({len(unused)} such)", stacklevel=3)
