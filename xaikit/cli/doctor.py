"""`xaikit doctor`: what is installed, what does not fit together, what to do about it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys

from xaikit.cli.job import Job

LIBRARIES = {
    "torch": "computes everything",
    "zennit": "the rules of LRP",
    "captum": "more explainers",
    "optuna": "tune",
    "matplotlib": "figures",
    "scikit-learn": "demo, shortcuts",
    "safetensors": "runs: pip install 'xaikit[cli]'",
    "jinja2": "report: pip install 'xaikit[report]'",
    "scikit-image": "superpixels: pip install 'xaikit[images]'",
    "pandas": "tables: pip install 'xaikit[tables]'",
    "pyarrow": "Parquet: pip install 'xaikit[parquet]'",
    "pydicom": "DICOM: pip install 'xaikit[dicom]'",
    "lightning-fabric": "several processes: pip install 'xaikit[train]'",
    "psycopg": "PostgreSQL: pip install 'xaikit[postgresql]'",
    "torchvision": "torchvision:NAME",
    "timm": "timm:NAME",
    "transformers": "hf:FOLDER",
}
NEEDED = ("torch", "zennit", "captum", "optuna", "matplotlib", "scikit-learn")


class Doctor(Job):
    """Say what is installed, what does not fit together, and what to do about it.

    \b
    Examples:
      xaikit doctor
      xaikit doctor --json
    """  # noqa: D301

    VERB = "doctor"

    def run(self) -> int:
        """Look and tell; 1 where something that xaikit needs is missing or broken."""
        versions = {name: _version(name) for name in LIBRARIES}
        problems = [f"{name} is missing: pip install {name}" for name in NEEDED if versions[name] is None]
        notes = _notes(versions) if versions["torch"] else []
        machine = {"python": platform.python_version(), "system": platform.platform(), **_devices(versions)}
        lines = [f"{name:18} {value}" for name, value in machine.items()]
        lines += [f"{name:18} {version or '-':14} {LIBRARIES[name]}" for name, version in versions.items()]
        lines += [] if self.quiet else [f"note: {text}" for text in notes]
        lines += [f"problem: {text}" for text in problems] or ["nothing that xaikit needs is missing"]
        self.tell("\n".join(lines), machine=machine, versions=versions, problems=problems, notes=notes)
        return 1 if problems else 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(versions: dict[str, str | None]) -> dict[str, str]:
    if versions["torch"] is None:
        return {}
    import torch

    names = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {"devices": ", ".join(["cpu", *names]), "threads": str(torch.get_num_threads())}


def _notes(versions: dict[str, str | None]) -> list[str]:
    """What works around itself or is needed for some things only."""
    notes = []
    if versions["torchvision"] is not None:
        from xaikit.core.torchvision_ops import compiled_ops_match

        if not compiled_ops_match():
            notes.append(
                f"torchvision {versions['torchvision']} was built for another torch than {versions['torch']}: its "
                "compiled operations (nms, roi_align) do not load; xaikit and its models work without them, and a "
                "torchvision from the same source as torch mends it"
            )
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "firefox"))):
        notes.append("no browser was found; a report opens in any, here or on another machine")
    if sys.platform != "win32" and shutil.which("make") is None:
        notes.append("make is missing; it is needed for `make demo` and `make test` only")
    return notes
