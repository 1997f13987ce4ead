"""Initial weights for parts that are trained from scratch."""

from __future__ import annotations

from torch import nn


def init_relu_like(module: nn.Module) -> None:
    """Linear and convolution weights after He et al. (arXiv 1502.01852), which keep the variance through ReLU or GELU.

    PyTorch's default shrinks it about threefold per layer; a few layers in a row then start with next to no gradient.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity='relu')
        elif isinstance(part, nn.ConvTranspose2d):  # stride = kernel size: an output pixel sees one input pixel
            nn.init.normal_(part.weight, std=(2 / part.in_channels) ** 0.5)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
