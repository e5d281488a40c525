"""Damaged files: every kind that xaikit reads, with bytes flipped, cut off, or another file's content.

``python -m tests.damaged_files --seeds 0:1260`` prints a line for each file that ends in anything but success or a
sentence of xaikit's own that names the file. A seed gives a kind of file, a damage and its places.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from xaikit import RRR, Attribution, Gradient, explain_dataset, load_masks, load_run
from xaikit.cli import main as command_line
from xaikit.cli.job import JOBS, load_job
from xaikit.cli.models import load_model
from xaikit.core.errors import XaikitError
from xaikit.files.annotations import read_annotations
from xaikit.files.arrays import read_npy, read_npz
from xaikit.files.encoding import fit_encoding, load_encoding
from xaikit.files.pictures import open_picture
from xaikit.files.tables import read_table
from xaikit.files.weights import read_weights
from xaikit.metrics import Evaluation, evaluate

DAMAGES = ("flipped", "cut", "foreign", "empty", "text", "zeros")
SLOW = 20.0  # seconds that no damaged file may take


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def _train(path: Path, epochs: int = 2) -> None:
    x = torch.linspace(0, 1, 48).reshape(8, 6)
    mitigator = RRR(n_epochs=epochs, batch_size=4, random_state=0)
    mitigator.fit(net(), x, torch.arange(8) % 2, torch.eye(6)[0], checkpoint=path, progress=False)


def _read_run(path: Path) -> None:
    folder = path.parent if path.name == "manifest.json" else path.parent.parent
    for sample in load_run(folder):
        sample.values.sum()  # noqa: B018


def _mask(path: Path) -> None:
    load_masks(path, size=(8, 8))


READERS: dict[str, Callable[[Path], Any]] = {
    "attribution.npz": Attribution.load,
    "attribution.safetensors": Attribution.load,
    "run/shard": _read_run,
    "run/manifest.json": _read_run,
    "checkpoint.pt": _train,
    "array.npy": lambda path: np.array(read_npy(path)).sum(),
    "array.npz": read_npz,
    "job.yaml": load_job,
    "job.toml": load_job,
    "job.json": load_job,
    "mask.png": _mask,
    "mask.npy": _mask,
    "heat.npz": _mask,
    "coco.json": _mask,
    "labelme.json": _mask,
    "cvat.xml": _mask,
    "yolo.txt": _mask,
    "coco packed.json": read_annotations,
    "picture.tif": open_picture,
    "weights.pt": read_weights,
    "weights.safetensors": read_weights,
    "model.pt": lambda path: load_model("tests.damaged_files:net", path),
    "table.csv": lambda path: [read_table(path).column(name) for name in read_table(path).header],
    "table.jsonl": read_table,
    "encoding.json": load_encoding,
    "evaluation.json": Evaluation.load,
}


def write_all(folder: Path) -> dict[str, Path]:
    """A whole file of each kind."""
    assert {"explain"} <= set(JOBS), command_line  # the verbs are there once the command line is imported
    folder.mkdir(parents=True, exist_ok=True)
    x, y = torch.linspace(0, 1, 30).reshape(5, 6), torch.arange(5) % 2
    heat = Gradient(net()).explain(x, y)
    files = {name: folder / name for name in READERS if "/" not in name}
    for name in ("attribution.npz", "attribution.safetensors", "heat.npz"):
        heat.save(files[name])
    run = explain_dataset(Gradient(net()), (x, y), out=folder / "run", keep_inputs=True, progress=False)
    files["run/manifest.json"] = folder / "run" / "manifest.json"
    files["run/shard"] = next(p for p in (folder / "run").rglob("*") if p.suffix == ".safetensors")
    assert len(run) == 5
    _interrupted_training(files["checkpoint.pt"])
    np.save(files["array.npy"], np.arange(48.0).reshape(6, 8))
    np.save(files["mask.npy"], np.eye(8))
    np.savez_compressed(files["array.npz"], x=np.arange(48.0).reshape(6, 8), y=np.arange(6))
    job = {"verb": "explain", "model": "nets:make", "source": "a.png"}
    files["job.json"].write_text(json.dumps(job))
    files["job.yaml"].write_text("".join(f"{k}: {v}\n" for k, v in job.items()))
    files["job.toml"].write_text("".join(f'{k} = "{v}"\n' for k, v in job.items()))
    Image.fromarray((np.eye(8) * 255).astype(np.uint8)).save(files["mask.png"])
    Image.fromarray((np.eye(8) * 65535).astype(np.uint16)).save(files["picture.tif"])
    _annotations(files)
    torch.save(net().state_dict(), files["weights.pt"])
    torch.save(net().state_dict(), files["model.pt"])
    from safetensors.torch import save_file

    save_file(net().state_dict(), files["weights.safetensors"])
    files["table.csv"].write_text("a;b\n1,5;2\n3;4\n")
    files["table.jsonl"].write_text('{"text": "a", "label": "b"}\n' * 3)
    fit_encoding(read_table(files["table.csv"]), ["a", "b"], one_hot=["b"]).save(files["encoding.json"])
    evaluate({"g": Gradient(net())}, ["sparseness"], (x, y), progress=False).save(files["evaluation.json"])
    return files


def _interrupted_training(path: Path) -> None:
    """The checkpoint of a training that was stopped after its first step."""
    x = torch.linspace(0, 1, 48).reshape(8, 6)
    RRR(n_epochs=1, batch_size=4, random_state=0).fit(
        net(), x, torch.arange(8) % 2, torch.eye(6)[0], checkpoint=path, progress=False
    )


def _annotations(files: dict[str, Path]) -> None:
    image = {"id": 1, "file_name": "a.png", "height": 8, "width": 8}
    polygon = {"image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]], "bbox": [1, 1, 4, 4]}
    packed = {**polygon, "segmentation": {"size": [8, 8], "counts": ":440V1"}}
    for name, item in (("coco.json", polygon), ("coco packed.json", packed)):
        content = {"images": [image], "annotations": [item], "categories": [{"id": 1, "name": "ruler"}]}
        files[name].write_text(json.dumps(content))
    shape = {"label": "ruler", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}
    files["labelme.json"].write_text(json.dumps({"imageHeight": 8, "imageWidth": 8, "shapes": [shape]}))
    files["cvat.xml"].write_text(
        '<annotations><image name="a.png" width="8" height="8"><box label="r" xtl="1" ytl="1" xbr="5" ybr="5"/>'
        '<mask label="r" rle="2,4" left="1" top="1" width="3" height="2"/></image></annotations>'
    )
    files["yolo.txt"].write_text("0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.5 0.1 0.5 0.5\n")


def damaged(content: bytes, damage: str, random: np.random.Generator, others: list[bytes]) -> bytes:
    """The content of a file after some damage."""
    if damage == "flipped":
        # Half of them near the beginning, where headers are.
        data = bytearray(content)
        size = len(data) if random.random() < 0.5 else min(len(data), 120)
        for at in random.integers(0, size, int(random.integers(1, 9))):
            data[at] = int(random.integers(256))
        return bytes(data)
    if damage == "cut":
        return content[: int(random.integers(len(content)))]
    if damage == "foreign":
        return others[int(random.integers(len(others)))]
    return {"empty": b"", "text": b"no such thing\n", "zeros": bytes(len(content))}[damage]


def judge(files: dict[str, Path], contents: dict[str, bytes], seed: int) -> str:
    """What is wrong with how the file of a seed is read; nothing where it is right."""
    random = np.random.default_rng(seed)
    name = list(READERS)[seed % len(READERS)]
    damage = DAMAGES[int(random.choice(len(DAMAGES), p=[0.5, 0.2, 0.2, 0.04, 0.03, 0.03]))]
    path = files[name]
    path.write_bytes(damaged(contents[name], damage, random, list(contents.values())))
    begun = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[name](path)
    except XaikitError as err:
        if path.name not in str(err) and path.parent.name not in str(err):
            return f"{name} {damage}: {type(err).__name__} without the file's name: {str(err)[:120]}"
    except Exception as err:
        return f"{name} {damage}: raw {type(err).__name__}: {str(err)[:120]}"
    finally:
        path.write_bytes(contents[name])
    took = time.monotonic() - begun
    return f"{name} {damage}: took {took:.0f} s" if took > SLOW else ""


def main() -> None:
    """Damage the files of a range of seeds, print what is not told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:1260")
    begin, end = map(int, parser.parse_args().seeds.split(":"))
    folder = Path(tempfile.mkdtemp())
    files = write_all(folder)
    contents = {name: path.read_bytes() for name, path in files.items()}
    problems = 0
    for seed in range(begin, end):
        problem = judge(files, contents, seed)
        problems += bool(problem)
        if problem:
            print(f"seed {seed}: {problem}", flush=True)
    print(f"{problems} of {end - begin} damaged files were not told")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
