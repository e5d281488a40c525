"""Models and weights by name: what loads, and what is refused in which words."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xaikit.cli.models import load_model
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, XaikitError

FACTORY = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
ready = make()
def late():
    import xaikit_test_sibling
    return xaikit_test_sibling.model
def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = f"factory_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path / name


def test_a_factory_and_a_module_object_from_the_current_folder(folder: Path) -> None:
    assert isinstance(load_model(f"{folder.name}:make")[0], nn.Linear)
    assert not load_model(f"{folder.name}:ready").training


def test_a_factory_may_import_its_neighbours(folder: Path) -> None:
    folder.with_name("xaikit_test_sibling.py").write_text("from torch import nn\nmodel = nn.Linear(3, 2)")
    assert isinstance(load_model(f"{folder.name}:late"), nn.Linear)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("wrapped", ["", "checkpoint", "module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_weights_arrive(folder: Path, suffix: str, wrapped: str) -> None:
    plain = load_model(f"{folder.name}:make").state_dict()
    state = {(wrapped if "." in wrapped else "") + k: v for k, v in plain.items()}
    path = folder.with_suffix(suffix)
    if suffix == ".pt":
        torch.save({"model": state, "epoch": 3} if wrapped == "checkpoint" else state, path)
    else:
        save_file(state, path)
    loaded = load_model(f"{folder.name}:make", path).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in plain.items())


def test_a_prefix_that_the_model_has_itself_stays(folder: Path) -> None:
    script = folder.with_suffix(".py")
    script.write_text("from torch import nn\nmake = lambda: nn.ModuleDict({'module': nn.Linear(3, 2)})")
    path = folder.with_suffix(".pt")
    torch.save({"module.weight": torch.ones(2, 3), "module.bias": torch.zeros(2)}, path)
    assert torch.equal(load_model(f"{script}:make", path).state_dict()["module.weight"], torch.ones(2, 3))
    torch.save({"net.module.weight": torch.ones(2, 3), "net.bias": torch.zeros(2)}, path)
    with pytest.raises(InvalidInputError, match="missing: module.weight, module.bias; unexpected: net.module.weight"):
        load_model(f"{script}:make", path)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("resnet18", InvalidInputError, "or 'hf:FOLDER', got 'resnet18'"),
        ("no_such_module:make", UnknownNameError, "cannot import 'no_such_module'"),
        ("FACTORY:mak", UnknownNameError, "has no 'mak'; did you mean 'make'"),
        ("FACTORY:number", InvalidTypeError, "returns a torch.nn.Module, and .* returned int"),
        ("torchvision:resnet19", UnknownNameError, "no model 'resnet19'; did you mean 'resnet1"),
    ],
)
def test_a_wrong_name_is_told(folder: Path, name: str, error: type[XaikitError], words: str) -> None:
    with pytest.raises(error, match=words):
        load_model(name.replace("FACTORY", folder.name))


def test_torchvision_without_weights_warns_and_repeats() -> None:
    with pytest.warns(UserWarning, match="squeezenet1_1 has random weights"):
        first = load_model("torchvision:squeezenet1_1")
    with pytest.warns(UserWarning, match="random weights"):
        second = load_model("torchvision:squeezenet1_1")
    assert torch.equal(next(first.parameters()), next(second.parameters()))


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    path = folder.with_suffix(".pt")
    torch.save({"0.weight": torch.zeros(5, 3), "head": torch.zeros(1)}, path)
    with pytest.raises(InvalidInputError) as told:
        load_model(f"{folder.name}:make", path)
    text = str(told.value)
    assert "missing: 0.bias, 1.weight, 1.bias, 1.running_mean and 4 more" in text
    assert "unexpected: head" in text
    assert "0.weight: (5, 3) in the file, (4, 3) in the model" in text


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)


def test_a_pickle_is_never_run(folder: Path) -> None:
    whole, raw = folder.with_suffix(".pt"), folder.with_suffix(".pth")
    torch.save(Bomb(), whole)
    raw.write_bytes(pickle.dumps(Bomb(), protocol=2))
    for path in (whole, raw):
        with pytest.raises(InvalidInputError, match="holds more than weights.*state_dict"):
            load_model(f"{folder.name}:make", path)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("content", "suffix", "words"),
    [
        (b"", ".pt", "is empty"),
        (b"hello", ".safetensors", "not a .safetensors file"),
        (None, ".pt", "no such file"),
    ],
)
def test_a_broken_file_is_told(folder: Path, content: bytes | None, suffix: str, words: str) -> None:
    path = folder.with_suffix(suffix)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=words):
        load_model(f"{folder.name}:make", path)


def test_a_tensor_is_no_state_dict(folder: Path) -> None:
    path = folder.with_suffix(".pt")
    torch.save([torch.zeros(2)], path)
    with pytest.raises(InvalidInputError, match="holds no state dict"):
        load_model(f"{folder.name}:make", path)


PAYLOAD = """
import pathlib
pathlib.Path("ran").write_text("")
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizer
class Config(PretrainedConfig): model_type = "own"
class Model(PreTrainedModel): pass
class Tokenizer(PreTrainedTokenizer): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["Model", "AutoModel", "AutoModelForCausalLM", "pipeline", "Trainer", 3, None])
def test_a_hugging_face_folder_never_runs_its_own_code(
    architecture: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from xaikit.cli.hugging_face import tokenizer_of

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    own = tmp_path / "own"
    auto = {name: f"code.{name.removeprefix('Auto')}" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}
    auto["AutoTokenizer"] = ["code.Tokenizer", None]
    content = {"auto_map": auto, "model_type": "own", "tokenizer_class": "Tokenizer"}
    (own / "config.json").write_text(json.dumps({**content, "architectures": [architecture]}))
    (own / "tokenizer_config.json").write_text(json.dumps(content))
    (own / "code.py").write_text(PAYLOAD)
    save_file({"a": torch.zeros(1)}, own / "model.safetensors")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whatever is typed at a prompt
    tokenizer_of.cache_clear()
    assert tokenizer_of("hf:own") is None
    with pytest.raises(InvalidInputError, match=r"config\.json names no model class .* does not run"):
        load_model("hf:own")
    assert not (tmp_path / "ran").exists()


def test_timm_reads_no_file_by_a_setting() -> None:
    pytest.importorskip("timm")
    for setting in ("checkpoint_path=evil.pth", "pretrained=true", "cache_dir=x"):
        with pytest.raises(InvalidInputError, match="--weights"):
            load_model(f"timm:resnet18:{setting}")
