"""What all protocols share: one small state per scene, and errors that name the scene."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mmengine.evaluator import BaseMetric

from pano3d.structures import LabelSpace, PanopticMap, Reconstruction

T = TypeVar('T')


class MissingFieldError(ValueError):
    """A protocol needs something that the prediction or the data set does not offer at all."""


class ProtocolMetric(BaseMetric):
    """Keeps `scene_state` of every sample, so that the states of several processes are collected as they are.

    Subclasses implement `scene_state` and `summarize`.

    Args:
        prefix: what precedes the metric name in every key: [label space/]protocol/geometry.
        collect_device: where mmengine collects states of several processes, 'cpu' or 'gpu'.
    """

    def __init__(self, *, prefix: str, collect_device: str) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    @abstractmethod
    def scene_state(self, sample: Mapping[str, Any]) -> Any:
        """State of one scene, on the CPU; may raise a ValueError without naming the scene."""

    @abstractmethod
    def summarize(self, states: list[Any]) -> dict[str, float]:
        """Metrics from the states of all scenes, at least one."""

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Add the states of data samples, as dictionaries of their fields and meta information.

        Raises:
            ValueError: if a sample does not fit the protocol; names the metric and the scene.
        """
        for sample in data_samples:
            try:
                self.results.append(self.scene_state(sample))
            except ValueError as error:
                raise ValueError(f'{self.prefix}: scene {sample.get("scene_id")!r}: {error}') from error

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics over the states of all scenes.

        Raises:
            ValueError: if there is none.
        """
        if not results:
            raise ValueError(f'{self.prefix}: no scene was evaluated; check that the split of the data set has scenes')
        return self.summarize(results)


def required(sample: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Field `name` of a sample.

    Raises:
        MissingFieldError: if it is missing or not of the type `kind`.
    """
    value = sample.get(name)
    if not isinstance(value, kind):
        found = 'nothing' if value is None else type(value).__name__
        raise MissingFieldError(
            f'expected `{name}` ({kind.__name__}) in the data sample, found {found}; '
            'predictions are set by the predict mode of the model, ground truth by the transforms of the data set'
        )
    return value


def load_label_space(label_space: str | LabelSpace) -> LabelSpace:
    return label_space if isinstance(label_space, LabelSpace) else LabelSpace.load(label_space)


def gt_panoptic(sample: Mapping[str, Any], label_space: LabelSpace) -> PanopticMap:
    """Ground truth of one scene, of its views or points.

    Raises:
        MissingFieldError: if it is missing.
        ValueError: if it is in another label space.
    """
    check_label_space(sample, label_space)
    return required(sample, 'gt_panoptic', PanopticMap)


def gt_views(sample: Mapping[str, Any], label_space: LabelSpace) -> PanopticMap:
    """Ground truth (V, H, W) of one scene; errors as `gt_panoptic`, and labels of points are no labels of views."""
    gt = gt_panoptic(sample, label_space)
    if len(gt.shape) != 3:
        raise MissingFieldError(f'`gt_panoptic` must be labels of views (V, H, W), got {tuple(gt.shape)}')
    return gt


def check_label_space(sample: Mapping[str, Any], label_space: LabelSpace) -> None:
    """Raise a ValueError if a sample says that it is labelled in another label space."""
    named = sample.get('label_space', label_space.name)
    if named != label_space.name:
        raise ValueError(f'the data sample is labelled in {named!r}, the metric expects {label_space.name!r}')


def check_views(sample: Mapping[str, Any], name: str, found: Sequence[int]) -> None:
    """Raise a ValueError unless what `name` says is of the pixels of `gt_reconstruction`."""
    size = tuple(required(sample, 'gt_reconstruction', Reconstruction).valid.shape)
    if tuple(found) != size:
        raise ValueError(f'`{name}` must have the size of `gt_reconstruction` (V, H, W), {size}, got {tuple(found)}')
