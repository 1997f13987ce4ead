"""Predictions in files, of this project or of others: docs/predictions.md says what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor

from pano3d.functional.geometry import transform_points, unproject
from pano3d.structures import VOID, LabelSpace, MaskProposals, PanopticMap, Reconstruction, SceneSample

from .outputs import prediction_arrays
from .prediction_file import find_predictions, read_arrays

GEOMETRY = ('depth', 'camera_to_world', 'intrinsics')
ARRAYS = (
    *('category', 'instance', 'class_names', 'frame_ids', 'segment_category', 'segment_instance', 'segment_score'),
    *('semantic', *GEOMETRY, 'points', 'confidence', 'valid'),
    *('proposal_masks', 'proposal_category', 'proposal_score'),
)
MISSING_SCENES = ('error', 'empty')
KINDS = {'b': 'bool', 'i': 'integer', 'u': 'unsigned integer', 'f': 'floating'}


class SavedPredictions(BaseModel):
    """Answers for a model with predictions from a folder: `<scene>.npz` or `<scene>/prediction.npz`.

    Args:
        folder: of the predictions.
        label_space: the classes of the evaluation.
        missing_scenes: a scene without a file is an 'error', or counted as 'empty': all void, no segment, no geometry.

    Raises:
        ValueError: if there is no such folder, or no prediction in it.
    """

    def __init__(self, *, folder: str | Path, label_space: LabelSpace, missing_scenes: str = 'error') -> None:
        super().__init__(data_preprocessor=dict(type='pano3d.SceneDataPreprocessor'))
        if missing_scenes not in MISSING_SCENES:
            raise ValueError(f'`missing_scenes` must be one of {MISSING_SCENES}, got {missing_scenes!r}')
        self.files = find_predictions(folder)
        self.folder = Path(folder)
        self.label_space = label_space
        self.missing_scenes = missing_scenes

    def forward(
        self, inputs: Tensor, data_samples: list[SceneSample] | None = None, mode: str = 'tensor'
    ) -> list[SceneSample]:
        """mmengine's entry; only `mode='predict'` means anything here.

        Raises:
            ValueError: on another mode, or if a prediction is missing or wrong; names the file and the scene.
        """
        if mode != 'predict':
            raise ValueError(f"saved predictions can only be evaluated: `mode` must be 'predict', got {mode!r}")
        return [self._predict(sample) for sample in data_samples or []]

    def _predict(self, sample: SceneSample) -> SceneSample:
        path = self.files.get(sample.scene_id)
        if path is not None:
            return read_prediction(path, sample, self.label_space)
        if self.missing_scenes == 'empty':
            return empty_prediction(sample, self.label_space)
        raise ValueError(
            f'{self.folder}: no prediction of scene {sample.scene_id}; write {sample.scene_id}.npz, or count such '
            'scenes as empty (--missing-scenes empty)'
        )


class SavePredictions(Hook):
    """Writes `<scene>.npz` of everything that is predicted while testing.

    Args:
        folder: where to.
        label_space: the classes of the model.
    """

    def __init__(self, *, folder: str | Path, label_space: LabelSpace) -> None:
        self.folder = Path(folder)
        self.label_space = label_space

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[SceneSample] | None = None
    ) -> None:
        for sample in outputs or ():
            write_prediction(sample, self.label_space, self.folder / f'{sample.scene_id}.npz')


def write_prediction(sample: SceneSample, label_space: LabelSpace, path: str | Path) -> None:
    """Write the prediction of one scene, without its pictures and with class probabilities in float16.

    Raises:
        OSError: if it cannot be written.
    """
    arrays = prediction_arrays(sample, label_space)
    del arrays['images']
    if 'pred_semantic' in sample:
        arrays['semantic'] = sample.pred_semantic.detach().cpu().numpy().astype(np.float16)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix('.tmp'), 'wb') as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    path.with_suffix('.tmp').replace(path)


def read_prediction(path: str | Path, sample: SceneSample, label_space: LabelSpace) -> SceneSample:
    """`sample` with the prediction of a file, its views in the order of the sample.

    Raises:
        ValueError: if the file is damaged, lacks labels or views, or holds values that nothing can mean; names the
            file and the scene.
    """
    try:
        return _Reading(read_arrays(path, ARRAYS), sample, label_space).result()
    except ValueError as error:
        raise ValueError(f'{path}: scene {sample.scene_id}: {error}') from error


def empty_prediction(sample: SceneSample, label_space: LabelSpace) -> SceneSample:
    """`sample` where nothing is predicted."""
    result = sample.clone()
    shape = sample.gt_panoptic.shape
    result.pred_panoptic = PanopticMap(torch.full(shape, VOID), torch.zeros(shape, dtype=torch.int64))
    result.pred_semantic = torch.zeros(shape[0], label_space.num_classes, *shape[1:], dtype=torch.float16)
    result.pred_segments = []
    result.set_metainfo({'note': 'no prediction, counted as empty; left out where geometry is measured'})
    return result


class _Reading:
    """The arrays of one file on their way into a sample."""

    def __init__(self, arrays: Mapping[str, np.ndarray], sample: SceneSample, label_space: LabelSpace) -> None:
        self.arrays = arrays
        self.sample = sample
        self.space = label_space
        self.names = self._text('class_names') or list(label_space.names)
        self.size = tuple(sample.gt_panoptic.shape)
        self.views = self._views()

    def result(self) -> SceneSample:
        result = self.sample.clone()
        result.pred_panoptic = self._panoptic()
        result.pred_segments = self._segments(result.pred_panoptic)
        result.pred_semantic = self._semantic(result.pred_panoptic)
        if any(name in self.arrays for name in GEOMETRY):
            result.pred_reconstruction = self._reconstruction()
        if 'proposal_masks' in self.arrays:
            result.pred_proposals = MaskProposals(
                self._array('proposal_masks', 'b', (None, *self.size), view_axis=1),
                self._mapped(self._array('proposal_category', 'iu', (None,))),
                self._array('proposal_score', 'f', (None,), dtype=np.float64),
            )
        return result

    def _views(self) -> list[int]:
        """Places of the sample's views in the arrays."""
        category = self._required('category')
        if 'frame_ids' not in self.arrays:
            return list(range(len(category)))
        names = self._text('frame_ids')
        wanted = list(self.sample.get('frame_ids', names))
        if absent := [name for name in wanted if name not in names]:
            raise ValueError(f'`frame_ids` lacks {absent[:5]}, views of the evaluation; found {names[:5]}')
        return [names.index(name) for name in wanted]

    def _text(self, name: str) -> list[str]:
        """A list of names, each once; empty if there is none."""
        array = self.arrays.get(name, np.empty(0, 'U1'))
        if array.ndim != 1 or array.dtype.kind not in 'US':
            raise ValueError(f'`{name}` must be text of shape (any), found {array.dtype} {array.shape}')
        names = [n.decode() if isinstance(n, bytes) else n for n in array.tolist()]
        if twice := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
            raise ValueError(f'`{name}` has {twice[:5]} more than once')
        return names

    def _required(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise ValueError(f'array `{name}` is missing, found {sorted(self.arrays)}; see docs/predictions.md')
        return self.arrays[name]

    def _array(
        self,
        name: str,
        kinds: str,
        shape: tuple[int | None, ...],
        *,
        view_axis: int | None = None,
        dtype: type | None = np.float32,
    ) -> Tensor:
        """An array of a NumPy kind in `kinds` and of a shape, None for any length; the views in order of the sample.

        Floating arrays come in `dtype`, None for that of the file; integers in one that PyTorch has.
        """
        array = self._required(name)
        if array.dtype.kind not in kinds:
            raise ValueError(f'`{name}` must be {" or ".join(KINDS[kind] for kind in kinds)}, found {array.dtype}')
        found = array.shape
        by_view = view_axis is not None and array.ndim == len(shape) and max(self.views, default=-1) < found[view_axis]
        if by_view and self.views != list(range(found[view_axis])):  # taking all in order would copy them
            array = np.take(array, self.views, axis=view_axis)
        if array.ndim != len(shape) or any(e not in (None, f) for e, f in zip(shape, array.shape, strict=True)):
            wanted = ', '.join('any' if length is None else str(length) for length in shape)
            raise ValueError(
                f'`{name}` must have shape ({wanted}), as the ground truth has, found {found}; resize before saving'
            )
        return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype if kinds == 'f' else _signed(array.dtype)))

    def _mapped(self, category: Tensor) -> Tensor:
        """Indices into the classes of the file as indices into those of the evaluation."""
        names = self.names
        if strangers := [name for name in names if name not in self.space.names]:
            raise ValueError(
                f'`class_names` has {strangers[:5]}, which label space {self.space.name!r} does not have; '
                f'its classes are {list(self.space.names)[:5]}, ...'
            )
        category = category.long()
        if category.numel() and not -1 <= category.min() <= category.max() < len(names):
            unknown = sorted({int(c) for c in category.unique() if not -1 <= c < len(names)})
            raise ValueError(
                f'categories must lie in [-1, {len(names) - 1}], -1 for void, found the unknown ids {unknown[:5]}'
            )
        return torch.tensor([self.space.names.index(name) for name in names] + [VOID])[category]

    def _panoptic(self) -> PanopticMap:
        category = self._mapped(self._array('category', 'iu', self.size, view_axis=0))
        instance = self._array('instance', 'iu', self.size, view_axis=0).long()
        if instance.numel() and instance.min() < 0:
            raise ValueError(f'`instance` must be >= 0, 0 for none, found {int(instance.min())}')
        is_thing = torch.cat([~self.space.is_stuff, torch.zeros(1, dtype=torch.bool)])[category]
        return PanopticMap(category, torch.where(is_thing, instance, 0))

    def _segments(self, panoptic: PanopticMap) -> list[dict[str, int | float]]:
        """Those of the file, or, without scores, one of score 1 for each that occurs."""
        if 'segment_score' in self.arrays:
            score = self._array('segment_score', 'f', (None,), dtype=np.float64).tolist()
            category = self._mapped(self._array('segment_category', 'iu', (len(score),))).tolist()
            instance = self._array('segment_instance', 'iu', (len(score),)).tolist()
            if not np.isfinite(score).all():
                raise ValueError(f'`segment_score` is not finite at {int((~np.isfinite(score)).sum())} segments')
            listed = zip(category, instance, score, strict=True)
        else:
            stride = int(panoptic.instance.max()) + 1 if panoptic.instance.numel() else 1
            keys = (panoptic.category * stride + panoptic.instance)[panoptic.category != VOID].unique().tolist()
            listed = ((*divmod(key, stride), 1.0) for key in keys)
        return [{'category': c, 'instance': i, 'score': s} for c, i, s in listed]

    def _semantic(self, panoptic: PanopticMap) -> Tensor:
        """Probabilities of the file, or 1 for the category; all 0 where it is void."""
        views, height, width = self.size
        if 'semantic' not in self.arrays:
            certain = torch.zeros(views, self.space.num_classes, height, width, dtype=torch.float16)
            known = (panoptic.category != VOID).half()
            return certain.scatter_(1, panoptic.category.clamp_min(0)[:, None], known[:, None])
        half = self.arrays['semantic'].dtype == np.float16  # the largest of all arrays keeps its type, and if it can
        dtype = None if half else np.float32
        probabilities = self._array('semantic', 'f', (views, None, height, width), view_axis=0, dtype=dtype)
        place = self._mapped(torch.arange(probabilities.shape[1]))
        if torch.equal(place, torch.arange(self.space.num_classes)):
            return probabilities
        ordered = probabilities.new_zeros(views, self.space.num_classes, height, width)
        for view, values in zip(ordered, probabilities, strict=True):
            view[place] = values
        return ordered

    def _reconstruction(self) -> Reconstruction:
        views = self.size[0]
        depth = self._array('depth', 'f', self.size, view_axis=0)
        camera_to_world = self._array('camera_to_world', 'f', (views, 4, 4), view_axis=0)
        intrinsics = self._array('intrinsics', 'f', (views, 3, 3), view_axis=0)
        for name, matrices in (('camera_to_world', camera_to_world), ('intrinsics', intrinsics)):
            if not matrices.isfinite().all():
                raise ValueError(f'`{name}` is not finite')
        valid = self._array('valid', 'b', self.size, view_axis=0) if 'valid' in self.arrays else depth != 0
        depth = _finite_where(valid, depth, 'depth')
        local_points = unproject(depth, intrinsics)
        points = transform_points(camera_to_world[:, None], local_points)
        if 'points' in self.arrays:
            points = _finite_where(valid, self._array('points', 'f', (*self.size, 3), view_axis=0), 'points')
        confidence = torch.ones(self.size)
        if 'confidence' in self.arrays:
            confidence = _finite_where(valid, self._array('confidence', 'f', self.size, view_axis=0), 'confidence')
        return Reconstruction(points, local_points, confidence, camera_to_world, intrinsics, valid)


def _signed(dtype: np.dtype) -> np.dtype:
    """The type itself, or the signed one that holds all values of an unsigned one; 64 bits stay 64."""
    return np.dtype(f'i{min(2 * dtype.itemsize, 8)}') if dtype.kind == 'u' else dtype.newbyteorder('=')


def _finite_where(valid: Tensor, values: Tensor, name: str) -> Tensor:
    """Values (V, H, W, ...) with 0 in place of what is not finite, which nothing valid may be."""
    finite = values.isfinite().view(*valid.shape, -1).all(-1)
    wrong = valid & ~finite
    if wrong.any():
        view = int(wrong.flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f'`{name}` is not finite at {int(wrong.sum())} pixels, the first in view {view}; where nothing is known '
            'write depth 0, or False into `valid`'
        )
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
