"""Queries look at the tokens of all views at once: Mask2Former's decoder on a single scale."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from pano3d.functional.position_encoding import sine_position_encoding
from pano3d.registry import MODELS

from .anchors import TokenPoints
from .loading import load_strictly, local_copy, pretrained_checkpoint, read_file, tensors_of
from .mask2former_weights import fit_queries, query_decoder_weights
from .queries import HeadOutput, Queries, QueryPrediction
from .view_features import ViewFeatures, outside


class _Attention(nn.Module):
    """Residual attention with post-norm; positions are added to queries and keys, not to values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, query_position: Tensor, keys: Tensor, values: Tensor, blocked: Tensor | None):
        update = self.attention(queries + query_position, keys, values, attn_mask=blocked, need_weights=False)[0]
        return self.norm(queries + update)


class QueryDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward, each residual with post-norm (Mask2Former, section 3.2)."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.cross_attention = _Attention(dim, num_heads)
        self.self_attention = _Attention(dim, num_heads)
        self.feedforward = nn.Sequential(nn.Linear(dim, feedforward_dim), nn.ReLU(), nn.Linear(feedforward_dim, dim))
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, query_position: Tensor, tokens: Tensor, keys: Tensor, blocked: Tensor) -> Tensor:
        """One refinement of queries (B, K, C) against tokens (B, L, C); `blocked` (B * heads, K, L) is True at no."""
        queries = self.cross_attention(queries, query_position, keys, tokens, blocked)
        queries = self.self_attention(queries, query_position, queries + query_position, queries, None)
        return self.feedforward_norm(queries + self.feedforward(queries))


