"""How far the ranges of weights differ between channels, which INT8 with one scale suffers from."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def weight_range(network: nn.Module) -> float:
    """Largest over median range of the output channels, in the convolution where that is largest.

    The range of a channel is its max abs(w).

    With one INT8 scale for a whole weight, the typical channel has log2 of this fewer bits than
    the widest one. Channels of zeros need no bits and do not count.

    Parameters
    ----------
    network : torch.nn.Module
        As deployed: batch norm folded.

    Returns
    -------
    float
        1 where all channels are alike, or there is no convolution.

    Examples
    --------
    >>> conv = nn.Conv2d(1, 3, 1)
    >>> _ = conv.weight.data.copy_(torch.tensor([1.0, -2.0, 8.0]).reshape(3, 1, 1, 1))
    >>> weight_range(conv)
    4.0
    """
    convolutions = (part for part in network.modules() if isinstance(part, nn.Conv2d))
    return max(map(_range_of, convolutions), default=1.0)


def _range_of(convolution: nn.Conv2d) -> float:
    largest = convolution.weight.double().abs().amax((1, 2, 3))
    largest = largest[largest > 0]
    return float(largest.max() / largest.median()) if len(largest) else 1.0
