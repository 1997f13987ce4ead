"""Set loss: one bipartite matching per scene over all its views, then class, dice and mask terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine import dist
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from pano3d.functional.matching import assign, binary_cross_entropy_cost, dice_cost
from pano3d.functional.point_sampling import sample_index, sample_logits, uncertain_points, uniform_points
from pano3d.functional.segments import segments_of
from pano3d.models.query_decoder import QueryPrediction
from pano3d.registry import MODELS
from pano3d.structures import PanopticMap

PAPER_WEIGHTS = {'class': 2.0, 'dice': 2.0, 'mask': 5.0}
MASK2FORMER_WEIGHTS = {'class': 2.0, 'dice': 5.0, 'mask': 5.0}


@MODELS.register_module()
class SetCriterion(BaseModule):
    """Mask2Former's loss over the segments of a whole scene (method, section 3, L_sem).

    The matching cost has the same terms and weights as the loss. Masks are compared at sampled points; points on void
    pixels count neither in the cost nor in the loss. Every stage of the decoder is supervised with its own matching.

    Args:
        weights: of the terms 'class', 'dice', 'mask'; the paper's 2 / 2 / 5 by default, Mask2Former's is 2 / 5 / 5.
        no_object_weight: weight of 'no object' in the class term.
        num_points: points per mask, over all views of a scene together.
        oversample: candidates per point of the uncertainty sampling.
        importance: share of the points chosen by uncertainty.

    Raises:
        ValueError: on unknown or missing terms in `weights`.
    """

    def __init__(
        self,
        *,
        weights: dict[str, float] | None = None,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
    ) -> None:
        super().__init__()
        weights = dict(PAPER_WEIGHTS if weights is None else weights)
        if set(weights) != set(PAPER_WEIGHTS):
            raise ValueError(f'`weights` must name the terms {sorted(PAPER_WEIGHTS)}, got {sorted(weights)}')
        self.weights = weights
        self.num_points = num_points
        self.oversample = oversample
        self.importance = importance
        self.no_object_weight = no_object_weight
        self._warned = False

    def forward(
        self,
        predictions: list[QueryPrediction],
        targets: list[PanopticMap],
        labelled_classes: Sequence[Sequence[int] | None] | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms 'class', 'dice', 'mask', each summed over the stages.

        Args:
            predictions: one per stage, for B scenes.
            targets: B panoptic maps (V, H, W) of one size.
            labelled_classes: per scene, the category indices that its annotation distinguishes; None means all. The
                other classes take no part in the softmax of the scene: their logits get no gradient.

        Raises:
            ValueError: if the number of scenes differs or a category lies outside the label space or is not labelled.
        """
        if predictions[0].classes.shape[0] != len(targets):
            raise ValueError(f'{predictions[0].classes.shape[0]} predicted scenes but {len(targets)} targets')
        segments = [segments_of(target.category, target.instance) for target in targets]
        labels = [label for label, _ in segments]
        index = torch.stack([index for _, index in segments])
        self._check(labels, *predictions[0].classes.shape[1:])
        predictions = _without_unlabelled(predictions, labels, labelled_classes)
        num_masks = self._mean_over_ranks(sum(len(label) for label in labels), index.device)
        stages = [self._stage(prediction, labels, index, num_masks) for prediction in predictions]
        return {name: weight * sum(stage[name] for stage in stages) for name, weight in self.weights.items()}

    def _check(self, labels: list[Tensor], num_queries: int, num_logits: int) -> None:
        highest = max((int(label.max()) for label in labels if len(label)), default=-1)
        if highest >= num_logits - 1:
            raise ValueError(
                f'the ground truth has category {highest}, but the model knows {num_logits - 1} classes; '
                'give the model and the data set one label space'
            )
        most = max(len(label) for label in labels)
        if most > num_queries and not self._warned:
            self._warned = True
            print_log(
                f'a scene has {most} segments but there are {num_queries} queries: the surplus is not learned; '
                'raise `num_queries`',
                logger='current',
                level=30,
            )

    def _stage(self, prediction: QueryPrediction, labels: list[Tensor], index: Tensor, num_masks: Tensor) -> dict:
        matches = self._match(prediction, labels, index)
        scene = torch.cat([torch.full_like(query, b) for b, (query, _) in enumerate(matches)])
        query = torch.cat([query for query, _ in matches])
        segment = torch.cat([segment for _, segment in matches])

        logits = prediction.classes.float()
        no_object = logits.shape[-1] - 1
        target_class = logits.new_full(logits.shape[:2], no_object, dtype=torch.long)
        target_class[scene, query] = torch.cat([label[s] for label, (_, s) in zip(labels, matches, strict=True)])
        class_weight = logits.new_ones(no_object + 1)
        class_weight[no_object] = self.no_object_weight
        class_term = F.cross_entropy(logits.transpose(1, 2), target_class, class_weight)

        masks = prediction.masks[scene, query].float()  # (N, V, h, w)
        if not len(masks):  # keeps every parameter in the graph
            return {'class': class_term, 'dice': prediction.masks.sum() * 0, 'mask': prediction.masks.sum() * 0}
        points = uncertain_points(masks, self.num_points, oversample=self.oversample, importance=self.importance)
        inner = sample_logits(masks[:, None], points)[:, 0]  # (N, P)
        truth = sample_index(index[scene], points)
        known = (truth >= 0).float()
        inside = (truth == segment[:, None]).float()
        per_point = F.binary_cross_entropy_with_logits(inner, inside, reduction='none') * known
        mask_term = per_point.sum(1) / known.sum(1).clamp(min=1)
        probability = inner.sigmoid() * known
        dice_term = 1 - (2 * (probability * inside).sum(1) + 1) / (probability.sum(1) + inside.sum(1) + 1)
        return {'class': class_term, 'dice': dice_term.sum() / num_masks, 'mask': mask_term.sum() / num_masks}

    @torch.no_grad()
    def _match(self, prediction: QueryPrediction, labels: list[Tensor], index: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per scene, the matched queries and segments."""
        scenes, _, views = prediction.masks.shape[:3]
        points = uniform_points(scenes, self.num_points, views, device=index.device)
        logits = sample_logits(prediction.masks.float(), points)
        truth = sample_index(index, points)
        probability = prediction.classes.float().softmax(-1)
        matches = []
        for b, label in enumerate(labels):
            known = (truth[b] >= 0).float()
            inside = (truth[b] == torch.arange(len(label), device=index.device)[:, None]).float()
            cost = (
                self.weights['class'] * -probability[b][:, label]
                + self.weights['mask'] * binary_cross_entropy_cost(logits[b], inside, known)
                + self.weights['dice'] * dice_cost(logits[b], inside, known)
            )
            matches.append(assign(cost))
        return matches

    @staticmethod
    def _mean_over_ranks(count: int, device: torch.device) -> Tensor:
        total = torch.tensor(float(count), device=device)
        dist.all_reduce(total)
        return (total / dist.get_world_size()).clamp(min=1)


def _without_unlabelled(
    predictions: list[QueryPrediction],
    labels: list[Tensor],
    labelled_classes: Sequence[Sequence[int] | None] | None,
) -> list[QueryPrediction]:
    """The predictions with the logits of classes that a scene is not labelled for at minus infinity."""
    if labelled_classes is None or all(labelled is None for labelled in labelled_classes):
        return predictions
    if len(labelled_classes) != len(labels):
        raise ValueError(f'{len(labels)} targets but {len(labelled_classes)} lists of labelled classes')
    classes = predictions[0].classes
    unlabelled = torch.zeros(len(labels), 1, classes.shape[-1], dtype=torch.bool, device=classes.device)
    for scene, (label, labelled) in enumerate(zip(labels, labelled_classes, strict=True)):
        if labelled is None:
            continue
        strange = sorted(set(label.tolist()) - set(labelled))
        if strange:
            raise ValueError(f'the ground truth has the categories {strange}, which `labelled_classes` lacks')
        unlabelled[scene, 0, :-1] = True
        unlabelled[scene, 0, list(labelled)] = False
    return [
        QueryPrediction(stage.classes.float().masked_fill(unlabelled, -torch.inf), stage.masks, stage.extents)
        for stage in predictions
    ]
