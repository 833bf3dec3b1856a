"""Memory formats that PyTorch can't mistake."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_first(x: Tensor) -> Tensor:
    """A copy of images, maps or kernels whose strides fall from dimension to dimension, also over those of 1.

    Of one channel, or of a 1x1 kernel, ``contiguous`` leaves strides that count as channels last too, and all that
    follows is computed so. oneDNN (3.12) on AVX2 then writes beyond its memory for the weights' gradient of a strided
    1x1 convolution of 2 to 7 channels.
    """
    return x.clone(memory_format=torch.contiguous_format)
