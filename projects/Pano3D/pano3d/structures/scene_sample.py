"""Everything known about one scene, in mmengine's data-sample manner."""

from __future__ import annotations

from mmengine.structures import BaseDataElement
from torch import Tensor

from .depth_views import DepthViews
from .mask_proposals import MaskProposals
from .panoptic_map import PanopticMap
from .reconstruction import Reconstruction


class SceneSample(BaseDataElement):
    """Ground truth and prediction of V views of one scene.

    Meta information: `scene_id` (str), `frame_ids` (list of V str), `label_space` (name, str). Samples of a dataset
    have also `mesh_path` (str, or None) and `instance_categories` (dict from instance id to category index, -1 for
    void), and where they apply: `labelled_classes` (tuple of the category indices that the annotation distinguishes;
    absent: all), `keyframes` (list of V bool: which views an online network takes into its memory), `view_sizes`
    (list of V (H, W): the part of its image, from the top left, that each view fills; absent: all of it) and
    `axis_alignment` (4x4 nested list: from the frame of the true poses to one with +z up and walls along x and y).

    Fields, each set only when known:
        gt_panoptic, pred_panoptic: `PanopticMap` (V, H, W).
        gt_reconstruction, pred_reconstruction: `Reconstruction` of V views.
        gt_depth: `DepthViews`, in place of `gt_reconstruction` as long as the sample is packed.
        pred_semantic: class probabilities (V, C, H, W), the marginal over the queries; the read-outs give float16.
        pred_segments: list of dict(instance=int, category=int, score=float), one per segment of `pred_panoptic`
            (stuff segments have instance 0).
        pred_proposals: `MaskProposals` over the pixels or points, of systems whose masks overlap.
        images: (V, 3, H, W), RGB in [0, 1], for pictures.
    """

    gt_panoptic: PanopticMap
    pred_panoptic: PanopticMap
    gt_reconstruction: Reconstruction
    gt_depth: DepthViews
    pred_reconstruction: Reconstruction
    pred_semantic: Tensor
    pred_segments: list[dict[str, int | float]]
    pred_proposals: MaskProposals
    images: Tensor

    def unpacked(self) -> SceneSample:
        """With `gt_reconstruction` lifted from `gt_depth`, and `gt_panoptic` in int64; the rest is shared.

        Samples leave a data set packed, since they are copied from process to process and to the device; the data
        preprocessor unpacks them there. A sample that is not packed stays as it is.
        """
        sample = self.new()
        if 'gt_depth' in self:
            sample.gt_reconstruction = sample.pop('gt_depth').lift()
        if 'gt_panoptic' in self:
            sample.gt_panoptic = PanopticMap(self.gt_panoptic.category.long(), self.gt_panoptic.instance.long())
        return sample

    # mmengine's versions reach plain tensors only, and would leave geometry and labels behind without a word.
    def cpu(self) -> SceneSample:
        return self.to('cpu')

    def cuda(self) -> SceneSample:
        return self.to('cuda')

    def detach(self) -> SceneSample:
        """The same values without gradients."""
        detached = self.new()
        detached.set_data({key: value.detach() for key, value in self.items() if hasattr(value, 'detach')})
        return detached
