"""A pretended accelerator: the device "fake" keeps its tensors in host memory and computes on the CPU.

It refuses what a GPU would refuse (tensors of two devices in one operation), and counts what a GPU must wait for
(`counts.items()`: a value read by Python, such as `.item()`, `bool(tensor)`, `float(tensor)`). Importing it compiles
device.cpp (a C++ compiler and the package ninja; about a minute) and registers the device. What was compiled is kept in
the folder of temporary files, for every clone that has the same source.

    PYTHONPATH=tests python - <<'E'
    import pretend_gpu, torch
    x = torch.randn(3, 4).to("fake"); print(x.device, (x @ x.T).sum().item(), pretend_gpu.counts.items())
    E

Not covered: nn.LSTM/GRU/RNN modules (their fused kernels), random numbers of the device's own (they come from the CPU),
streams, fused attention. End a script with os._exit(0): the autograd thread of the device does not end by itself.
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import types

import torch
from torch.utils.cpp_extension import load

_source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "device.cpp")
with open(_source, "rb") as _file:
    _digest = hashlib.sha256(_file.read()).hexdigest()[:8]
_tag = f"{torch.__version__}_{sys.implementation.cache_tag}_{os.getuid()}_{_digest}"
_build = os.path.join(tempfile.gettempdir(), f"pretend_gpu_{_tag}")
os.makedirs(_build, exist_ok=True)
_copy = os.path.join(_build, "device.cpp")
if not os.path.exists(_copy):  # a newer copy would be compiled again
    shutil.copy(_source, f"{_copy}.{os.getpid()}")
    os.replace(f"{_copy}.{os.getpid()}", _copy)
_library, _built = os.path.join(_build, "pretend_gpu_device.so"), os.path.join(_build, "whole")
if os.path.exists(_built):  # else it would be compiled anew for each clone, whose torch lies elsewhere
    _spec = importlib.util.spec_from_file_location("pretend_gpu_device", _library)
    counts = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(counts)
else:
    counts = load("pretend_gpu_device", [_copy], build_directory=_build)
    with open(_built, "w"):
        pass
torch.utils.rename_privateuse1_backend("fake")
counts.setup()


class _Device:
    def __init__(self, device: object) -> None: ...
    def __enter__(self) -> "_Device":
        return self

    def __exit__(self, *error: object) -> bool:
        return False


_module = types.ModuleType("torch.fake")
for _name, _value in {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "is_initialized": lambda: True,
    "_is_in_bad_fork": lambda: False,
    "_lazy_init": lambda: None,
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda device=None: torch.get_rng_state(),
    "set_rng_state": lambda state, device=None: None,
    "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
    "device": _Device,
}.items():
    setattr(_module, _name, _value)
sys.modules["torch.fake"] = _module
torch._register_device_module("fake", _module)
torch.utils.generate_methods_for_privateuse1_backend()
