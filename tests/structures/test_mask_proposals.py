"""What a set of scored masks holds together, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pano3d.structures import MaskProposals

MASKS, CATEGORY, SCORE = torch.ones(2, 4, 5, dtype=torch.bool), torch.tensor([3, -1]), torch.tensor([0.5, 0.25])


def test_moves_as_one() -> None:
    moved = MaskProposals(MASKS, CATEGORY, SCORE).to('meta')
    assert {moved.masks.device.type, moved.category.device.type, moved.score.device.type} == {'meta'}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'category': CATEGORY[:1]}, r'`category` must have shape \(2,\) beside `masks`, got \(1,\)'),
        ({'score': SCORE[None]}, r'`score` must have shape \(2,\) beside `masks`, got \(1, 2\)'),
        ({'masks': MASKS.float()}, '`masks` must be bool.* got torch.float32'),
        ({'score': CATEGORY}, '`score` floating, got .* and torch.int64'),
        ({'category': SCORE}, '`category` integer .* got .* torch.float32'),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskProposals(**{'masks': MASKS, 'category': CATEGORY, 'score': SCORE, **change})
