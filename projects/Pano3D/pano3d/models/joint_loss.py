"""One loss for both tasks: L_total = sum over tasks of weight x loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.model import BaseModule
from torch import Tensor

from pano3d.models.backbones import GeometryPrediction
from pano3d.models.query_decoder import QueryPrediction
from pano3d.registry import MODELS
from pano3d.structures import Reconstruction, SceneSample

TermsByTask = Mapping[str, Mapping[str, Tensor]]


@MODELS.register_module()
class JointLoss(BaseModule):
    """Geometry and segmentation, weighted 10 : 1 (method, section 3).

    Args:
        geometry: config of the backbone's own training loss; None trains without the geometry task.
        segmentation: config of the set loss; None trains without the segmentation task.
        weights: one factor per task, also for tasks of extra heads.

    Raises:
        ValueError: if a task has no weight or a weight no task.
    """

    def __init__(
        self,
        *,
        geometry: dict | None,
        segmentation: dict | None,
        weights: dict[str, float],
    ) -> None:
        super().__init__()
        self.geometry = None if geometry is None else MODELS.build(geometry)
        self.segmentation = None if segmentation is None else MODELS.build(segmentation)
        self.weights = dict(weights)
        missing = [
            name
            for name, criterion in (('geometry', self.geometry), ('segmentation', self.segmentation))
            if criterion is not None and name not in self.weights
        ]
        if missing:
            raise ValueError(f'`weights` has no entry for {missing}, got {sorted(self.weights)}')

    def forward(
        self,
        geometry: GeometryPrediction,
        segmentation: Sequence[QueryPrediction],
        samples: Sequence[SceneSample],
        extra: TermsByTask | None = None,
    ) -> dict[str, Tensor]:
        """All terms of all tasks for mmengine to add up and log.

        Args:
            geometry: what the backbone's heads put out.
            segmentation: one prediction per decoder stage.
            samples: the scenes, with `gt_reconstruction` and `gt_panoptic`.
            extra: terms of further heads, by task name; each task needs a weight.

        Returns:
            `loss_<task>_<term>`, weighted, which add up to the total, and `raw_<task>`, the unweighted sum per task.
        """
        terms: dict[str, Mapping[str, Tensor]] = dict(extra or {})
        if self.geometry is not None:
            target = Reconstruction.stack([sample.gt_reconstruction for sample in samples])
            terms['geometry'] = self.geometry(geometry, target)
        if self.segmentation is not None:
            targets = [sample.gt_panoptic for sample in samples]
            labelled = [sample.get('labelled_classes') for sample in samples]
            # Only samples of several label spaces need a criterion that knows of them.
            partial = () if all(classes is None for classes in labelled) else (labelled,)
            terms['segmentation'] = self.segmentation(segmentation, targets, *partial)
        unknown = sorted(set(terms) - set(self.weights))
        if unknown:
            raise ValueError(f'JointLoss has no weight for the tasks {unknown}; add them to `weights`')
        losses: dict[str, Tensor] = {}
        for task, task_terms in terms.items():
            for name, value in task_terms.items():
                losses[f'loss_{task}_{name}'] = self.weights[task] * value
            losses[f'raw_{task}'] = sum(task_terms.values()).detach()
        return losses
