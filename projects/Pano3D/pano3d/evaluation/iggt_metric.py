"""The columns of IGGT's tables: iggt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pano3d.registry import METRICS
from pano3d.structures import LabelSpace

from .depth_metric import DepthMetric
from .protocol_metric import ProtocolMetric, load_label_space
from .semantic_iou_metric import SemanticIoUMetric
from .voxel_metric import VoxelMetric


@METRICS.register_module()
class IGGTMetric(ProtocolMetric):
    """Depth per view and per scene, mIoU of pixels and mIoU of voxels, all fractions, in one table.

    Composed of the protocols depth_per_view, depth_mvd, miou and miou_voxel. For the voxels the least sure predicted
    points are dropped, and thinly filled voxels are empty; the published filters have no published thresholds, the
    defaults are ours.

    Keys: `<label space>/iggt/own_geometry/<AbsRel | tau | MVD_AbsRel | MVD_tau | mIoU_2D | mIoU_3D>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        read_out: 'semantic' or 'panoptic', as of `SemanticIoUMetric`.
        voxel_size: edge of a voxel, metres.
        min_confidence_quantile: share of the predicted points, those of the lowest confidence, that is dropped.
        min_points: voxels with fewer points are empty, in both clouds: the ground truth, too, must be dense enough.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        read_out: str = 'semantic',
        voxel_size: float = 0.1,
        min_confidence_quantile: float = 0.1,
        min_points: int = 2,
        collect_device: str = 'cpu',
    ) -> None:
        space = load_label_space(label_space)
        voxels = VoxelMetric(
            label_space=space,
            read_out=read_out,
            voxel_size=voxel_size,
            min_confidence_quantile=min_confidence_quantile,
            min_points=min_points,
        )
        self.parts: list[tuple[ProtocolMetric, dict[str, str]]] = [  # and their scores -> our columns
            (DepthMetric(protocol='depth_per_view'), {'AbsRel': 'AbsRel', 'tau': 'tau'}),
            (DepthMetric(protocol='depth_mvd'), {'AbsRel': 'MVD_AbsRel', 'tau': 'MVD_tau'}),
            (SemanticIoUMetric(label_space=space, read_out=read_out), {'mIoU': 'mIoU_2D'}),
            (voxels, {'mIoU': 'mIoU_3D'}),
        ]
        super().__init__(prefix=f'{space.name}/iggt/own_geometry', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> list[Any]:
        """The states of the parts."""
        return [part.scene_state(sample) for part, _ in self.parts]

    def summarize(self, states: list[list[Any]]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for (part, columns), part_states in zip(self.parts, zip(*states, strict=True), strict=True):
            scores = part.summarize(list(part_states))
            metrics |= {column: scores[score] for score, column in columns.items()}
        return metrics
