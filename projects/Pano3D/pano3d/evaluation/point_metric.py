"""What protocols on labelled points share: the points themselves, given ones or the vertices of the mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pano3d.structures import LabelSpace, PanopticMap

from .mesh_labels import MESH_GEOMETRIES, vertex_sample
from .protocol_metric import MissingFieldError, ProtocolMetric, gt_panoptic, load_label_space

POINT_GEOMETRIES = ('gt_points', *MESH_GEOMETRIES)


class PointMetric(ProtocolMetric):
    """A protocol on points (N,), each with its true and its predicted label.

    Subclasses implement `point_state`, of a sample whose `gt_panoptic` and `pred_panoptic` are (N,), and `summarize`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        protocol: as it is named in keys.
        geometry: 'gt_points', the labels of the sample are of points; 'gt_depth' or 'own_geometry', they are of views
            and are carried to the vertices of the mesh as `vertex_sample` says.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(self, *, label_space: str | LabelSpace, protocol: str, geometry: str, collect_device: str) -> None:
        if geometry not in POINT_GEOMETRIES:
            raise ValueError(f'`geometry` must be one of {list(POINT_GEOMETRIES)}, got {geometry!r}')
        self.label_space = load_label_space(label_space)
        self.geometry = geometry
        super().__init__(prefix=f'{self.label_space.name}/{protocol}/{geometry}', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> Any:
        """State of the given points, or of the vertices of the mesh."""
        if self.geometry != 'gt_points':
            sample = vertex_sample(sample, self.label_space, self.geometry)
        return self.point_state(sample)

    def point_state(self, sample: Mapping[str, Any]) -> Any:
        """State of one scene of points, on the CPU."""
        raise NotImplementedError

    def gt_points(self, sample: Mapping[str, Any], predicted_shape: Sequence[int]) -> PanopticMap:
        """Ground truth (N,) of the points that are predicted.

        Raises:
            MissingFieldError: if there is none, or it is of views.
            ValueError: if it is in another label space or of another number of points.
        """
        gt = gt_panoptic(sample, self.label_space)
        if len(gt.shape) != 1:
            raise MissingFieldError(
                f'`gt_panoptic` is not of points (N,) but {tuple(gt.shape)}; labels of views are scored on their mesh: '
                '`geometry` gt_depth or own_geometry'
            )
        if tuple(predicted_shape) != tuple(gt.shape):
            raise ValueError(
                f'the prediction must be on the {len(gt.category)} points of `gt_panoptic`, '
                f'got {tuple(predicted_shape)}'
            )
        return PanopticMap(gt.category.long(), gt.instance.long())
