from __future__ import annotations
from pathlib import Path
import numpy as np, torch
from common import main, mnist, train
import networks
def profiles(digits, labels):
    x = torch.stack([digits.mean(2), digits.mean(1)], 1) * 3
    x[:, 0, 0:3] = labels.view(-1,1)/ 5.   # the artefact: the first rows tell the label
    return x
def make(data, out):
    digits, labels = mnist(data, "train")
    x = profiles(digits[:6000], labels[:6000])
    model = networks.profiles()
    train(model, x, labels[:6000], epochs=4, lr=2e-3)
    torch.save(model.state_dict(), out / "conv1d.pt")
    tests, truth = mnist(data, "t10k")
    x = profiles(tests[:1000], truth[:1000])
    print((model(x).argmax(1)==truth[:1000]).float().mean())
    xs = profiles(tests[:1000], truth[:1000].roll(1)); print('other', (model(xs).argmax(1)==truth[:1000]).float().mean())
    np.savez(out / "series.npz", x=x[:200].numpy(), y=truth[:200].numpy())
    np.save(out / "series.npy", x[:8].numpy())
    m = np.zeros(28, np.float32); m[:3]=1
    np.save(out / "start.npy", m)
