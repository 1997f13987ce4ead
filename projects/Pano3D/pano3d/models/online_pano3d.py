"""The online model: keyframes fill a frame memory and the queries, any view is rendered from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pano3d.functional.view_overlap import pairwise_overlap
from pano3d.registry import MODELS
from pano3d.structures import VOID, PanopticMap, Reconstruction, SceneSample

from .backbones import GeometryPrediction, OnlineBackbone, Tokens
from .extra_heads import with_extra_predictions
from .keyframes import LinspaceKeyframes
from .mixed_sizes import Size, SizedViews, stack_by_size, view_sizes_of
from .online import KeyframeMemory, ReconstructionBuffer, remember_keyframes, render_in_chunks
from .pano3d import Pano3D, SceneOutput
from .queries import Queries, QueryPrediction
from .view_features import ViewFeatures, on_canvas

OVERLAP_STEP = 8
"""Every so manieth pixel says whether a view overlaps a keyframe."""


@MODELS.register_module()
class OnlinePano3D(Pano3D):
    """Pano3D on an online network, with two memories: tokens of frames, and queries (method, section 2).

    Phase 1, update: keyframes fill the frame memory, and their G makes of the initial queries Q_update. Phase 2,
    render: views read the frame memory and leave nothing in it; the queries start from Q_update, without its gradient,
    and their G makes of them Q_render. A query means the same object in both phases.

    In training the keyframes are those that a sample names (`SplitKeyframes`), else the network draws them; all views
    are rendered, and the predictions of both phases go to the losses side by side. A rendered view that overlaps no
    keyframe counts in neither loss. In prediction up to `backbone.max_keyframes` frames, evenly spread, are keyframes,
    and all frames are rendered in chunks. Of a frame only the outputs and what the queries look at, G and M on its
    grid, are kept, so that all rendered frames refine the queries together as they do in training, whatever the chunks.

    The views of a scene may have several sizes, see `images_on_canvas`: each then fills the top left corner of its
    image, as the meta information `view_sizes` of the sample says.

    Args:
        backbone: config of an `OnlineBackbone`.
        head: see `Pano3D`.
        joint_loss: see `Pano3D`.
        readout: see `Pano3D`.
        label_space: see `Pano3D`.
        segmentation_gradient: see `Pano3D`.
        frozen_encoder: see `Pano3D`.
        frozen_geometry: see `Pano3D`.
        precision: see `Pano3D`.
        extra_features: see `Pano3D`.
        extra_heads: see `Pano3D`; they see the rendered views.
        chunk_size: frames rendered at a time in prediction.
        min_overlap: share of a rendered view's pixels with depth that a keyframe must see for the view to count in
            training; a view without depth counts.
        offload: device for predictions, chunk by chunk, such as 'cpu' for sequences too long for a GPU; the samples
            are moved there, too. None leaves all on the device of the model.
        data_preprocessor: see `Pano3D`.

    Raises:
        ValueError: if the backbone is not online, or as `Pano3D` does.
    """

    backbone: OnlineBackbone

    def __init__(
        self,
        *,
        backbone: dict,
        head: dict,
        joint_loss: dict,
        readout: dict,
        label_space: str,
        segmentation_gradient: float | dict = 0.1,
        frozen_encoder: bool = True,
        frozen_geometry: bool = False,
        precision: str = 'float32',
        extra_features: dict[str, dict] | None = None,
        extra_heads: dict[str, dict] | None = None,
        chunk_size: int = 8,
        min_overlap: float = 0.2,
        offload: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            head=head,
            joint_loss=joint_loss,
            readout=readout,
            label_space=label_space,
            segmentation_gradient=segmentation_gradient,
            frozen_encoder=frozen_encoder,
            frozen_geometry=frozen_geometry,
            precision=precision,
            extra_features=extra_features,
            extra_heads=extra_heads,
            chunk_size=chunk_size,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        if not self.backbone.has_memory:
            raise ValueError(
                f'OnlinePano3D needs an online network such as MUSt3RBackbone, got {type(self.backbone).__name__}; '
                'take Pano3D for networks in which all views attend to each other'
            )
        if not 0 < min_overlap <= 1:
            raise ValueError(f'`min_overlap` must be in (0, 1], got {min_overlap}')
        self.min_overlap = min_overlap
        self.offload = offload

    def _forward(self, inputs: Tensor, data_samples: list[SceneSample] | None = None) -> SceneOutput:
        """Both phases over images (B, V, 3, H, W), RGB in [0, 1].

        The predictions are those of `QueryPrediction.of_phases`, k keyframes before V rendered views. The geometry is
        that of the rendered views, and under `update_` and the name that of the keyframes `update_views` (B, k).
        """
        stacks = stack_by_size(inputs, view_sizes_of(data_samples, inputs))
        keyframes = _by_stack(stacks, self._keyframes(data_samples, *inputs.shape[:2]), inputs.device)
        canvas = (inputs.shape[-2], inputs.shape[-1])
        with self._autocast(inputs.device):
            views = [self._encode_stack(stack) for stack in stacks]  # E_i
            entering = [part.chosen(which) for part, which in zip(views, keyframes, strict=True) if which.numel()]
            memory, entered = self.backbone.fill([part.encoded for part in entering])
            rendered = [self.backbone.render(memory, part.encoded) for part in views]
            geometry, update_views = self._phase(_in_a_row(entering), entered, canvas)  # F_i of the update
            update = self.head(self.watched('segmentation', update_views))  # Q_update
            update_geometry = {f'update_{name}': value for name, value in geometry.items()}
            geometry, render_views = self._phase(views, rendered, canvas)  # F_i of the rendering
            render = self.head(self.watched('segmentation', render_views), update.queries.detach())  # Q_render
        places = [
            torch.tensor(s.views, device=inputs.device)[which] for s, which in zip(stacks, keyframes, strict=True)
        ]
        update_geometry['update_views'] = torch.cat(places, dim=1)
        phases = zip(update.predictions, render.predictions, strict=True)
        segmentation = [QueryPrediction.of_phases(both).float() for both in phases]
        return SceneOutput(geometry | update_geometry, segmentation, render_views)

    def _keyframes(self, samples: Sequence[SceneSample] | None, scenes: int, views: int) -> list[list[int]]:
        """The keyframes of each scene, the first view first: those that the samples name, else as the network does."""
        given = [sample.get('keyframes') for sample in samples or ()]
        if all(flags is None for flags in given):
            return [self.backbone.choose_keyframes(views)] * scenes
        named = [[view for view, flag in enumerate(flags or ()) if flag] for flags in given]
        if any(flags is None or len(flags) != views or not flags[0] for flags in given):
            raise ValueError(
                f'`keyframes` must be {views} flags, True for the first view, which is the reference, got {given}'
            )
        if len({len(chosen) for chosen in named}) > 1:
            raise ValueError(
                f'scenes of one batch must have the same number of keyframes, got {list(map(len, named))}; '
                'use `batch_size=1`'
            )
        return named

    def _encode_stack(self, stack: SizedViews) -> _Part:
        encoded = self._encode(stack.images)
        return _Part(stack.views, encoded, self._extra(stack.images, encoded.grid))

    def _phase(
        self, parts: Sequence[_Part], decoded: Sequence[Tokens], canvas: Size
    ) -> tuple[GeometryPrediction, ViewFeatures]:
        """The raw geometry of the views of one phase, and what the head sees of them, on one canvas."""
        geometry, seen = [], []
        for part, tokens in zip(parts, decoded, strict=True):
            geometry.append(self._regress(part.encoded, tokens))
            seen.append((part.views, self._see(part.encoded, tokens, geometry[-1], part.extra)))
        maps = {
            name: on_canvas([(part.views, found[name]) for part, found in zip(parts, geometry, strict=True)], canvas)
            for name in geometry[0]
        }
        return maps, ViewFeatures.join(seen, self._grid(canvas))

    def _grid(self, canvas: Size) -> tuple[int, int]:
        return canvas[0] // self.backbone.patch_size, canvas[1] // self.backbone.patch_size

    def _targets(self, output: SceneOutput, samples: Sequence[SceneSample]) -> list[SceneSample]:
        """The samples with the labels of the keyframes before those of all views, without views that none overlaps."""
        results = []
        for sample, keyframes in zip(samples, output.geometry['update_views'], strict=True):
            seen = self._seen(sample.gt_reconstruction, keyframes)
            result = sample.new()
            truth = {f.name: getattr(sample.gt_reconstruction, f.name) for f in fields(Reconstruction)}
            result.gt_reconstruction = Reconstruction(**truth | {'valid': truth['valid'] & seen[:, None, None]})
            if 'gt_panoptic' in sample:
                labels, seen = sample.gt_panoptic, seen[:, None, None]
                category = torch.where(seen, labels.category, VOID)
                instance = torch.where(seen, labels.instance, 0)
                result.gt_panoptic = PanopticMap(
                    torch.cat([labels.category[keyframes], category]), torch.cat([labels.instance[keyframes], instance])
                )
            results.append(result)
        return results

    def _seen(self, target: Reconstruction, keyframes: Tensor) -> Tensor:
        """Which of V views count: keyframes, those that overlap one, and those of which no depth tells."""
        apart = slice(None, None, OVERLAP_STEP)
        valid = target.valid[:, apart, apart]
        depth = torch.where(valid, target.depth[:, apart, apart], 0)
        step = target.intrinsics.new_tensor([OVERLAP_STEP, OVERLAP_STEP, 1])
        overlap = pairwise_overlap(depth, target.intrinsics / step[:, None], target.camera_to_world)
        seen = (overlap[:, keyframes] >= self.min_overlap).any(1) | ~valid.flatten(1).any(1)
        return seen.index_fill(0, keyframes, True)

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list[SceneSample]) -> list[SceneSample]:
        """The samples with predicted labels and geometry, all at input resolution."""
        sizes = view_sizes_of(data_samples, inputs)
        return [self._predict(images, sizes, sample) for images, sample in zip(inputs, data_samples, strict=True)]

    def _predict(self, images: Tensor, sizes: Sequence[Size], sample: SceneSample) -> SceneSample:
        """One scene of images (V, 3, H, W)."""
        canvas = (images.shape[-2], images.shape[-1])
        frames = [image[:, :height, :width] for image, (height, width) in zip(images, sizes, strict=True)]
        result = ReconstructionBuffer(len(frames), canvas, offload=self.offload or images.device)
        with self._autocast(images.device):
            remembered = remember_keyframes(
                self.backbone,
                frames,
                keyframes=LinspaceKeyframes(self.backbone.max_keyframes),
                update_batches=self.backbone.update_batches,
            )
            queries = self._update_queries(frames, remembered, canvas)
            looked, kept = [], []
            for chunk in render_in_chunks(
                self.backbone,
                remembered.memory,
                frames,
                encoded=remembered.encoded,
                chunk_size=self.chunk_size,
            ):
                extra = self._extra(torch.stack([frames[index] for index in chunk.indices])[None], chunk.encoded.grid)
                seen = self._see(chunk.encoded, chunk.decoded, chunk.prediction, extra)
                looked.append((chunk.indices, self.head.look(seen)))
                if self.extra_heads:
                    kept.append((chunk.indices, seen))
                result.put(chunk.indices, self.backbone.reconstruct(chunk.prediction)[0])
            scene = self.head.exchange(ViewFeatures.join(looked, self._grid(canvas)), chunk_size=self.chunk_size)
            queries = self.head.refine(scene, queries)  # Q_render
            prediction = self.head.draw(queries, scene, chunk_size=self.chunk_size, offload=self.offload)
        sample = sample.clone() if self.offload is None else sample.to(self.offload)
        sample.pred_reconstruction = result.reconstruction()
        labelled = self.readout(prediction[0], canvas, self.label_space, sample)
        if not self.extra_heads:
            return labelled
        views = ViewFeatures.join(kept, self._grid(canvas))
        return with_extra_predictions(
            self, views, Reconstruction.stack([result.reconstruction().to(views.device)]), [labelled]
        )[0]

    def _update_queries(self, frames: Sequence[Tensor], remembered: KeyframeMemory, canvas: Size) -> Queries:
        """Q_update, from the keyframes as they were when they entered."""
        looked = []
        for place, (index, encoded) in enumerate(remembered.encoded.items()):
            decoded = remembered.decoded[index]
            geometry = self._regress(encoded, decoded) if self.head.needs_points else {}
            extra = self._extra(frames[index][None, None], encoded.grid)
            looked.append(([place], self.head.look(self._see(encoded, decoded, geometry, extra))))
        scene = self.head.exchange(ViewFeatures.join(looked, self._grid(canvas)), chunk_size=self.chunk_size)
        return self.head.refine(scene)


@dataclass(frozen=True)
class _Part:
    """Views of one size in one phase: their places in it, E and further features."""

    views: Sequence[int]
    encoded: Tokens
    extra: dict[str, Tensor]

    def chosen(self, which: Tensor) -> _Part:
        """Other views in each scene, by their place (B, k) in this part."""
        scenes = torch.arange(len(which), device=which.device)[:, None]
        encoded = Tokens(self.encoded.patches[scenes, which], self.encoded.grid)
        return _Part(range(which.shape[1]), encoded, {name: value[scenes, which] for name, value in self.extra.items()})


def _in_a_row(parts: Sequence[_Part]) -> list[_Part]:
    """The parts with places one behind the other."""
    results, first = [], 0
    for part in parts:
        results.append(replace(part, views=range(first, first + len(part.views))))
        first += len(part.views)
    return results


def _by_stack(stacks: Sequence[SizedViews], keyframes: list[list[int]], device: torch.device) -> list[Tensor]:
    """Per stack, which of its views (B, k) are keyframes."""
    if len(stacks) > 1 and any(chosen != keyframes[0] for chosen in keyframes):
        raise ValueError(
            'scenes of one batch with views of several sizes must have the same keyframes; use `batch_size=1`'
        )
    return [
        torch.tensor([[s.views.index(v) for v in chosen if v in s.views] for chosen in keyframes], device=device).long()
        for s in stacks
    ]
