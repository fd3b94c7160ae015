"""Models to record, and what was recorded of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from layermerge.graph import capture
from networks import images, randomized


def model_with(body, **parts):
    """A convolution, then what `body` (model, value) does with it, and with the given parts."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return body(self, self.conv(x))

    return randomized(Model())


def wrapped(body, **parts):
    """A model whose submodule ``inner`` does `body`; its other parts can be recorded."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return body(self, x)

    return model_with(lambda m, x: m.last(m.inner(x)), inner=Inner(), last=nn.Conv2d(4, 4, 1))


def captured_from(model, size=8):
    """Capture at batch 2, and compare with the model at other batch sizes, on other values."""
    captured = capture(model, images(2, 3, size, size))
    for batch in (1, 2, 3, 5):
        x = images(batch, 3, size, size, seed=batch)
        with torch.no_grad():
            torch.testing.assert_close(captured(x.clone()), model(x.clone()))
    return captured


def calls(captured):
    """What the graph holds after the first convolution: paths of modules, names of functions."""
    named = [
        str(node.target) if node.op != "call_function" else node.target
        for node in captured.graph.nodes
        if node.op.startswith("call_") or node.op == "get_attr"
    ]
    return [name for name in named if name != "conv"]


def reasons(captured):
    return {
        str(node.target): node.meta["opaque_reason"]
        for node in captured.graph.nodes
        if "opaque_reason" in node.meta
    }


class BatchNormAct(nn.BatchNorm2d):
    """A batch norm with what follows it inside, as timm has it."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        return self.act(self.drop(x))


class ConvSame(nn.Conv2d):
    """A convolution that pads by itself, as timm and TensorFlow have it."""

    def forward(self, x):
        x = F.pad(x, (0, 1, 1, 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
