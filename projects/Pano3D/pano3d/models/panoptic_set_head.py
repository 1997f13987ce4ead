"""The panoptic head: from features of all views to a set of masks with classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from mmengine.model import BaseModule

from pano3d.registry import MODELS
from pano3d.structures import TextEmbeddings

from .classifier import TextClassifier
from .queries import HeadOutput, Queries, QueryPrediction
from .query_decoder import coarse_mask_features
from .view_features import ViewFeatures


@MODELS.register_module()
class PanopticSetHead(BaseModule):
    """Bridge, upscaler, query decoder and classifier (method, section 1); knows no backbone.

    Args:
        bridge: config of the feature bridge, E and F -> G.
        upscaler: config of the mask upscaler, G -> M.
        decoder: config of the query decoder, learned queries and G -> Q.
        classifier: config of the classifier, Q -> class logits with 'no object' last.
        refinement: config of what lets the views exchange G in 3D, such as `SparseRefinement`; None: they do not.
    """

    def __init__(
        self,
        *,
        bridge: dict,
        upscaler: dict,
        decoder: dict,
        classifier: dict,
        refinement: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.bridge = MODELS.build(bridge)
        self.upscaler = MODELS.build(upscaler)
        self.decoder = MODELS.build(decoder)
        self.classifier = MODELS.build(classifier)
        self.refinement = None if refinement is None else MODELS.build(refinement)

    @property
    def num_classes(self) -> int:
        """Classes without 'no object'."""
        return self.classifier.num_classes

    @property
    def needs_points(self) -> bool:
        """Whether `ViewFeatures` must say where the tokens are in 3D."""
        return self.decoder.needs_points or self.refinement is not None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the classifier calls its classes; None if it knows them by number only."""
        return self.classifier.vocabulary.names if isinstance(self.classifier, TextClassifier) else None

    @property
    def vocabulary(self) -> TextEmbeddings:
        """The classes of a classifier on text embeddings.

        Raises:
            ValueError: if the classifier is a learned layer, whose classes are fixed.
        """
        if not isinstance(self.classifier, TextClassifier):
            raise ValueError(
                f'{type(self.classifier).__name__} has fixed classes; other names need a model trained with '
                "`head.classifier.type='TextClassifier'`"
            )
        return self.classifier.vocabulary

    def set_vocabulary(self, vocabulary: TextEmbeddings) -> None:
        """Speak of other classes from now on, see `TextClassifier.set_vocabulary`.

        Raises:
            ValueError: as `vocabulary` does, or if the vectors come from another encoder.
        """
        _ = self.vocabulary
        self.classifier.set_vocabulary(vocabulary)

    def forward(self, views: ViewFeatures, queries: Queries | None = None) -> HeadOutput:
        """One pass over all views.

        Args:
            views: E, F and what else the bridge asks for.
            queries: what an earlier pass over other views of the scenes ended with; None begins with the learned ones.

        Returns:
            The refined queries, and one prediction per decoder stage, the last one final.
        """
        tokens = self.bridge(views.sources)  # G_i
        if self.refinement is not None:
            tokens = self.refinement(tokens, views)
        mask_features = self.upscaler(tokens, views.grid)  # M_i
        return self.decoder(tokens, mask_features, views, self.classifier, queries)  # Q, C(Q), Q . M_i

    @torch.no_grad()
    def predict(self, views: ViewFeatures, queries: Queries | None = None, *, chunk_size: int) -> QueryPrediction:
        """The final prediction of `forward` alone; besides it only G and a few views at a time take memory.

        Args:
            views: see `forward`.
            queries: see `forward`.
            chunk_size: views at a time.
        """
        chunks, first = [], 0
        for chunk in views.split(chunk_size):
            looked = self.look(chunk)
            chunks.append((range(first, first + looked.num_views), looked))
            first += looked.num_views
        scene = self.exchange(ViewFeatures.join(chunks), chunk_size=chunk_size)
        return self.draw(self.refine(scene, queries), scene, chunk_size=chunk_size)

    def look(self, views: ViewFeatures) -> ViewFeatures:
        """What must be kept of views to refine queries and draw masks: `tokens`, G, and `coarse`, M on its grid."""
        tokens = self.bridge(views.sources)  # G_i
        coarse = coarse_mask_features(self.upscaler(tokens, views.grid), views.grid)
        return ViewFeatures({'tokens': tokens, 'coarse': coarse}, views.grid, views.extents, views.points)

    def exchange(self, looked: ViewFeatures, *, chunk_size: int) -> ViewFeatures:
        """What `look` kept of all views after they have exchanged it in 3D; the same without a refinement."""
        if self.refinement is None:
            return looked
        tokens = self.refinement(looked.sources['tokens'], looked)
        coarse = [
            coarse_mask_features(self.upscaler(chunk, looked.grid), looked.grid)
            for chunk in tokens.split(chunk_size, dim=1)
        ]
        return replace(looked, sources={'tokens': tokens, 'coarse': torch.cat(coarse, dim=1)})

    def refine(self, looked: ViewFeatures, queries: Queries | None = None) -> Queries:
        """The queries that `forward` ends with, from what `look` kept of all views."""
        tokens, coarse = looked.sources['tokens'], looked.sources['coarse']
        *_, last = self.decoder.stages(tokens, coarse, looked, self.classifier, queries)
        return last

    def draw(
        self, queries: Queries, looked: ViewFeatures, *, chunk_size: int, offload: torch.device | str | None = None
    ) -> QueryPrediction:
        """What queries say of views, in single precision.

        Args:
            queries: Q.
            looked: what `look` kept of the views.
            chunk_size: views whose M is made at a time.
            offload: where to put the prediction, chunk by chunk; None leaves it where it is made.
        """
        masks, extents, first = None, None, 0
        for chunk in looked.split(chunk_size):
            mask_features = self.upscaler(chunk.sources['tokens'], chunk.grid)  # M_i
            drawn = self.decoder.predict(queries, mask_features, chunk, self.classifier).float()
            if masks is None:
                masks = drawn.masks.new_empty(
                    *drawn.masks.shape[:2], looked.num_views, *drawn.masks.shape[3:], device=offload
                )
            masks[:, :, first : first + chunk.num_views] = drawn.masks
            first += chunk.num_views
        if looked.extents is not None:
            extents = looked.extents.to(masks.device) * (masks.shape[-1] // looked.grid[1])
        return QueryPrediction(drawn.classes.to(masks.device), masks, extents)
