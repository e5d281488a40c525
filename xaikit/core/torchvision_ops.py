"""Import torchvision also where its compiled operators do not match torch.

A CPU torch beside a CUDA torchvision, a common mix-up, makes ``import torchvision`` (and so ``import zennit``, which
needs its Python classes) fail with "operator torchvision::nms does not exist". Only detection models call these
operators; for all else it is enough that torch knows their signatures.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from xaikit.core.errors import MissingDependencyError

# The operators for which torchvision registers shape functions while it is imported.
SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))
_defined: list[torch.library.Library] = []  # a Library takes its definitions away with it when it is collected


def compiled_ops_match() -> bool:
    """Whether torchvision's own operators loaded; False where `import_torchvision` had to declare them."""
    import_torchvision()
    return not _defined


def import_torchvision() -> ModuleType:
    """The torchvision package; operators that its own library failed to bring are declared, without a kernel.

    Raises:
        MissingDependencyError: when torchvision is absent, or fails for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as err:
        if "operator torchvision::" not in str(err):
            raise MissingDependencyError(f"torchvision does not import: {err}") from err
    except ImportError as err:
        raise MissingDependencyError(f"this needs torchvision, which does not import: {err}") from err
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported by the attempt above
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    _defined.append(library)
    try:
        return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as err:
        raise MissingDependencyError(f"torchvision does not match torch {torch.__version__}: {err}") from err
