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
from pano3d.functional.point_sampling import (
    LabelledPixels,
    Points,
    draw_points,
    labelled_pixels,
    most_doubtful,
    num_labelled_views,
    sample_all,
    sample_index,
    sample_own,
)
from pano3d.functional.segments import Segments, segments_of
from pano3d.models.queries import QueryPrediction
from pano3d.models.view_features import outside
from pano3d.registry import MODELS
from pano3d.structures import PanopticMap

PAPER_WEIGHTS = {'class': 2.0, 'dice': 2.0, 'mask': 5.0}
MASK2FORMER_WEIGHTS = {'class': 2.0, 'dice': 5.0, 'mask': 5.0}


@MODELS.register_module()
class SetCriterion(BaseModule):
    """Mask2Former's loss over the segments of a whole scene (method, section 3, L_sem).

    The matching cost has the same terms and weights as the loss. Every stage of the decoder is supervised with its own
    matching. Masks are compared at points on labelled pixels: `importance` of them where the mask is undecided (those
    of smallest |logit| among `oversample` times as many as are needed), the rest, and all of the matching, anywhere.

    Args:
        weights: of the terms 'class', 'dice', 'mask'; the paper's 2 / 2 / 5 by default, Mask2Former's is 2 / 5 / 5.
        no_object_weight: weight of 'no object' in the class term.
        num_points: points per mask, over all views of a scene together.
        oversample: candidates per undecided point, at least `importance`.
        importance: share of the points chosen by uncertainty, 0..1.
        points_per_view: the same number of points in every view with labels, instead of in equal labelled areas.
        shared_points: one set of points for all masks of a scene, undecided where any of them is, instead of one each.

    Raises:
        ValueError: on unknown or missing terms in `weights`, or numbers of points that contradict each other.
    """

    def __init__(
        self,
        *,
        weights: dict[str, float] | None = None,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        points_per_view: bool = False,
        shared_points: bool = False,
    ) -> None:
        super().__init__()
        weights = dict(PAPER_WEIGHTS if weights is None else weights)
        if set(weights) != set(PAPER_WEIGHTS):
            raise ValueError(f'`weights` must name the terms {sorted(PAPER_WEIGHTS)}, got {sorted(weights)}')
        if num_points < 1 or not 0 <= importance <= 1 or oversample < importance:
            raise ValueError(
                '`num_points` must be at least 1, `importance` in 0..1 and `oversample` at least `importance`, '
                f'got {num_points}, {importance} and {oversample}'
            )
        self.weights = weights
        self.num_points = num_points
        self.num_candidates = round(oversample * num_points)
        self.num_undecided = round(importance * num_points)
        self.points_per_view = points_per_view
        self.shared_points = shared_points
        self.no_object_weight = no_object_weight
        self._warned = False

    def forward(
        self,
        predictions: Sequence[QueryPrediction],
        targets: Sequence[PanopticMap],
        labelled_classes: Sequence[Sequence[int] | None] | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms 'class', 'dice', 'mask', each summed over the stages.

        Args:
            predictions: one per stage, for B scenes. Class logits may have a phase axis, (B, P, K, C + 1), with the
                masks of all phases along V: there is one matching, its class cost and the class term are means over
                the phases.
            targets: B panoptic maps (V, H, W) of one size, the same canvas as the masks (V, h, w) in other units: what
                `extents` of a prediction calls its own are h' H / h rows and w' W / w columns, the rest must be void.
            labelled_classes: per scene, the category indices that its annotation distinguishes; None means all. The
                other classes take no part in the softmax of the scene: their logits get no gradient.

        Raises:
            ValueError: if the number of scenes differs, a category lies outside the label space or is not labelled, or
                something is labelled beside the views.
        """
        if predictions[0].classes.shape[0] != len(targets):
            raise ValueError(f'{predictions[0].classes.shape[0]} predicted scenes but {len(targets)} targets')
        segments = segments_of(*(torch.stack([getattr(t, name) for t in targets]) for name in ('category', 'instance')))
        _check_padding(segments.index, predictions[0])
        counts = self._check(segments, predictions[0].classes)
        unlabelled = _unlabelled(segments, labelled_classes, predictions[0].classes)
        classes = [_class_logits(stage.classes, unlabelled) for stage in predictions]
        num_masks = self._mean_over_ranks(sum(counts), segments.index.device)
        pixels = labelled_pixels(segments.index)
        with torch.autocast(segments.index.device.type, enabled=False):
            matches = self._match(predictions, classes, segments, pixels, counts)
            stages = [
                self._stage(stage, logits, matched, segments, pixels, num_masks)
                for stage, logits, matched in zip(predictions, classes, matches, strict=True)
            ]
        return {name: weight * sum(stage[name] for stage in stages) for name, weight in self.weights.items()}

    def _check(self, segments: Segments, classes: Tensor) -> list[int]:
        """The number of segments per scene."""
        num_queries, num_logits = classes.shape[-2:]
        scene, category = torch.stack([segments.scene, segments.category]).tolist()
        if max(category, default=-1) >= num_logits - 1:
            raise ValueError(
                f'the ground truth has category {max(category)}, but the model knows {num_logits - 1} classes; '
                'give the model and the data set one label space'
            )
        counts = [scene.count(b) for b in range(len(classes))]
        if max(counts) > num_queries and not self._warned:
            self._warned = True
            print_log(
                f'a scene has {max(counts)} segments but there are {num_queries} queries: the surplus is not learned; '
                'raise `num_queries`',
                logger='current',
                level=30,
            )
        return counts

    def _stage(
        self,
        prediction: QueryPrediction,
        classes: Tensor,
        matched: tuple[Tensor, Tensor, Tensor],
        segments: Segments,
        pixels: LabelledPixels,
        num_masks: Tensor,
    ) -> dict[str, Tensor]:
        scene, query, segment = matched
        class_term = self._class_term(classes, scene, query, segments.category[segment])
        if not len(scene):  # keeps every parameter in the graph
            nothing = prediction.masks.sum() * 0
            return {'class': class_term, 'dice': nothing, 'mask': nothing}
        points = self._points(prediction, scene, query, pixels)
        logits = sample_own(prediction.masks, scene, query, points, prediction.extents)  # (N, P)
        inside = (sample_index(segments.index, points) == segment[:, None]).float()
        mask_term = F.binary_cross_entropy_with_logits(logits, inside, reduction='none').mean(1)
        probability = logits.sigmoid()
        dice_term = 1 - (2 * (probability * inside).sum(1) + 1) / (probability.sum(1) + inside.sum(1) + 1)
        return {'class': class_term, 'dice': dice_term.sum() / num_masks, 'mask': mask_term.sum() / num_masks}

    def _class_term(self, logits: Tensor, scene: Tensor, query: Tensor, category: Tensor) -> Tensor:
        """Cross-entropy of logits (B, P, K, C + 1); all queries but the matched ones are 'no object'."""
        scenes, phases, queries, num_logits = logits.shape
        target = torch.full((scenes, queries), num_logits - 1, device=logits.device)
        target[scene, query] = category
        weight = logits.new_ones(num_logits)
        weight[-1] = self.no_object_weight
        # Every phase has the same targets, hence the same sum of weights: the mean over all is the mean of the phases.
        target = target[:, None].expand(-1, phases, -1)
        return F.cross_entropy(logits.flatten(0, 2), target.flatten(), weight)

    @torch.no_grad()
    def _points(self, prediction: QueryPrediction, scene: Tensor, query: Tensor, pixels: LabelledPixels) -> Points:
        """Where the N matched masks are compared with the truth: N sets of `num_points`."""
        owner = torch.arange(len(prediction.masks), device=scene.device) if self.shared_points else scene
        candidates = draw_points(pixels, owner, self.num_candidates, per_view=self.points_per_view)
        asked = candidates[scene] if self.shared_points else candidates
        confidence = sample_own(prediction.masks, scene, query, asked, prediction.extents).abs()
        if self.shared_points:  # one set per scene, where the least confident of its masks counts
            least = torch.full_like(candidates.offset[..., 0], torch.inf)
            confidence = least.scatter_reduce(0, scene[:, None].expand_as(confidence), confidence, 'amin')
        groups = num_labelled_views(pixels)[owner] if self.points_per_view else None
        undecided = candidates.take(most_doubtful(confidence, self.num_undecided, groups))
        anywhere = draw_points(pixels, owner, self.num_points - self.num_undecided, per_view=self.points_per_view)
        points = undecided.and_also(anywhere)
        return points[scene] if self.shared_points else points

    @torch.no_grad()
    def _match(
        self,
        predictions: Sequence[QueryPrediction],
        classes: Sequence[Tensor],
        segments: Segments,
        pixels: LabelledPixels,
        counts: list[int],
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per stage the scene, query and segment of every matched pair; all stages at the same points."""
        device = segments.index.device
        if not sum(counts):
            none = torch.zeros(0, dtype=torch.long, device=device)
            return [(none, none, none)] * len(predictions)
        scenes = torch.arange(len(counts), device=device)
        first = torch.tensor(counts, device=device).cumsum(0) - torch.tensor(counts, device=device)
        points = draw_points(pixels, scenes, self.num_points, per_view=self.points_per_view)
        # Scenes with fewer segments than others have some of the next scene behind theirs, which `assign` leaves out.
        number = first[:, None] + torch.arange(max(counts), device=device)  # (B, M)
        inside = (sample_index(segments.index, points)[:, None] == number[..., None]).float()
        category = segments.category[number.clamp(max=len(segments.category) - 1)]
        costs = []
        for prediction, logits in zip(predictions, classes, strict=True):
            masks = sample_all(prediction.masks, points, prediction.extents)
            probability = logits.softmax(-1).mean(1)  # (B, K, C + 1)
            costs.append(
                self.weights['class'] * -probability.gather(2, category[:, None].expand(-1, probability.shape[1], -1))
                + self.weights['mask'] * binary_cross_entropy_cost(masks, inside)
                + self.weights['dice'] * dice_cost(masks, inside)
            )
        problem, query, column = assign(torch.cat(costs), counts * len(costs))
        scene = problem % len(counts)
        pairs = [scene, query, first[scene] + column]
        return list(zip(*(part.chunk(len(costs)) for part in pairs), strict=True))

    @staticmethod
    def _mean_over_ranks(count: int, device: torch.device) -> Tensor:
        total = torch.tensor(float(count), device=device)
        dist.all_reduce(total)
        return (total / dist.get_world_size()).clamp(min=1)


def _check_padding(index: Tensor, prediction: QueryPrediction) -> None:
    if prediction.extents is None:
        return
    size, grid = torch.tensor([index.shape[-2:], prediction.masks.shape[-2:]], device=index.device)
    beside = outside((prediction.extents * size + grid - 1) // grid, tuple(index.shape[-2:]))
    if ((index >= 0) & beside).any():
        raise ValueError(
            'the ground truth has labels beside the views, in the padding of their canvas; pad with void (-1)'
        )


def _unlabelled(
    segments: Segments, labelled_classes: Sequence[Sequence[int] | None] | None, classes: Tensor
) -> Tensor | None:
    """Which class logits take no part, (B, C + 1) bool; None if all do."""
    if labelled_classes is None or all(labelled is None for labelled in labelled_classes):
        return None
    if len(labelled_classes) != len(classes):
        raise ValueError(f'{len(classes)} targets but {len(labelled_classes)} lists of labelled classes')
    unlabelled = torch.zeros(len(classes), classes.shape[-1], dtype=torch.bool)
    for scene, labelled in enumerate(labelled_classes):
        if labelled is not None:
            unlabelled[scene, :-1] = True
            unlabelled[scene, list(labelled)] = False
    unlabelled = unlabelled.to(classes.device)
    strange = segments.category[unlabelled[segments.scene, segments.category]].unique().tolist()
    if strange:
        raise ValueError(f'the ground truth has the categories {strange}, which `labelled_classes` lacks')
    return unlabelled


def _class_logits(logits: Tensor, unlabelled: Tensor | None) -> Tensor:
    """(B, P, K, C + 1), float32, those of unlabelled classes at minus infinity; without a phase axis P is 1."""
    logits = (logits if logits.ndim == 4 else logits[:, None]).float()
    return logits if unlabelled is None else logits.masked_fill(unlabelled[:, None, None], -torch.inf)
