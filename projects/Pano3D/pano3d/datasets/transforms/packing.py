"""The last step: tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pano3d.registry import TRANSFORMS
from pano3d.structures import VOID, LabelSpace, PanopticMap, Reconstruction, SceneSample

from .base import Transform


@TRANSFORMS.register_module()
class PackScene(Transform):
    """Pack a sample as the model takes it.

    Returns dict(inputs=(V, 3, H, W) uint8 RGB, data_samples=`SceneSample` with `gt_panoptic` and `gt_reconstruction`
    in the frame of the stored poses). Its meta information has also `mesh_path` (str, or None) and
    `instance_categories` (dict from instance id to category index, -1 for void): what an evaluation on the mesh needs;
    where the annotation has not all classes of the label space also `labelled_classes` (tuple of category indices);
    after `SplitKeyframes` also `keyframes` and `overlaps_keyframe` (lists of V bool).

    Raises:
        ValueError: if an instance map has an id that the scene does not list, or there are several views of a scene
            whose objects have other ids in each image.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        scene, label_space = results['scene'], results['label_space']
        if len(results['views']) > 1 and not scene.instances_across_views:
            raise ValueError(
                f'scene {scene.scene_id}: {len(results["views"])} views are asked for, but source {scene.source!r} '
                'numbers the objects of each image anew; use one view per sample'
            )
        try:
            panoptic = panoptic_from_instances(results['instance'], scene.instances, label_space)
        except ValueError as error:
            frames = [view.id for view in results['views']]
            raise ValueError(f'scene {scene.scene_id}, frames {frames}: {error}') from error
        labelled = label_space.labelled_classes
        sample = SceneSample(
            metainfo={
                'scene_id': scene.scene_id,
                'frame_ids': [view.id for view in results['views']],
                'label_space': label_space.name,
                'mesh_path': scene.mesh,
                'instance_categories': {i['id']: label_space.category_of(i) for i in scene.instances},
                **({} if len(labelled) == label_space.num_classes else {'labelled_classes': labelled}),
                **{key: results[key].tolist() for key in ('keyframes', 'overlaps_keyframe') if key in results},
            }
        )
        sample.gt_panoptic = panoptic
        sample.gt_reconstruction = Reconstruction.from_depth(
            *(_tensor(results[key], np.float32) for key in ('depth', 'intrinsics', 'camera_to_world'))
        )
        return {'inputs': _tensor(results['color'].transpose(0, 3, 1, 2), np.uint8), 'data_samples': sample}


def panoptic_from_instances(
    instance: NDArray[np.int32], instances: Sequence[Mapping[str, Any]], label_space: LabelSpace
) -> PanopticMap:
    """Labels of a map of instance ids (...), 0 = nothing, whose classes the records of the scene know.

    Raises:
        ValueError: if the map has an id without a record.
    """
    ids = np.array([0, *(record['id'] for record in instances)])
    categories = np.array([VOID, *(label_space.category_of(record) for record in instances)])
    is_thing = ~np.append(label_space.is_stuff.numpy(), True)[categories]  # the last entry is void's
    size = int(max(ids.max(), instance.max(initial=0))) + 1
    known, to_category, to_instance = np.zeros(size, bool), np.full(size, VOID), np.zeros(size, np.int64)
    known[ids] = True
    to_category[ids] = categories
    to_instance[ids] = ids * is_thing
    if not known.take(instance).all():
        strangers = np.unique(instance[~known[instance]]).tolist()
        raise ValueError(f'the instance map has ids {strangers} that scene.json does not list')
    index = torch.from_numpy(np.ascontiguousarray(instance)).flatten()  # faster in torch, and with one dimension
    tables = (torch.from_numpy(table) for table in (to_category, to_instance))
    return PanopticMap(*(table.index_select(0, index).view(instance.shape) for table in tables))


def _tensor(array: np.ndarray, dtype: type) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
