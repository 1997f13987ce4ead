"""Queries that start from tokens of the scene instead of from the same learned vectors everywhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from pano3d.functional.scene_points import choose_spread
from pano3d.registry import MODELS

from .anchors import TokenPoints

SPREAD = ('points', 'features')


@MODELS.register_module()
class TokenSelection(BaseModule):
    """The first stage of two: K tokens that look like objects and lie apart become the queries.

    Every token is projected and classified by the classifier of the queries; its score is the probability of its best
    class, 'no object' left out. Tokens of one object score alike, so the best K alone would sit on few objects: they
    are chosen one by one by the product of score and distance from those chosen before, see `choose_spread`.

    How the scores are learned: the prediction before the first decoder layer, which the loss supervises like those
    after each layer, is that of the selected tokens, with their own masks. One matching per scene decides which of
    them stand for an object; the others on the same object are taught 'no object', and score less the next time. So
    there is neither an additional loss nor an additional label per token, as in the selection of Mask DINO (arXiv
    2206.02777). Nothing flows through the choice itself. What enters the decoder is detached, plus one learned vector
    per rank: the layers then cannot bend the scores for their own ends.

    Args:
        dim: channels of G and of the queries.
        spread: 'points': distance between the predicted points of the tokens; 'features': between the directions of
            their projections, which needs no geometry but takes equal objects side by side for one.

    Raises:
        ValueError: on another `spread`.
    """

    def __init__(self, *, dim: int = 256, spread: str = 'points') -> None:
        super().__init__()
        if spread not in SPREAD:
            raise ValueError(f'`spread` must be one of {SPREAD}, got {spread!r}')
        self.spread = spread
        self.projection = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))

    @property
    def needs_points(self) -> bool:
        """Whether `forward` needs the points of the tokens."""
        return self.spread == 'points'

    def forward(
        self,
        tokens: Tensor,
        classify: Callable[[Tensor], Tensor],
        count: int,
        scene: TokenPoints | None,
        padding: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Choose among tokens (B, L, C).

        Args:
            tokens: G of all views.
            classify: projected tokens to class logits with 'no object' last.
            count: K.
            scene: the points of the tokens, if `needs_points`.
            padding: (B, L) bool, tokens outside the views; None where there are none.

        Returns:
            Features (B, K, C) with gradient, and which tokens they are (B, K).
        """
        projected = self.projection(tokens)
        with torch.no_grad():
            score = classify(projected).float().softmax(-1)[..., :-1].amax(-1)
            position = scene.points if self.needs_points else F.normalize(projected.float(), dim=-1)
            chosen = choose_spread(score, position, count, ignored=padding)
        return projected.gather(1, chosen[..., None].expand(-1, -1, projected.shape[-1])), chosen
