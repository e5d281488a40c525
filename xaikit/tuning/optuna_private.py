"""Names of Optuna that its documentation calls internal; tests/unit/tuning checks that they exist."""

from __future__ import annotations

from typing import Any


def disconnect(storage: Any) -> None:
    """Close the connections to a database; the study stays usable and opens them again where it needs them.

    Args:
        storage: an Optuna storage; only `RDBStorage` has connections.

    `RDBStorage.engine` and `RDBStorage.remove_session` exist, but Optuna calls its attributes internal. If they move,
    nothing fails here: the connections stay open until the process ends, which a small PostgreSQL server runs out of.
    """
    engine = getattr(storage, "engine", None)
    if engine is not None:
        storage.remove_session()
        engine.dispose()
