from __future__ import annotations

import pytest
import torch
from torch import nn

from layermerge.weight_ranges import weight_range


def conv_of(*largest):
    """A convolution each of whose output channels has this max |w|."""
    conv = nn.Conv2d(2, len(largest), 3)
    with torch.no_grad():
        conv.weight.uniform_(-0.1, 0.1)
        conv.weight[:, 1, 0, 2] = torch.tensor(largest)
    return conv


def test_channels_that_are_alike_have_range_one():
    assert weight_range(conv_of(-2.0, 2.0, 2.0)) == 1


def test_the_widest_channel_counts_over_the_median_one():
    assert weight_range(conv_of(1.0, -2.0, 3.0, -64.0, 1.0)) == 32


def test_the_convolution_where_it_is_largest_counts():
    network = nn.Sequential(conv_of(1.0, 1.0, 3.0), nn.ReLU(), conv_of(5.0, 5.0, 5.0))
    assert weight_range(network) == pytest.approx(3.0)


def test_channels_of_zeros_do_not_count():
    conv = conv_of(1.0, 1.0, 4.0, 1.0, 1.0)
    conv.weight.data[[0, 1]] = 0
    assert weight_range(conv) == 4
    nn.init.zeros_(conv.weight)
    assert weight_range(conv) == 1


def test_without_convolutions_there_is_nothing_to_lose():
    assert weight_range(nn.Linear(2, 2)) == 1
