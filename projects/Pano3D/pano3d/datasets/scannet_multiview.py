"""ScanNet as scenes of several views."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.utils import is_abs

from pano3d.registry import DATASETS, TRANSFORMS
from pano3d.structures import LabelSpace

from .scene_record import check_format, read_json, read_scene
from .transforms.view_selection import ListedViews

FORMAT = 'pano3d-scenes'
VERSION = 1


@DATASETS.register_module()
class ScanNetMultiViewDataset(BaseDataset):
    """Scenes that `tools/prepare_scannet.py` has written, one sample per scene: several views of it.

    With `ListedViews` in the pipeline there is one sample per list of views instead.

    A sample is a pure function of (`seed`, index). An index beyond the length is another random draw of a scene:
    `index = draw * len(dataset) + scene`; see `InfiniteDrawSampler`. With a sampler that stays below the length
    (mmengine's) every epoch repeats the same draws.

    The pipeline starts from a dict with `scene` (`SceneRecord`), `label_space` (`LabelSpace`), `sample_idx`,
    `backend_args` and `rng`, a `numpy.random.Generator` and the only source of randomness that transforms may use.

    `metainfo` has `label_space` (name), `classes` and `stuff` (names).

    Args:
        data_root: folder of the converted scenes; may be remote.
        ann_file: the split, e.g. 'train.json', in `data_root` unless absolute.
        label_space: name of a label space of the package (e.g. 'scannet20') or path of its .json file.
        model_label_space: the classes of the samples where they differ from those of the annotation, e.g. the union
            'scannet20+scannetpp100' in a training on several sources; see `LabelSpace.within`.
        pipeline: transforms, as configs or callables.
        min_frames: scenes with fewer frames are left out and counted in the log. A training that samples N views
            needs N.
        seed: of the random draws.
        test_mode: kept for OpenMMLab tools; it changes nothing here.
        indices: only these scenes, or the first so many, as in mmengine.
        lazy_init: whether to read the split at first use only.
        serialize_data: whether worker processes share the list of scenes.
        backend_args: of mmengine's file backend, for every file of the dataset.

    Raises:
        FileNotFoundError: if there is no such split; the message says how to make it.
        ValueError: if the split is not of this format or has no scene left.
    """

    supports_draws = True
    ann_file: str
    data_root: str

    def __init__(
        self,
        *,
        data_root: str,
        ann_file: str,
        label_space: str,
        model_label_space: str | None = None,
        pipeline: Sequence[dict[str, Any] | Callable[[dict], dict]] = (),
        min_frames: int = 1,
        seed: int = 0,
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
        lazy_init: bool = False,
        serialize_data: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        self.label_space = LabelSpace.load(label_space)
        if not self.label_space.labelled_classes:
            raise ValueError(
                f'label space {label_space!r} is a union and reads no annotation; give the label space of the source '
                'as `label_space` and the union as `model_label_space`'
            )
        if model_label_space is not None:
            self.label_space = self.label_space.within(LabelSpace.load(model_label_space))
        self.min_frames = min_frames
        self.seed = seed
        self.backend_args = backend_args
        super().__init__(
            ann_file=ann_file,
            data_root=data_root.rstrip('/'),
            data_prefix={},
            # Our own registry, so that the transforms are found whatever the default scope is.
            pipeline=[TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline],
            test_mode=test_mode,
            indices=indices,
            serialize_data=serialize_data,
            lazy_init=True,
        )
        self._metainfo.update(
            label_space=self.label_space.name,
            classes=self.label_space.names,
            stuff=tuple(name for name in self.label_space.names if name in self.label_space.stuff),
        )
        if not lazy_init:
            self.full_init()

    def load_data_list(self) -> list[dict]:
        """Samples of the split as dict(scene_id=str, num_frames=int), with `ListedViews` also view_list=int."""
        try:
            split = read_json(self.ann_file, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(self._how_to_get_it()) from error
        try:
            check_format(split.get('metainfo', {}), FORMAT, VERSION)
            scenes = [
                {'scene_id': str(scene['scene_id']), 'num_frames': int(scene['num_frames'])}
                for scene in split['data_list']
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{self.ann_file}: not a list of converted scenes ({error!r}); tools/prepare_scannet.py writes one'
            ) from error
        if not scenes:
            raise ValueError(f'{self.ann_file}: the split has no scene; was tools/prepare_scannet.py run to its end?')
        chooser = next((step for step in self.pipeline.transforms if isinstance(step, ListedViews)), None)
        return scenes if chooser is None else self._listed(scenes, chooser)

    def _listed(self, scenes: list[dict], chooser: ListedViews) -> list[dict]:
        """A sample for each list of views, in the order of the split."""
        views = chooser.read(self.backend_args)
        absent = sorted(views.keys() - {scene['scene_id'] for scene in scenes})
        if absent:
            print_log(
                f'{chooser.path}: {len(absent)} of {len(views)} listed scenes are not in {self.ann_file}, e.g. '
                f'{absent[0]}; figures are of the others',
                logger='current',
                level=logging.WARNING,
            )
        if len(absent) == len(views):
            raise ValueError(f'{chooser.path}: none of the {len(views)} listed scenes is in {self.ann_file}')
        return [
            {**scene, 'view_list': number}
            for scene in scenes
            for number in range(len(views.get(scene['scene_id'], ())))
        ]

    def filter_data(self) -> list[dict]:
        """Leave out scenes with fewer than `min_frames` frames."""
        kept = [scene for scene in self.data_list if scene['num_frames'] >= self.min_frames]
        if not kept:
            most = max(scene['num_frames'] for scene in self.data_list)
            raise ValueError(
                f'{self.ann_file}: no scene has the {self.min_frames} frames that `min_frames` asks for '
                f'({len(self.data_list)} scenes, at most {most} frames); use fewer views'
            )
        if len(kept) < len(self.data_list):
            print_log(
                f'{self.ann_file}: {len(self.data_list) - len(kept)} of {len(self.data_list)} scenes have fewer than '
                f'{self.min_frames} frames and are left out',
                logger='current',
                level=logging.WARNING,
            )
        return kept

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """What the pipeline starts from, without `rng`.

        Raises:
            FileNotFoundError: if the scene of the split is not there.
            ValueError: if its `scene.json` is damaged or has not the ids that the label space reads.
        """
        info = super().get_data_info(idx % len(self))
        folder = f'{self.data_root}/scenes/{info["scene_id"]}'
        scene = read_scene(folder, backend_args=self.backend_args)
        if len(scene.frames) != info['num_frames']:
            raise ValueError(
                f'{folder}: {self.ann_file} promises {info["num_frames"]} frames, scene.json has {len(scene.frames)}; '
                'run tools/prepare_scannet.py again'
            )
        key = self.label_space.source_key
        if any(key not in instance for instance in scene.instances):
            raise ValueError(
                f'{folder}: label space {self.label_space.name!r} reads {key!r} of every instance, and instances of '
                f'source {scene.source!r} have only {sorted(scene.instances[0])}; use a label space of that source'
            )
        return {
            'scene': scene,
            'label_space': self.label_space,
            'sample_idx': info['sample_idx'],
            **({'view_list': info['view_list']} if 'view_list' in info else {}),
            'backend_args': self.backend_args,
        }

    def prepare_data(self, idx: int) -> Any:
        """Sample number `idx`, a pure function of (seed, idx)."""
        return self.pipeline({**self.get_data_info(idx), 'rng': np.random.default_rng([self.seed, idx])})

    def __getitem__(self, idx: int) -> Any:
        """Sample number `idx` >= 0 (beyond the length: another draw), or -1 for the last scene, and so on.

        Raises:
            IndexError: if `idx` < -len.
            ValueError: if a transform returns None; replacing the sample by a random one, as mmengine does, would
                make it depend on more than (seed, idx).
        """
        if not self._fully_initialized:
            self.full_init()
        if idx < -len(self):
            raise IndexError(f'index {idx} is out of range for {len(self)} scenes')
        sample = self.prepare_data(idx if idx >= 0 else idx + len(self))
        if sample is None:
            raise ValueError(f'a transform returned None for index {idx}; every transform must return a sample')
        return sample

    def __iter__(self) -> Iterator[Any]:
        """Draw 0 of every scene; Python's own rule would count on for ever."""
        return (self[index] for index in range(len(self)))

    def _join_prefix(self) -> None:
        # mmengine's own asks the file backend to join, which its HTTP backend cannot.
        if not is_abs(self.ann_file):
            self.ann_file = f'{self.data_root}/{self.ann_file}'

    def _how_to_get_it(self) -> str:
        where = self.ann_file if '://' in self.ann_file else os.path.abspath(self.ann_file)
        return (
            f'the dataset is missing: looked for {where}.\n'
            '  To make it: ScanNet comes from its authors, who ask you to accept its terms of use\n'
            '  (https://github.com/ScanNet/ScanNet#scannet-data); then convert your download with\n'
            f'      python tools/prepare_scannet.py RAW {self.data_root}\n'
            '  or point `data_root` to scenes converted before.\n'
            '  `make demo` needs neither ScanNet nor pretrained weights.'
        )
