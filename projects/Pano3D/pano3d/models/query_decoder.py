"""Queries look at the tokens of all views at once: Mask2Former's decoder on a single scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from pano3d.functional.position_encoding import sine_position_encoding
from pano3d.registry import MODELS

from .loading import load_strictly, local_copy, pretrained_checkpoint, read_file, tensors_of
from .mask2former_weights import fit_queries, query_decoder_weights


@dataclass(frozen=True)
class QueryPrediction:
    """What the K queries say after one layer.

    Args:
        classes: logits (B, K, C + 1), the last one is 'no object'.
        masks: logits (B, K, V, h, w).
    """

    classes: Tensor
    masks: Tensor


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
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_heads = num_heads
        self.query_feature = nn.Embedding(num_queries, dim)
        self.query_position = nn.Embedding(num_queries, dim)
        self.layers = nn.ModuleList(QueryDecoderLayer(dim, num_heads, feedforward_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embedding = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )

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

        Raises:
            ValueError: if the file cannot be read safely, is no Mask2Former, or has other sizes or layers.
        """
        path = local_copy(checkpoint)
        state = query_decoder_weights(tensors_of(read_file(path), path), path)
        load_strictly(self, fit_queries(state, self.state_dict(), path), path)
        print_log(f'{path}: loaded {len(state)} weights into {type(self).__name__}', logger='current')

    def forward(
        self, tokens: Tensor, mask_features: Tensor, grid: tuple[int, int], classifier: nn.Module
    ) -> tuple[Tensor, list[QueryPrediction]]:
        """Refine the queries.

        Args:
            tokens: G, (B, V, h * w, C) on `grid` = (h, w).
            mask_features: M, (B, V, C, f h, f w).
            grid: (h, w).
            classifier: maps normed queries (B, K, C) to class logits.

        Returns:
            The refined queries Q (B, K, C) and the predictions, one before the first layer and one after each.
        """
        batch = len(tokens)
        position = sine_position_encoding(grid, tokens.shape[-1], device=tokens.device).to(tokens.dtype)
        keys = (tokens + position).flatten(1, 2)
        values = tokens.flatten(1, 2)
        queries = self.query_feature.weight.expand(batch, -1, -1)
        query_position = self.query_position.weight.expand(batch, -1, -1)
        predictions = [self._predict(queries, mask_features, classifier)]
        for layer in self.layers:
            blocked = self._attention_mask(predictions[-1].masks, grid)
            queries = layer(queries, query_position, values, keys, blocked)
            predictions.append(self._predict(queries, mask_features, classifier))
        return queries, predictions

    def _predict(self, queries: Tensor, mask_features: Tensor, classifier: nn.Module) -> QueryPrediction:
        normed = self.norm(queries)
        masks = torch.einsum('bkc,bvchw->bkvhw', self.mask_embedding(normed), mask_features)  # Q . M_i
        return QueryPrediction(classifier(normed), masks)

    @torch.no_grad()
    def _attention_mask(self, masks: Tensor, grid: tuple[int, int]) -> Tensor:
        """Where not to look: (B * heads, K, V * h * w) bool."""
        logits = F.interpolate(masks.flatten(0, 1), size=grid, mode='bilinear', align_corners=False)
        blocked = (logits < 0).unflatten(0, masks.shape[:2]).flatten(2)
        blocked &= ~blocked.all(dim=-1, keepdim=True)
        return blocked.repeat_interleave(self.num_heads, dim=0)
