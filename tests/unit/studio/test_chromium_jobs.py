"""From a mask that the mouse draws to the verdict on the page; a training that outlives the server and a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import warnings

import numpy as np
import pytest
import torch

from tests.forks import warm
from tests.unit.studio.screen import drag, link_of, mark, opened, pixels, saved, serve, until
from xaikit import explain_dataset
from xaikit.cli.data import array
from xaikit.cli.demo_digits import make_network
from xaikit.explainers import GradientXInput
from xaikit.mitigation import Counterexamples
from xaikit.studio import Studio

pytestmark = pytest.mark.nightly
NETWORK = "xaikit.cli.demo_digits:make_network"
SIDE, CORNER = 12, 3
WAIT, SLOW = 300_000, 180  # ms, s


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Samples told by a corner and by the lower half, a model that follows the corner, and its explanations."""
    folder = tmp_path_factory.mktemp("trained")
    y = torch.arange(160) % 2
    x = 0.3 * torch.rand(160, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    x[:, :, 6:] += 0.06 * y.view(-1, 1, 1, 1)
    x[:, :, :CORNER, :CORNER] = y.view(-1, 1, 1, 1).float()
    mask = torch.zeros(SIDE, SIDE)
    mask[:CORNER, :CORNER] = 1
    torch.manual_seed(0)
    model = make_network()
    train = Counterexamples(lambda_ce=0.0, lr=3e-3, n_epochs=6, batch_size=16, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "8 of the model's 10 outputs")  # it is the demo's, for ten digits
        train.fit(model, x, y, mask, progress=False)
    np.savez(folder / "d.npz", x=x.numpy(), y=y.numpy())
    torch.save(model.state_dict(), folder / "w.pt")
    explain_dataset(
        GradientXInput(model), array(folder / "d.npz"), out=folder / "run", keep_inputs=True, progress=False
    )
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "story")


def named(folder):
    return {"model": NETWORK, "weights": str(folder / "w.pt"), "data": str(folder / "d.npz")}


def start_mending(page, folder, epochs):
    """Draw the corner, for all samples, and click on mend."""
    place = mark(page, 0, "all samples", side=SIDE)
    drag(page, place, (0.3, 0.3), (CORNER - 0.4, CORNER - 0.4))
    saved(page)
    expected = np.zeros((SIDE, SIDE), bool)
    expected[:CORNER, :CORNER] = True
    assert np.array_equal(pixels(folder / "run", "must-not-matter/all.png"), expected)
    page.locator("header a[data-view=mend]").click()
    form = page.locator("form.start").filter(has=page.get_by_role("button", name="Mend the model"))
    form.locator("summary").click()
    form.get_by_label("Epochs at most").fill(str(epochs))
    page.get_by_role("button", name="Mend the model").click()


def see_the_verdict(page):
    page.get_by_role("link", name="See the result").click(timeout=WAIT)
    page.wait_for_selector(".verdict")
    return page.locator(".verdict").text_content().replace("\u00a0", " ")


def job_file(folder, name):
    return json.loads((folder / "run" / "studio" / "jobs" / "1" / name).read_text())


def finish(folder):
    """Wait until the job's process has said how it ended."""
    for _ in range(10 * SLOW):
        if (folder / "run" / "studio" / "jobs" / "1" / "exit.json").is_file():
            break
        time.sleep(0.1)
    assert job_file(folder, "exit.json") == {"code": 0}


def test_a_mask_drawn_by_the_mouse_mends_the_model(browser, folder):
    running = Studio(folder / "run", **named(folder)).start()
    page = opened(browser, running.link)
    with warm():
        start_mending(page, folder, 8)
        page.get_by_role("link", name="See the result").wait_for(timeout=WAIT)
    verdict = see_the_verdict(page)
    mended = job_file(folder, "mended.json")
    assert verdict == mended["verdict"]
    assert "does not rely" in verdict
    assert mended["mend"]["tries"][0]["accuracy_exchanged"] < 0.5 < 0.8 < mended["after"]["accuracy"]["flipped"]
    page.get_by_role("button", name="All samples, before and after").click(timeout=WAIT)
    page.wait_for_selector(".card .after")
    captions = page.locator(".card").first.locator("figcaption").all_inner_texts()
    assert captions == ["input", "gradient_x_input", "after"]
    assert page.said == []
    page.context.close()
    finish(folder)
    running.session.jobs.list()  # its process is asked how it ended
    running.stop()


def test_a_training_outlives_the_server_and_goes_on_after_a_crash(browser, folder, tmp_path):
    log = tmp_path / "log.txt"
    server = serve(folder / "run", log, **named(folder))
    page = opened(browser, link_of(log, 1))
    start_mending(page, folder, 200)  # long enough for the page to ask in between
    text = "document.querySelector('.job .text')?.textContent ?? ''"
    until(page, f"({text}).includes('%')", SLOW)  # it trains
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    process = job_file(folder, "process.json")["process"]
    os.kill(process, 0)  # it is alive
    os.killpg(process, signal.SIGSTOP)  # and does not come to its end while the server starts
    server = serve(folder / "run", log, **named(folder))
    assert link_of(log, 2) == link_of(log, 1)
    until(page, f"document.querySelector('#banner').hidden && ({text}).includes('%')", SLOW)
    os.killpg(process, signal.SIGKILL)  # as in a crash of the machine
    until(page, f"({text}) === 'Go on continues where it was.'")
    files = sorted(p.name for p in (folder / "run" / "studio" / "jobs" / "1").iterdir())
    assert "mended.json" not in files
    page.get_by_role("button", name="Go on").click()
    assert "does not rely" in see_the_verdict(page)
    job = folder / "run" / "studio" / "jobs" / "1"
    assert torch.load(job / "mended.pt", weights_only=True).keys() == make_network().state_dict().keys()
    page.get_by_role("button", name="All samples, before and after").wait_for(timeout=WAIT)
    assert np.array_equal(pixels(job, "must-not-matter/all.png"), pixels(folder / "run", "must-not-matter/all.png"))
    page.context.close()
    server.kill()
    server.wait()
    finish(folder)