@MODELS.register_module()
class QueryDecoder(BaseModule):
    """K learned queries, refined against the tokens of all views; one query is one segment of the whole scene.

    A prediction is made before the first layer and after each (deep supervision). A layer attends only where the mask
    predicted before it is on (probability >= 0.5); a query whose mask is empty attends everywhere. Positions are those
    of a token in its own view.

    There is one scale and no level embedding: a constant for all tokens moves all attention logits of a query alike and
    adds one constant to what it attends to, which the bias of the values already is. Those of a released Mask2Former
    go into these biases, see `query_decoder_weights`.

    Args:
        num_queries: K.
        dim: channels of queries, G and M.
        num_layers: refinements (9 in Mask2Former).
        num_heads: attention heads.
        feedforward_dim: hidden width of the feed-forward part.
        selection: config of what chooses tokens to start from, `TokenSelection`; None starts from the learned queries.
        anchors: config of positions in 3D beside those in the view, `AnchoredPositions`; None does without.
        init_cfg: `dict(type='Pretrained', checkpoint=PATH_OR_ADDRESS)` starts from a released Mask2Former of mmdet or
            detectron2; those on COCO with R50 have the default sizes.
    """

    def __init__(
        self,
        *,
        num_queries: int = 100,
        dim: int = 256,
        num_layers: int = 9,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        selection: dict | None = None,
        anchors: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_heads = num_heads
        self.selection = None if selection is None else MODELS.build(selection)
        self.anchors = None if anchors is None else MODELS.build(anchors)
        self.query_feature = nn.Embedding(num_queries, dim)
        self.query_position = nn.Embedding(num_queries, dim)
        self.layers = nn.ModuleList(QueryDecoderLayer(dim, num_heads, feedforward_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embedding = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )

    @property
    def needs_points(self) -> bool:
        """Whether `ViewFeatures` must say where the tokens are in 3D."""
        return self.anchors is not None or (self.selection is not None and self.selection.needs_points)

    def init_weights(self) -> None:
        """The file that `init_cfg` names; else Xavier-uniform for every matrix of the layers, as Mask2Former starts."""
        checkpoint = pretrained_checkpoint(self)
        if checkpoint is None:
            super().init_weights()
            for parameter in self.layers.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        elif not self.is_init:
            self.load_official(checkpoint)
            self.is_init = True

    def load_official(self, checkpoint: str) -> None:
        """Load the decoder of a released Mask2Former from a path or http(s) address; the rest of it is left out.

        With more queries than the file has, the others keep their random start; with fewer, its first are taken.
        `selection` and `anchors`, which no such file has, keep theirs, too.

        Raises:
            ValueError: if the file cannot be read safely, is no Mask2Former, or has other sizes or layers.
        """
        path = local_copy(checkpoint)
        state = query_decoder_weights(tensors_of(read_file(path), path), path)
        own = self.state_dict()
        new = {name: value for name, value in own.items() if name.startswith(('selection.', 'anchors.'))}
        load_strictly(self, fit_queries(state, own, path) | new, path)
        print_log(f'{path}: loaded {len(state)} weights into {type(self).__name__}', logger='current')

    def forward(
        self,
        tokens: Tensor,
        mask_features: Tensor,
        views: ViewFeatures,
        classifier: nn.Module,
        queries: Queries | None = None,
    ) -> HeadOutput:
        """Refine the queries and say what they predict at every stage.

        Args:
            tokens: G, (B, V, h * w, C) on the grid of `views`.
            mask_features: M, (B, V, C, f h, f w).
            views: says the grid, which part of it is each view's own, and the points if `needs_points`.
            classifier: maps normed queries (B, K, C) to class logits.
            queries: where to begin; None: the learned or selected ones.

        Raises:
            ValueError: if points are needed and missing.
        """
        coarse = coarse_mask_features(mask_features, views.grid)
        stages = list(self.stages(tokens, coarse, views, classifier, queries))
        return HeadOutput(stages[-1], [self.predict(stage, mask_features, views, classifier) for stage in stages])

    def stages(
        self,
        tokens: Tensor,
        coarse: Tensor,
        views: ViewFeatures,
        classifier: nn.Module,
        queries: Queries | None = None,
    ) -> Iterator[Queries]:
        """The queries before the first layer and after each; arguments as in `forward`.

        What a layer attends to needs no masks of full size: resizing is linear, so the masks on the grid are those of
        `coarse`, M on the grid (B, V, h * w, C).
        """
        position = _token_positions(views, tokens)
        keys = (tokens + position).flatten(1, 2)
        values = tokens.flatten(1, 2)
        padding = None if views.extents is None else outside(views.extents, views.grid).flatten(1)
        scene = TokenPoints.of(views) if self.needs_points else None
        if self.anchors is not None:
            keys = keys + self.anchors.of_tokens(scene)
        content = None
        if queries is None and self.selection is not None:
            queries = self._selected_queries(tokens, position, classifier, scene, padding)
            content = queries.features.detach() + self.query_feature.weight
        queries = self._with_anchors(queries or self._learned_queries(len(tokens)), scene)
        masks = self._masks_on(coarse, queries.features)
        yield queries
        features = queries.features if content is None else content
        for layer in self.layers:
            features = layer(features, self._place(queries, scene), values, keys, self._attention_mask(masks, padding))
            masks = self._masks_on(coarse, features)
            anchors = None if self.anchors is None else self.anchors.refine(queries.anchors, masks, scene)
            queries = Queries(features, queries.position, anchors)
            yield queries

    def predict(
        self, queries: Queries, mask_features: Tensor, views: ViewFeatures, classifier: nn.Module
    ) -> QueryPrediction:
        """What queries say of some views; arguments as in `forward`."""
        normed = self.norm(queries.features)
        masks = torch.einsum('bkc,bvchw->bkvhw', self.mask_embedding(normed), mask_features)  # Q . M_i
        factor = masks.shape[-1] // views.grid[1]
        return QueryPrediction(classifier(normed), masks, None if views.extents is None else views.extents * factor)

    def _learned_queries(self, batch: int) -> Queries:
        return Queries(
            self.query_feature.weight.expand(batch, -1, -1), self.query_position.weight.expand(batch, -1, -1)
        )

    def _selected_queries(
        self,
        tokens: Tensor,
        position: Tensor,
        classifier: nn.Module,
        scene: TokenPoints | None,
        padding: Tensor | None,
    ) -> Queries:
        """The selected tokens as queries; their features still lack what is learned per rank."""

        def classify(projected: Tensor) -> Tensor:
            return classifier(self.norm(projected))

        ranks = self.query_position.weight
        features, chosen = self.selection(tokens.flatten(1, 2), classify, len(ranks), scene, padding)
        place = position.expand_as(tokens).flatten(1, 2).gather(1, chosen[..., None].expand_as(features))
        return Queries(features, place + ranks, None if scene is None else scene.points_of(chosen))

    def _with_anchors(self, queries: Queries, scene: TokenPoints | None) -> Queries:
        """The queries with anchors if the decoder works with such, without if not."""
        if self.anchors is None:
            return Queries(queries.features, queries.position)
        if queries.anchors is not None:
            return queries
        return Queries(queries.features, queries.position, self.anchors.start(scene, queries.features.shape[1]))

    def _place(self, queries: Queries, scene: TokenPoints | None) -> Tensor:
        """What is added to the queries where attention compares."""
        if self.anchors is None:
            return queries.position
        return queries.position + self.anchors.of_anchors(queries.anchors, scene)

    @torch.no_grad()
    def _masks_on(self, coarse: Tensor, features: Tensor) -> Tensor:
        """Mask logits (B, K, L) at the tokens of all views."""
        return self.mask_embedding(self.norm(features)) @ coarse.flatten(1, 2).transpose(1, 2)

    @torch.no_grad()
    def _attention_mask(self, logits: Tensor, padding: Tensor | None) -> Tensor:
        """Where not to look, (B * heads, K, L) bool, for masks on the grids (B, K, L).

        `padding` (B, L) is True outside the views.
        """
        padding = None if padding is None else padding[:, None]
        blocked = logits < 0
        if padding is not None:
            blocked |= padding
        blocked &= ~blocked.all(dim=-1, keepdim=True)
        if padding is not None:
            blocked |= padding
        return blocked.repeat_interleave(self.num_heads, dim=0)


@torch.no_grad()
def coarse_mask_features(mask_features: Tensor, grid: tuple[int, int]) -> Tensor:
    """M (B, V, C, f h, f w) on the grid (h, w): (B, V, h * w, C), for `QueryDecoder.stages`.

    f is 1 or even, so that no token's value comes from its neighbours or the padding.
    """
    coarse = F.interpolate(mask_features.flatten(0, 1), size=grid, mode='bilinear', align_corners=False)
    return coarse.flatten(2).transpose(1, 2).unflatten(0, mask_features.shape[:2])


def _token_positions(views: ViewFeatures, tokens: Tensor) -> Tensor:
    """Where each token lies in its own view: (h * w, C), or (B, V, h * w, C) where the views have several sizes."""
    channels = tokens.shape[-1]
    if views.extents is None:
        return sine_position_encoding(views.grid, channels, device=tokens.device).to(tokens.dtype)
    position = torch.zeros_like(tokens).unflatten(2, views.grid)
    for rows, columns in views.extents.flatten(0, 1).unique(dim=0).tolist():
        own = sine_position_encoding((rows, columns), channels, device=tokens.device).to(tokens.dtype)
        same = (views.extents == torch.tensor([rows, columns], device=tokens.device)).all(-1)
        position[(*same.nonzero(as_tuple=True), slice(rows), slice(columns))] = own.unflatten(0, (rows, columns))
    return position.flatten(2, 3)
