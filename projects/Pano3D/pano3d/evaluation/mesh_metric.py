"""Labels carried to the mesh: unite_mesh, with the geometry of the ground truth and with our own."""

from __future__ import annotations

import io
import operator
import zipfile
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from mmengine.fileio import get
from torch import Tensor

from pano3d.functional.average_precision import InstanceMatches, average_precision
from pano3d.functional.confusion import SemanticCounts, semantic_counts
from pano3d.functional.lifting import carry_masks, carry_values, pixel_neighbours
from pano3d.registry import METRICS
from pano3d.structures import VOID, LabelSpace, PanopticMap

from .own_geometry import aligned_points
from .point_instance_metric import class_agnostic_matches, instance_scores
from .predicted_segments import ScoredSegments, scored_segments
from .protocol_metric import MissingFieldError, ProtocolMetric, load_label_space, required
from .semantic_iou_metric import class_probabilities, most_probable, semantic_scores

GEOMETRIES = ('gt_depth', 'own_geometry')
MeshState = dict[str, tuple[SemanticCounts, InstanceMatches]]


@METRICS.register_module()
class UniteMeshMetric(ProtocolMetric):
    """mIoU, mAcc, Acc and class-agnostic AP, AP50, AP25, fractions, of labels carried from pixels to mesh vertices.

    Every vertex takes the mean of the class probabilities (`pred_semantic`) of its nearest pixels, weighted by inverse
    distance, and of these the largest. Instances: the segments of `pred_panoptic`, as masks with the scores of
    `pred_segments`, are carried in the same way, and each vertex goes to the largest, or to none where most of the
    weight is on pixels without a segment. The pixels are in space once through the depth, intrinsics and poses of the
    ground truth, once as predicted points after one Sim(3) per scene; always both. Then the rules of miou_points and
    ap_points_class_agnostic on the vertices.

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
        num_neighbours: int = 5,
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
        named = sample.get('label_space', self.label_space.name)
        if named != self.label_space.name:
            raise ValueError(f'the data sample is labelled in {named!r}, the metric expects {self.label_space.name!r}')
        probabilities = class_probabilities(sample, self.label_space).to('cpu')
        segments = scored_segments(sample)
        own_points, predicted, gt = aligned_points(sample)
        size = tuple(gt.valid.shape)
        for name, shape in (
            ('pred_semantic', (len(probabilities), *probabilities.shape[2:])),
            ('pred_panoptic', tuple(segments.index.shape)),
        ):
            if shape != size:
                raise ValueError(f'`{name}` must have the size of `gt_reconstruction` (V, H, W), {size}, got {shape}')
        vertices, labels = read_labelled_vertices(
            sample.get('mesh_path'),
            required(sample, 'instance_categories', dict),
            self.label_space.is_stuff,
            backend_args=self.backend_args,
        )
        pixels = {'gt_depth': (gt.points, gt.valid), 'own_geometry': (own_points, predicted.valid)}
        return {
            geometry: self._score(*pixels[geometry], probabilities, segments, vertices, labels)
            for geometry in GEOMETRIES
        }

    def summarize(self, states: list[MeshState]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for geometry in GEOMETRIES:
            counts = reduce(operator.add, [state[geometry][0] for state in states])
            matches = reduce(operator.add, [state[geometry][1] for state in states])
            scores = semantic_scores(counts) | instance_scores(average_precision(matches))
            metrics |= {f'{geometry}/{name}': value for name, value in scores.items()}
        return metrics

    def _score(
        self,
        points: Tensor,
        valid: Tensor,
        probabilities: Tensor,
        segments: ScoredSegments,
        vertices: Tensor,
        labels: PanopticMap,
    ) -> tuple[SemanticCounts, InstanceMatches]:
        neighbours = pixel_neighbours(points, valid, vertices, num_neighbours=self.num_neighbours)
        category = most_probable(carry_values(probabilities, neighbours))
        counts = semantic_counts(predicted=category, gt=labels.category, num_classes=self.label_space.num_classes)
        owner = carry_masks(segments.index, segments.score, neighbours)
        proposals = ScoredSegments(owner, segments.category, segments.score).as_proposals()
        matches = class_agnostic_matches(proposals, labels, self.label_space.is_stuff, min_points=self.min_vertices)
        return counts, matches


def read_labelled_vertices(
    path: str | None,
    instance_categories: Mapping[int, int],
    is_stuff: Tensor,
    *,
    backend_args: dict[str, Any] | None = None,
) -> tuple[Tensor, PanopticMap]:
    """Vertices (N, 3), float64, metres, and their labels (N,), from the mesh of a stored scene.

    Raises:
        FileNotFoundError: if the file is not there.
        MissingFieldError: if the scene has no mesh.
        ValueError: if the file is damaged, or an instance has no category.
    """
    if not isinstance(path, str):
        raise MissingFieldError(
            f'`mesh_path` must be the mesh of the scene, got {path!r}; this protocol needs scenes with one'
        )
    try:
        with np.load(io.BytesIO(get(path, backend_args=backend_args))) as arrays:
            vertices, instance = arrays['vertices'], arrays['instance'].astype(np.int64)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'{path}: expected the arrays `vertices` and `instance` of a stored mesh, found {error!r}; convert the '
            'scene again'
        ) from error
    if vertices.ndim != 2 or vertices.shape[1] != 3 or instance.shape != vertices.shape[:1]:
        raise ValueError(f'{path}: expected (N, 3) and (N,), found {vertices.shape} and {instance.shape}')
    ids, place = np.unique(instance, return_inverse=True)
    strangers = [i for i in ids.tolist() if i and i not in instance_categories]
    if strangers:
        raise ValueError(f'{path}: vertices have ids {strangers} that `instance_categories` does not list')
    categories = torch.tensor([instance_categories[i] if i else VOID for i in ids.tolist()], dtype=torch.int64)
    category = categories[torch.from_numpy(place)]
    is_thing = torch.cat([~is_stuff, is_stuff.new_zeros(1)])[category]  # the last entry answers for void, -1
    return torch.from_numpy(vertices).double(), PanopticMap(category, torch.from_numpy(instance) * is_thing)
