"""YOLO: one text file for each picture, a line for each box or polygon, in shares of the width and the height."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations.reading import number
from xaikit.files.annotations.regions import AnnotatedPicture, Annotations, Polygon, box, polygon

NAMES = ("classes.txt", "obj.names", "labels.txt")  # files of class names, one on each line
SLACK = 0.01  # by which a share may leave [0, 1]: tools round


def read_yolo(files: Sequence[Path], path: Path) -> Annotations:
    """The regions of each picture, which is known by the name of its file of annotations.

    A line is ``class x y width height`` (the box's centre), with a confidence at its end or not, or
    ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon). Class names come from classes.txt or a data.yaml in the folder or the
    one above; without them a label is the class's number.

    Args:
        files: of annotations.
        path: the file, or the folder that holds them.

    Raises:
        InvalidInputError: for lines of another form.
    """
    folder = path if path.is_dir() else path.parent
    names = _names(folder)
    pictures, labels = [], set(names)
    for file in files:
        name = file.relative_to(path).with_suffix("").as_posix() if path.is_dir() else file.stem
        regions = [_region(line, i, file, names) for i, line in enumerate(_lines(file), 1) if line.strip()]
        labels |= {label for label, _ in regions}
        pictures.append(AnnotatedPicture(name, regions))
    return Annotations(str(path), pictures, sorted(labels), is_of_one=path.is_file())


def _region(line: str, i: int, file: Path, names: Sequence[str]) -> tuple[str, Polygon]:
    where = f"{file}, line {i}"
    values = [number(text, where) for text in line.split()]
    n = len(values) - 1
    if n not in (4, 5) and (n < 6 or n % 2) or values[0] != int(values[0]):
        raise InvalidInputError(
            f"{where}: a line of YOLO is a class with x, y, width and height, or with three points or more, got "
            f"{line.strip()[:60]!r}"
        )
    shares = values[1:5] if n == 5 else values[1:]
    if min(shares) < -SLACK or max(shares) > 1 + SLACK:
        raise InvalidInputError(f"{where}: YOLO has shares of the picture, between 0 and 1, got {line.strip()[:60]!r}")
    k = int(values[0])
    label = names[k] if 0 <= k < len(names) else str(k)
    if n > 5:
        return label, polygon(list(zip(shares[::2], shares[1::2], strict=True)), where)
    x, y, width, height = shares
    return label, box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as err:
        raise InvalidInputError(f"{file} is not a text file ({err})") from None


def _names(folder: Path) -> list[str]:
    """Names of the classes by number; none where no file gives them."""
    for place in (folder, folder.parent):
        for name in NAMES:
            if (place / name).is_file():
                return [line.strip() for line in _lines(place / name) if line.strip()]
        if (place / "data.yaml").is_file():
            return _yaml_names(place / "data.yaml")
    return []


def _yaml_names(path: Path) -> list[str]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError) as err:
        raise InvalidInputError(f"{path} is not YAML ({' '.join(str(err).split())[:120]})") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[k] for k in range(len(names))]
    if not isinstance(names, list):
        raise InvalidInputError(f"{path} needs 'names', the names of the classes in their order")
    return [str(name) for name in names]
