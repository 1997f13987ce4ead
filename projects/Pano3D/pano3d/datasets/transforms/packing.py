"""The last step: tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pano3d.registry import TRANSFORMS
from pano3d.structures import VOID, DepthViews, LabelSpace, PanopticMap, SceneSample

from .base import Transform

UNKNOWN = VOID - 1  # not listed at all; smaller than all categories


@TRANSFORMS.register_module()
class PackScene(Transform):
    """Pack a sample into few bytes; on the device `SceneSample.unpacked` makes of it what the model takes.

    Returns dict(inputs=(V, 3, H, W) uint8 RGB, data_samples=`SceneSample` with `gt_panoptic`, in the narrowest of int16
    and int32, and `gt_depth`, float32, in the frame of the stored poses). Its meta information has also `mesh_path`
    (str, or None) and `instance_categories` (dict from instance id to category index, -1 for void): what an evaluation
    on the mesh needs; where the annotation has not all classes of the label space also `labelled_classes` (tuple of
    category indices); after `SplitKeyframes` also `keyframes` (list of V bool); where the scene has one also
    `axis_alignment` (4x4 nested list, see `SceneRecord`).

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
                **({'keyframes': results['keyframes'].tolist()} if 'keyframes' in results else {}),
                **({} if scene.axis_alignment is None else {'axis_alignment': scene.axis_alignment.tolist()}),
            }
        )
        sample.gt_panoptic = panoptic
        sample.gt_depth = DepthViews(
            *(_tensor(results[key], np.float32) for key in ('depth', 'intrinsics', 'camera_to_world'))
        )
        return {'inputs': _tensor(results['color'].transpose(0, 3, 1, 2), np.uint8), 'data_samples': sample}


def panoptic_from_instances(
    instance: NDArray[np.integer], instances: Sequence[Mapping[str, Any]], label_space: LabelSpace
) -> PanopticMap:
    """Labels of a map of instance ids (...) >= 0, 0 = nothing, whose classes the records of the scene know.

    Raises:
        ValueError: if the map has an id without a record.
    """
    last = int(instance.max(initial=0))
    ids = np.array([0, *(record['id'] for record in instances if record['id'] <= last)])
    categories = np.array([VOID, *(label_space.category_of(record) for record in instances if record['id'] <= last)])
    is_thing = ~np.append(label_space.is_stuff.numpy(), True)[categories]  # the last entry is void's
    to_category = np.full(last + 1, UNKNOWN, _narrowest(label_space.num_classes))
    to_instance = np.zeros(last + 1, _narrowest(last))
    to_category[ids], to_instance[ids] = categories, ids * is_thing
    index = torch.from_numpy(instance.astype(np.int32)).flatten()  # faster in torch, and with one dimension
    category, thing = (torch.from_numpy(table).index_select(0, index) for table in (to_category, to_instance))
    if len(index) and category.min() == UNKNOWN:
        strangers = index[category == UNKNOWN].unique().tolist()
        raise ValueError(f'the instance map has ids {strangers} that scene.json does not list')
    return PanopticMap(category.view(instance.shape), thing.view(instance.shape))


def _narrowest(largest: int) -> type[np.integer]:
    return np.int16 if largest <= np.iinfo(np.int16).max else np.int32


def _tensor(array: np.ndarray, dtype: type) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))
