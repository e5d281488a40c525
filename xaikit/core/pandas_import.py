"""The import of pandas, which is optional."""

from __future__ import annotations

from typing import Any

from xaikit.core.errors import MissingDependencyError


def import_pandas(instead: str = "to_dict()") -> Any:
    """The pandas package.

    Raises:
        MissingDependencyError: where it is absent; the message names what to use `instead`.
    """
    try:
        import pandas as pd
    except ImportError as err:
        raise MissingDependencyError(
            f"a DataFrame needs pandas: pip install 'xaikit[tables]', or use {instead}"
        ) from err
    return pd
