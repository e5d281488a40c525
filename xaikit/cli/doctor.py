"""`xaikit doctor`: which versions are installed, which do not fit together, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from xaikit.cli.job import JOBS, Job, argument

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
# The libraries that verbs need, and those that some values of their flags need.
OF_VERBS = {
    "explain": ("zennit", "captum", "matplotlib", "safetensors"),
    "evaluate": ("zennit", "captum"),
    "recommend": ("zennit", "captum"),
    "tune": ("zennit", "captum", "optuna", "matplotlib"),
    "mitigate": ("zennit", "captum", "safetensors"),
    "shortcuts": ("scikit-learn", "matplotlib", "safetensors"),
    "report": ("matplotlib", "jinja2", "safetensors"),
    "demo": ("zennit", "scikit-learn", "matplotlib", "jinja2"),
}
USES = {
    "model": {
        "torchvision": "--model torchvision:NAME",
        "timm": "--model timm:NAME",
        "transformers": "--model hf:FOLDER",
    },
    "data": {"pyarrow": "--data FILE.parquet", "pydicom": "--data with DICOM files"},
    "processes": {"lightning-fabric": "--processes or --precision of mitigate"},
    "storage": {"psycopg": "--storage postgresql://..."},
}
NEEDED = ("torch", "zennit", "captum", "optuna", "matplotlib", "scikit-learn")


class Doctor(Job):
    """Say what is installed, what does not fit together, and what to do about it; with a VERB, what that one needs.

    \b
    Examples:
      xaikit doctor
      xaikit doctor mitigate
      xaikit doctor --json
    """  # noqa: D301

    VERB = "doctor"

    verb: str = argument("", metavar="[VERB]", help="A verb, such as mitigate: only what it needs and can use.")

    def run(self) -> int:
        """Print the versions and notes; return 1 if something that xaikit needs is missing or broken."""
        of_verb = _of_verb(self.verb)
        versions = {name: _version(name) for name in LIBRARIES if name in of_verb}
        problems = [f"{name} is missing: pip install {name}" for name in NEEDED if versions.get(name, "") is None]
        if self.verb and not os.access(Path.cwd(), os.W_OK):
            problems.append(f"the folder {Path.cwd()} cannot be written to; name another with --out")
        notes = _notes(versions) if versions["torch"] and not self.verb else []
        machine = {"python": platform.python_version(), "system": platform.platform(), **_devices(versions)}
        lines = [f"{name:18} {value}" for name, value in machine.items()]
        lines += [f"{name:18} {version or '-':14} {LIBRARIES[name]}" for name, version in versions.items()]
        lines += [] if self.quiet else [f"note: {text}" for text in notes]
        lines += [
            f"{name} is not there, which is fine unless you use {use}"
            for name, use in of_verb.items()
            if use and versions.get(name, "") is None and self.verb
        ]
        lines += [f"problem: {text}" for text in problems] or [f"nothing that {self.verb or 'xaikit'} needs is missing"]
        self.tell("\n".join(lines), machine=machine, versions=versions, problems=problems, notes=notes)
        return 1 if problems else 0


def _of_verb(verb: str) -> dict[str, str]:
    """The libraries that a verb needs (with no text) and those that some of its flags need; without a verb, all."""
    from xaikit.core.errors import UnknownNameError, near_names

    if not verb:
        return dict.fromkeys(LIBRARIES, "")
    if verb not in JOBS:
        raise UnknownNameError(f"there is no verb {verb!r}{near_names(verb, JOBS)}")
    fields = JOBS[verb].model_fields
    uses = {name: use for flag_name, names in USES.items() if flag_name in fields for name, use in names.items()}
    return {"torch": "", **dict.fromkeys(OF_VERBS.get(verb, ()), ""), **uses}


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
    """Notes on packages that only some features need, or for which xaikit has a way around."""
    notes = []
    if versions.get("torchvision") is not None:
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
