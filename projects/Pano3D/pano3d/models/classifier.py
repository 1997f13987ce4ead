"""Query embedding -> class logits; the last class is 'no object'."""

from __future__ import annotations

import math

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, TextEmbeddings

MAX_SCALE = 100.0
"""Where CLIP keeps its temperature from falling further, 1 / 0.01."""


@MODELS.register_module()
class LinearClassifier(BaseModule):
    """A learned dense layer (the paper's option 'dense classifier', +0.4 mIoU2D in domain).

    Args:
        dim: channels of a query.
        num_classes: classes of the label space, without 'no object'.
    """

    def __init__(self, *, dim: int = 256, num_classes: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.linear = nn.Linear(dim, num_classes + 1)

    def forward(self, queries: Tensor) -> Tensor:
        """(..., C) to logits (..., num_classes + 1)."""
        return self.linear(queries)


@MODELS.register_module()
class TextClassifier(BaseModule):
    """Similarity of the projected query with frozen text embeddings of the class names (the paper's classifier).

    logit_c = s * cos(P q, t_c) with a learned projection P and a learned scale s = 1 / temperature; 'no object' is a
    learned vector in the place of t_c. The vectors t_c are no weights: checkpoints do not hold them, and
    `set_vocabulary` changes them at inference.

    Args:
        dim: channels of a query.
        label_space: the classes to learn, by name.
        embeddings: their vectors; a name of the package or a file, see `TextEmbeddings.load`.
        temperature: where the learned temperature starts, as in CLIP.

    Raises:
        ValueError: if a class has no vector there, or the temperature is not in [0.01, 1].
    """

    texts: Tensor

    def __init__(
        self,
        *,
        dim: int = 256,
        label_space: str,
        embeddings: str = 'minilm',
        temperature: float = 0.07,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 1 / MAX_SCALE <= temperature <= 1:
            raise ValueError(f'`temperature` must lie in [{1 / MAX_SCALE}, 1], got {temperature}')
        self.vocabulary = TextEmbeddings.load(embeddings).select(LabelSpace.load(label_space).names)
        self.register_buffer('texts', self.vocabulary.vectors, persistent=False)
        self.projection = nn.Linear(dim, self.vocabulary.dim)
        self.no_object = nn.Parameter(F.normalize(torch.randn(self.vocabulary.dim), dim=0))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def num_classes(self) -> int:
        """Classes of the present vocabulary, without 'no object'."""
        return len(self.vocabulary.names)

    def set_vocabulary(self, vocabulary: TextEmbeddings) -> None:
        """Speak of other classes from now on; what was learned stays.

        Raises:
            ValueError: if their vectors come from another encoder than those of the training.
        """
        trained = self.vocabulary
        if (vocabulary.encoder, vocabulary.dim) != (trained.encoder, trained.dim):
            raise ValueError(
                f'this classifier was built for text encoder {trained.encoder!r} with {trained.dim} channels, got '
                f'embeddings of {vocabulary.encoder!r} with {vocabulary.dim}; embed the names with the former'
            )
        self.vocabulary = vocabulary
        self.texts = vocabulary.vectors.to(self.texts)

    def forward(self, queries: Tensor) -> Tensor:
        """(..., C) to logits (..., num_classes + 1)."""
        with torch.autocast(queries.device.type, enabled=False):  # differences of cosines are small
            embedded = F.normalize(self.projection(queries.to(self.projection.weight)), dim=-1)
            targets = torch.cat([self.texts, F.normalize(self.no_object, dim=0)[None]])
            return self.log_scale.exp().clamp(max=MAX_SCALE) * embedded @ targets.T
