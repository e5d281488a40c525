"""What the readers of annotation files share: fields of the right type, JSON and XML that cannot do harm."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations.regions import MOST_PIXELS, Bitmap


def number(value: Any, where: str) -> float:
    """A finite number, also where a file has it as text.

    Raises:
        InvalidInputError: for anything else; `where` names the place.
    """
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise InvalidInputError(f"{where} must be a number, got {str(value)[:40]!r}")
    return result


def size_of(height: Any, width: Any, where: str) -> tuple[int, int]:
    """(height, width) of a picture.

    Raises:
        InvalidInputError: for what are no sizes.
    """
    size = (int(number(height, f"{where}: the picture's height")), int(number(width, f"{where}: the picture's width")))
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise InvalidInputError(f"{where}: no picture has {size[0]}x{size[1]} pixels")
    return size


def field(content: Any, key: str, kind: type, where: str) -> Any:
    """A field of a JSON object, of the right type.

    Raises:
        InvalidInputError: where it is missing or of another type.
    """
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise InvalidInputError(f"{where} needs {key!r} ({kind.__name__}), got {str(value)[:40]!r}")
    return value


def run_lengths(counts: Any, size: tuple[int, int], where: str, *, by_columns: bool) -> Bitmap:
    """Pixels from the lengths of runs, outside and inside in turn.

    Args:
        counts: the lengths; the first is of pixels outside.
        size: (height, width).
        where: for the message.
        by_columns: the runs go down the columns, as COCO has them; else along the rows.

    Raises:
        InvalidInputError: for lengths that do not add up to the size.
    """
    lengths = [int(number(c, where)) for c in counts]
    if any(length < 0 for length in lengths) or sum(lengths) != size[0] * size[1]:
        raise InvalidInputError(f"{where}: the runs do not add up to {size[0]}x{size[1]} pixels")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return Bitmap(flat.reshape(size[::-1]).T if by_columns else flat.reshape(size))


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InvalidInputError: for a file that is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as err:
        raise InvalidInputError(f"{path} is not JSON ({' '.join(str(err).split())[:120]})") from None


def read_xml(path: Path) -> Element:
    """The root of an XML file without a document type: entities, which could grow without end, are not read.

    Raises:
        InvalidInputError: for a file that is none, or one that declares a document type.
    """
    parser, builder = expat.ParserCreate(), TreeBuilder()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: Any) -> None:
        raise InvalidInputError(f"{path} declares a document type, which xaikit does not read; remove <!DOCTYPE ...>")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except InvalidInputError:
        raise
    except (expat.ExpatError, AssertionError, ValueError, LookupError) as err:
        raise InvalidInputError(f"{path} is not XML ({' '.join(str(err).split())[:120]})") from None
