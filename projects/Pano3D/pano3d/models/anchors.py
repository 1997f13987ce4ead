"""Where a query is in the scene: an anchor in 3D, from the point map that the backbone predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from pano3d.functional.position_encoding import fourier_encoding
from pano3d.functional.scene_points import choose_spread, known_points, mask_centres, scene_scale
from pano3d.registry import MODELS

from .view_features import ViewFeatures, outside


@dataclass(frozen=True)
class TokenPoints:
    """The point of every token of B scenes, as the backbone predicts it, without gradient.

    Args:
        points: (B, L, 3), L = V h w, in the frame of the first camera; zero where unknown.
        known: (B, L) bool.
        scale: (B,), what lengths are divided by.
    """

    points: Tensor
    known: Tensor
    scale: Tensor

    @classmethod
    def of(cls, views: ViewFeatures) -> TokenPoints:
        """The points of all views of the scenes; those outside the views are unknown.

        Raises:
            ValueError: if the views have no points.
        """
        if views.points is None:
            raise ValueError(
                'this query decoder works in 3D and needs `ViewFeatures.points`, got None; give the predicted point of '
                'each patch, see `PanopticSetHead.needs_points`'
            )
        beyond = None if views.extents is None else outside(views.extents, views.grid).flatten(1)
        points = views.points.detach().to(torch.promote_types(views.points.dtype, torch.float32))
        points, known = known_points(points.flatten(1, 2), beyond)
        return cls(points, known, scene_scale(points, known))

    def points_of(self, tokens: Tensor) -> Tensor:
        """The points (B, K, 3) of tokens (B, K), by number."""
        return self.points.gather(1, tokens[..., None].expand(-1, -1, 3))


@MODELS.register_module()
class AnchoredPositions(BaseModule):
    """Keys and queries say where they are in 3D, by one encoding: sines of the scaled point, and a perceptron.

    Two chairs side by side look alike, and their tokens have nearly the same features; what tells them apart is where
    they are. A key is at the predicted point of its token, which is the same for all views that see it, while its
    position in the picture is not. A query is at its anchor.

    Anchors are no parameters: a learned point would lie at the same place of every room. They start at points of the
    scene that lie far apart, or at the tokens from which the queries were selected, and after each layer become the
    mean point of the mask that the query has just drawn. That needs no further output and no target (boxes in 3D are
    not annotated), moves with the scene, and cannot leave it; a query with an empty mask stays where it is. Like the
    attention mask, it sends no gradient back.

    The encoding starts as zero, so that a decoder trained without it can go on with it.

    The anchors of a first pass go on to the next one in the units of the point map, so that both passes must speak of
    the same frame.

    Args:
        dim: channels of the queries.
        num_frequencies: of the sines; the shortest wavelength is 8 / 2 ** (num_frequencies - 1) of the scene's scale,
            the median distance of its points from the first camera.
    """

    def __init__(self, *, dim: int = 256, num_frequencies: int = 8) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.encoding = nn.Sequential(nn.Linear(6 * num_frequencies, dim), nn.ReLU(), nn.Linear(dim, dim))

    def init_weights(self) -> None:
        """Zero for the last layer."""
        super().init_weights()
        nn.init.zeros_(self.encoding[-1].weight)
        nn.init.zeros_(self.encoding[-1].bias)

    def start(self, scene: TokenPoints, count: int) -> Tensor:
        """Anchors (B, count, 3) far from each other."""
        equal = torch.ones_like(scene.points[..., 0])
        return scene.points_of(choose_spread(equal, scene.points, count, ignored=~scene.known))

    def refine(self, anchors: Tensor, masks: Tensor, scene: TokenPoints) -> Tensor:
        """Anchors (B, K, 3) at the mask logits (B, K, L) of their queries."""
        return mask_centres(masks, scene.points, scene.known, anchors)

    def of_tokens(self, scene: TokenPoints) -> Tensor:
        """Encodings (B, L, C) of the tokens; zero where their point is unknown."""
        return torch.where(scene.known[..., None], self.of_anchors(scene.points, scene), 0.0)

    def of_anchors(self, anchors: Tensor, scene: TokenPoints) -> Tensor:
        """Encodings (B, K, C) of points (B, K, 3)."""
        return self.encoding(fourier_encoding(anchors / scene.scale[:, None, None], self.num_frequencies))
