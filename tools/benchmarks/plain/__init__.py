"""The four networks written box by box from their descriptions, under the official names of their weights.

They share no code with the package: what they put out checks it independently at sizes that no reference file has,
and their time and memory are what the package is measured against. Nothing in them is slow on purpose: attention is
PyTorch's fused one, views of one size run as one batch, and only the states that a head reads are kept. As in the
official code, rotary tables are kept per size and looked up by position in every attention.
"""

from .dust3r import PlainDUSt3R
from .must3r import PlainMUSt3R
from .pi3 import PlainPi3
from .vggt import PlainVGGT

__all__ = ['PlainDUSt3R', 'PlainMUSt3R', 'PlainPi3', 'PlainVGGT']
