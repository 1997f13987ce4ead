"""What protocols on the mesh share: its labelled vertices, and what the pixels say of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.fileio import get
from torch import Tensor

from pano3d.functional.lifting import PixelNeighbours, carry_masks, pixel_neighbours
from pano3d.structures import VOID, LabelSpace, PanopticMap

from .own_geometry import aligned_points
from .predicted_segments import scored_segments
from .protocol_metric import MissingFieldError, check_label_space, check_views, required
from .shared_sample import derived

MESH_GEOMETRIES = ('gt_depth', 'own_geometry')
NUM_NEIGHBOURS = 5


def labelled_vertices(
    sample: Mapping[str, Any], label_space: LabelSpace, *, backend_args: dict[str, Any] | None = None
) -> tuple[Tensor, PanopticMap]:
    """Vertices (M, 3), float64, metres, and their labels (M,), of the mesh at `mesh_path`.

    Raises:
        FileNotFoundError: if the file is not there.
        MissingFieldError: if the scene has no mesh.
        ValueError: if the file is damaged, an instance has no category, or the scene is of another label space.
    """
    check_label_space(sample, label_space)
    path = sample.get('mesh_path')
    if not isinstance(path, str):
        raise MissingFieldError(
            f'`mesh_path` must be the mesh of the scene, got {path!r}; this protocol needs scenes with one'
        )
    categories = required(sample, 'instance_categories', dict)
    return derived(sample, ('mesh', label_space), lambda: _read(path, categories, label_space.is_stuff, backend_args))


def vertex_neighbours(
    sample: Mapping[str, Any], vertices: Tensor, geometry: str, *, num_neighbours: int = NUM_NEIGHBOURS
) -> PixelNeighbours:
    """The pixels nearest to each vertex (M, 3) where `geometry` puts the pixels.

    Args:
        sample: of views, with both reconstructions.
        vertices: of its mesh.
        geometry: 'gt_depth', by the depth, intrinsics and poses of the ground truth; 'own_geometry', the predicted
            points after one Sim(3) per scene.
        num_neighbours: pixels per vertex.
    """

    def search() -> PixelNeighbours:
        own_points, predicted, gt = aligned_points(sample)
        points, valid = (gt.points, gt.valid) if geometry == 'gt_depth' else (own_points, predicted.valid)
        return pixel_neighbours(points, valid, vertices, num_neighbours=num_neighbours)

    return derived(sample, ('neighbours', geometry, num_neighbours), search)


def vertex_sample(
    sample: Mapping[str, Any],
    label_space: LabelSpace,
    geometry: str,
    *,
    num_neighbours: int = NUM_NEIGHBOURS,
    backend_args: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The vertices of the mesh as labelled points: `gt_panoptic`, `pred_panoptic` (M,) and `pred_segments`.

    Every segment of the prediction is a mask, its score on its pixels and 0 elsewhere. A vertex takes the mean of these
    masks over its nearest pixels, weighted by inverse distance, and goes to the largest, or to none where most of the
    weight is on pixels without a segment.

    Raises:
        ValueError: as `labelled_vertices`, `aligned_points` and `scored_segments`, or if their sizes differ.
    """
    vertices, labels = labelled_vertices(sample, label_space, backend_args=backend_args)
    segments = scored_segments(sample)
    check_views(sample, 'pred_panoptic', segments.index.shape)

    def carry() -> PanopticMap:
        neighbours = vertex_neighbours(sample, vertices, geometry, num_neighbours=num_neighbours)
        owner = carry_masks(segments.index, segments.score, neighbours)
        instance = torch.tensor([segment['instance'] for segment in sample['pred_segments']], dtype=torch.int64)
        nothing = torch.tensor([VOID]), torch.tensor([0])  # the last entry is that of no segment, -1
        return PanopticMap(torch.cat([segments.category, nothing[0]])[owner], torch.cat([instance, nothing[1]])[owner])

    return {
        'scene_id': sample.get('scene_id'),
        'label_space': label_space.name,
        'gt_panoptic': labels,
        'pred_panoptic': derived(sample, ('vertex labels', geometry, num_neighbours), carry),
        'pred_segments': sample['pred_segments'],
    }


def _read(
    path: str, instance_categories: Mapping[int, int], is_stuff: Tensor, backend_args: dict[str, Any] | None
) -> tuple[Tensor, PanopticMap]:
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
