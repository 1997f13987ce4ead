"""Labels carried to the mesh: unite_mesh, with the geometry of the ground truth and with our own."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pano3d.functional.average_precision import InstanceMatches, average_precision
from pano3d.functional.confusion import SemanticCounts, semantic_counts
from pano3d.functional.lifting import carry_values
from pano3d.registry import METRICS
from pano3d.structures import VOID, LabelSpace

from .mesh_labels import MESH_GEOMETRIES, NUM_NEIGHBOURS, labelled_vertices, vertex_neighbours, vertex_sample
from .point_instance_metric import class_agnostic_matches, instance_scores
from .predicted_segments import predicted_proposals
from .protocol_metric import ProtocolMetric, check_views, load_label_space
from .semantic_iou_metric import class_probabilities, semantic_scores

MeshState = dict[str, tuple[SemanticCounts, InstanceMatches]]


@METRICS.register_module()
class UniteMeshMetric(ProtocolMetric):
    """mIoU, mAcc, Acc and class-agnostic AP, AP50, AP25, fractions, of labels carried from pixels to mesh vertices.

    Every vertex takes the mean of the class probabilities (`pred_semantic`) of its nearest pixels, weighted by inverse
    distance, and of these the largest; instances as in `vertex_sample`. The pixels are in space once through the depth,
    intrinsics and poses of the ground truth, once as predicted points after one Sim(3) per scene; always both. Then the
    rules of miou_points and ap_points_class_agnostic on the vertices.

    The mesh is read from `mesh_path` (docs/scene_format.md), its classes are `instance_categories` of the sample.

    Keys: `<label space>/unite_mesh/<gt_depth | own_geometry>/<mIoU | mAcc | Acc | AP | AP50 | AP25>`.

    Args:
        label_space: name of a label space, path of its file, or the label space.
        num_neighbours: pixels per vertex.
        min_vertices: smallest mask and smallest instance that count in AP.
        backend_args: of mmengine's file backend, for the mesh.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(
        self,
        *,
        label_space: str | LabelSpace,
        num_neighbours: int = NUM_NEIGHBOURS,
        min_vertices: int = 100,
        backend_args: dict[str, Any] | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        self.label_space = load_label_space(label_space)
        self.num_neighbours = num_neighbours
        self.min_vertices = min_vertices
        self.backend_args = backend_args
        super().__init__(prefix=f'{self.label_space.name}/unite_mesh', collect_device=collect_device)

    def scene_state(self, sample: Mapping[str, Any]) -> MeshState:
        probabilities = class_probabilities(sample, self.label_space)
        check_views(sample, 'pred_semantic', (len(probabilities), *probabilities.shape[2:]))
        return {geometry: self._score(sample, geometry, probabilities.to('cpu')) for geometry in MESH_GEOMETRIES}

    def summarize(self, states: list[MeshState]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for geometry in MESH_GEOMETRIES:
            counts = reduce(operator.add, [state[geometry][0] for state in states])
            matches = reduce(operator.add, [state[geometry][1] for state in states])
            scores = semantic_scores(counts) | instance_scores(average_precision(matches))
            metrics |= {f'{geometry}/{name}': value for name, value in scores.items()}
        return metrics

    def _score(
        self, sample: Mapping[str, Any], geometry: str, probabilities: Tensor
    ) -> tuple[SemanticCounts, InstanceMatches]:
        vertices, labels = labelled_vertices(sample, self.label_space, backend_args=self.backend_args)
        neighbours = vertex_neighbours(sample, vertices, geometry, num_neighbours=self.num_neighbours)
        carried = carry_values(probabilities, neighbours)
        category = torch.where(carried.amax(1) == 0, VOID, carried.argmax(1))
        counts = semantic_counts(predicted=category, gt=labels.category, num_classes=self.label_space.num_classes)
        points = vertex_sample(
            sample,
            self.label_space,
            geometry,
            num_neighbours=self.num_neighbours,
            backend_args=self.backend_args,
        )
        matches = class_agnostic_matches(
            predicted_proposals(points), labels, self.label_space.is_stuff, min_points=self.min_vertices
        )
        return counts, matches
