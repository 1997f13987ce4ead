"""Initial weights for parts that are trained from scratch."""

from __future__ import annotations

from torch import nn


def init_relu_like(module: nn.Module) -> None:
    """Linear and convolution weights after He et al. (arXiv 1502.01852), which keep the variance through ReLU or GELU.

    PyTorch's default shrinks it in every layer: from bridge to mask features a deviation of 1 becomes 0.04.
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
