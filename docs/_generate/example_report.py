"""The site's example of a report: everything that a page can hold, measured on digits while the site is built.

`python docs/_generate/example_report.py` draws docs/report.webp again: the page in Chromium, on a desktop and a phone.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import xaikit
from xaikit import RRR, Explainer, LRPEpsilonPlus, Report, SmoothGrad, SpRAy
from xaikit.explainers import AgglomerativeDecomposition
from xaikit.report import Names, Picture
from xaikit.mitigation import Comparison, assess
from xaikit.report.clusters import clusters_figure

CLASSES = [f"digit {i}" for i in range(10)]
PATCHED = 8  # the digit that half of the time carries a bright patch in a corner
EXPLAINERS = ("gradient", "integrated_gradients", "lrp_epsilon_plus")
PICTURE = Path(__file__).parents[1] / "report.webp"


def page() -> str:
    """The HTML."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        return _report(Path(folder)).html()


def _report(folder: Path) -> Report:
    x, y, corner = _data()
    plain, mended = _trained(x, y, corner, 0.0), _trained(x, y, corner, 10.0)
    # Of the held-out digits two with the patch come first.
    places = torch.arange(1000, len(y))
    stamped = places[(x[1000:, 0, 0, 0] == 1).nonzero().flatten()]
    held_out = tuple(values[torch.cat([stamped[:2], places[:38]])] for values in (x, y))
    runs = [
        xaikit.explain_dataset(_bound(name, plain), held_out, out=folder / name, keep_inputs=True, progress=False)
        for name in EXPLAINERS
    ]
    table = xaikit.evaluate(EXPLAINERS, ["abpc", "sparseness"], held_out, model=plain, progress=False)
    goals = ["abpc", "sparseness"]
    some = tuple(values[:10] for values in held_out)
    found = xaikit.tune(SmoothGrad(plain), goals, some, n_trials=8, seed=0, progress=False)
    rows = {
        name: [
            assess(m, (x[1000:1300], y[1000:1300]), shortcut_masks=corner, explainers="gradient", progress=False).row()
        ]
        for name, m in (("before", plain), ("after RRR", mended))
    }
    eights = x[y == PATCHED]
    heat = LRPEpsilonPlus(plain).explain(eights, PATCHED)
    clusters = clusters_figure(SpRAy()(heat), eights, attributions=heat.values)
    parts = AgglomerativeDecomposition(plain, feature_mask="grid:n_patches=6").hierarchy(
        held_out[0][:1], int(held_out[1][0])
    )
    sections = [
        *xaikit.report.profile_sections(xaikit.recommend(plain, "image")),
        *xaikit.report.evaluation_sections(table),
        *xaikit.report.tuning_sections(found),
        Picture(
            f"Shortcuts: how the {PATCHED}s are explained",
            clusters,
            f"{len(eights)} explanations of the digit {PATCHED} in clusters: one looks at the corner, one at the digit",
        ),
        *xaikit.report.mitigation_sections(Comparison(rows)),
        Picture("Parts that belong together", parts.plot(held_out[0][:1]), "from single patches to the whole digit"),
    ]
    return Report(runs, title="Digits with a patch", names=Names(classes=CLASSES), sections=sections)


def _data() -> tuple[Tensor, Tensor, Tensor]:
    digits = load_digits()
    y = torch.tensor(digits.target)
    x = nn.functional.pad(torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], [2] * 4)
    patched = (y == PATCHED) & (torch.rand(len(y), generator=torch.Generator().manual_seed(0)) < 0.5)
    x[patched, :, :3, :3] = 1
    corner = torch.zeros(12, 12)
    corner[:3, :3] = 1
    return x, y, corner


def _trained(x: Tensor, y: Tensor, corner: Tensor, weight: float) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(576, 10)),
    )
    rrr = RRR(lambda_rrr=weight, lr=3e-3, n_epochs=6, batch_size=50, random_state=0)
    rrr.fit(model, x[:1000], y[:1000], corner, progress=False)
    return model


def _bound(name: str, model: nn.Module) -> Explainer:
    return xaikit.EXPLAINERS.create(name).bind(model)


def picture(html: str) -> bytes:
    """The page on a desktop and on a phone, side by side, as a WebP."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    shots = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder, "report.html")
        path.write_text(html, encoding="utf-8")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, start in ((1000, "#samples"), (330, "h2:text-is('Mitigation')")):
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            view.goto(path.as_uri())
            view.locator(start).evaluate("e => e.scrollIntoView()")
            view.wait_for_timeout(1000)
            shots.append(Image.open(io.BytesIO(view.screenshot())).convert("RGB"))
        browser.close()
    both = Image.new("RGB", (sum(s.width for s in shots) + 30, 900), "#dddddd")
    for shot, left in zip(shots, (0, shots[0].width + 30), strict=True):
        both.paste(shot, (left, 0))
    buffer = io.BytesIO()
    both.save(buffer, "WEBP", quality=80, method=6)
    return buffer.getvalue()


if __name__ == "__main__":
    PICTURE.write_bytes(picture(page()))
