"""Labelled point clouds as PLY (for other tools) and GLB (for viewers)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import trimesh
from plyfile import PlyData, PlyElement

from pano3d.structures import LabelSpace, PanopticMap, Reconstruction, SceneSample

from .palette import category_colors, instance_colors

MAX_POINTS = 1_000_000
OPENCV_TO_GLTF = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenCV axes (y down, z forward) to those of glTF (y up, z backward): half a turn about x, so still right-handed."""


@dataclass(frozen=True)
class LabelledPoints:
    """N points of a scene.

    Args:
        points: float32 (N, 3), scene frame, OpenCV axes.
        colors: uint8 (N, 3), RGB of the pixel each point comes from.
        category: int32 (N,), index into the label space, -1 for void.
        instance: int32 (N,), 0 for stuff and void.
        confidence: float32 (N,), unit of the network.
    """

    points: np.ndarray
    colors: np.ndarray
    category: np.ndarray
    instance: np.ndarray
    confidence: np.ndarray

    @classmethod
    def from_sample(
        cls,
        sample: SceneSample,
        *,
        source: str = 'pred',
        min_confidence: float = 0.0,
        max_points: int = MAX_POINTS,
    ) -> LabelledPoints:
        """The valid pixels of all views with their labels.

        Args:
            sample: with `images`, `<source>_reconstruction` and `<source>_panoptic`.
            source: 'pred' or 'gt'.
            min_confidence: points below it are left out; in the unit of the network.
            max_points: if more remain, this many are drawn evenly at random (same ones each time).

        Raises:
            ValueError: if the sample lacks a field.
        """
        needed = ['images', f'{source}_reconstruction', f'{source}_panoptic']
        missing = [name for name in needed if name not in sample]
        if missing:
            raise ValueError(f'a labelled point cloud needs {needed} of the sample, not set: {missing}')
        reconstruction: Reconstruction = sample.get(f'{source}_reconstruction').to('cpu')
        panoptic: PanopticMap = sample.get(f'{source}_panoptic').to('cpu')
        keep = reconstruction.valid & reconstruction.points.isfinite().all(-1)
        keep &= reconstruction.confidence >= min_confidence
        colors = (sample.images.detach().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        cloud = cls(
            points=reconstruction.points[keep].detach().numpy().astype(np.float32),
            colors=colors[keep].numpy(),
            category=panoptic.category[keep].numpy().astype(np.int32),
            instance=panoptic.instance[keep].numpy().astype(np.int32),
            confidence=reconstruction.confidence[keep].detach().numpy().astype(np.float32),
        )
        if len(cloud) <= max_points:
            return cloud
        return cloud[np.sort(np.random.default_rng(0).choice(len(cloud), max_points, replace=False))]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: np.ndarray) -> LabelledPoints:
        """The same points of every field."""
        return LabelledPoints(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def write_ply(cloud: LabelledPoints, label_space: LabelSpace, path: str | Path) -> Path:
    """Binary PLY: x, y, z (float), red, green, blue (uchar), category, instance (int), confidence (float).

    OpenCV axes, as everywhere in the package; the names of the categories are comments in the header.
    """
    vertices = np.empty(
        len(cloud),
        dtype=[(axis, '<f4') for axis in 'xyz']
        + [(channel, 'u1') for channel in ('red', 'green', 'blue')]
        + [('category', '<i4'), ('instance', '<i4'), ('confidence', '<f4')],
    )
    for position, (axis, channel) in enumerate(zip('xyz', ('red', 'green', 'blue'), strict=True)):
        vertices[axis] = cloud.points[:, position]
        vertices[channel] = cloud.colors[:, position]
    for name in ('category', 'instance', 'confidence'):
        vertices[name] = getattr(cloud, name)
    comments = ['OpenCV axes: x right, y down, z forward', 'category -1 void']
    comments += [f'category {number} {name}' for number, name in enumerate(label_space.names)]
    PlyData([PlyElement.describe(vertices, 'vertex')], byte_order='<', comments=comments).write(str(path))
    return Path(path)


def write_glb(cloud: LabelledPoints, label_space: LabelSpace, path: str | Path) -> Path:
    """Binary glTF: one node of points per object ('chair_3': class and instance id) or stuff class ('wall').

    glTF is y-up and right-handed by its specification, so the points are turned by `OPENCV_TO_GLTF`. Objects have
    the colours of the instance pictures, stuff those of the semantic pictures.

    Raises:
        ValueError: if the cloud is empty, which glTF cannot express.
    """
    if not len(cloud):
        raise ValueError(f'{path}: there is no point to write; lower `min_confidence`')
    scene = trimesh.Scene()
    segments, segment_of_point = np.unique(
        np.stack([cloud.category, cloud.instance], axis=1), axis=0, return_inverse=True
    )
    for number, (category, instance) in enumerate(segments):
        [name] = label_space.describe([int(category)])
        if instance > 0:
            name, color = f'{name}_{instance}', instance_colors(category, instance)
        else:
            color = category_colors(category)
        points = cloud.points[segment_of_point.reshape(-1) == number]
        node = trimesh.PointCloud(points, colors=np.broadcast_to(np.append(color, np.uint8(255)), (len(points), 4)))
        scene.add_geometry(node.apply_transform(OPENCV_TO_GLTF), node_name=name, geom_name=name)
    scene.export(str(path), file_type='glb')
    return Path(path)
