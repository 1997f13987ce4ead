"""The model: one pass from unposed views to geometry and panoptic segmentation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from mmengine.model import BaseModel, ModuleDict
from torch import Tensor

from pano3d.functional.scene_points import at_patches
from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, SceneSample, TextEmbeddings

from .backbones import GeometryPrediction, Tokens
from .balance import FixedGradientFactor, GradientMeter
from .extra_heads import extra_terms, with_extra_predictions
from .mixed_sizes import one_size_only, view_sizes_of
from .parts import freeze_parts
from .queries import QueryPrediction
from .view_features import ViewFeatures

PRECISIONS = ('float32', 'bfloat16')


@dataclass(frozen=True)
class SceneOutput:
    """What one pass puts out for a batch of scenes.

    Args:
        geometry: the raw outputs of the backbone's heads.
        segmentation: one prediction per decoder stage, the last one final.
        views: what the heads saw of the views that `geometry` is of; extra heads read it.
    """

    geometry: GeometryPrediction
    segmentation: list[QueryPrediction]
    views: ViewFeatures | None = None


@MODELS.register_module()
class Pano3D(BaseModel):
    """Joint reconstruction and panoptic segmentation (arXiv 2606.14307; method, section 1).

    Args:
        backbone: config of the pretrained reconstruction network.
        head: config of the panoptic set head.
        joint_loss: config of the loss over both tasks.
        readout: config of how the predicted set becomes labels.
        label_space: name of the classes the model knows; also says which of them are stuff.
        segmentation_gradient: the factor gamma on what the segmentation loss sends into the geometry decoder; a number,
            or the config of a rule such as `MeasuredGradientFactor`.
        frozen_encoder: keep the monocular encoder as it was pretrained: no gradient, always in eval mode.
        frozen_geometry: keep the whole reconstruction network as it was pretrained and train the head alone.
        precision: 'bfloat16' runs encoder, geometry decoder and head under autocast, in training and prediction, as
            VGGT and Pi3 do officially; 3D heads and losses stay in float32. 'float32' leaves it to the caller.
        extra_features: configs of further networks that look at the images, such as `DINOv2Features`, by the name under
            which the bridge knows their features (`extra_dims`).
        extra_heads: configs of heads of further tasks (`ExtraHead`) by the name of the task, which needs a weight in
            `joint_loss.weights`. Their gradient into the geometry decoder is multiplied by gamma, too.
        chunk_size: views whose masks are computed at a time in prediction.
        data_preprocessor: config; normally `SceneDataPreprocessor`.

    Raises:
        ValueError: if the classifier does not have the classes of the label space, on another precision, or on a frozen
            geometry whose encoder is trained.
    """

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
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.extra_features = ModuleDict(
            {name: MODELS.build(features) for name, features in (extra_features or {}).items()}
        )
        self.head = MODELS.build(head)
        self.extra_heads = ModuleDict({task: MODELS.build(extra) for task, extra in (extra_heads or {}).items()})
        self.joint_loss = MODELS.build(joint_loss)
        self.readout = MODELS.build(readout)
        if isinstance(segmentation_gradient, dict):
            self.segmentation_gradient = MODELS.build(segmentation_gradient)
        else:
            self.segmentation_gradient = FixedGradientFactor(value=segmentation_gradient)
        self.gradient_meter = GradientMeter()
        if frozen_geometry and not frozen_encoder:
            raise ValueError('`frozen_geometry` includes the encoder; set `frozen_encoder=True`, too')
        self.frozen_encoder = frozen_encoder
        self.frozen_geometry = frozen_geometry
        if precision not in PRECISIONS:
            raise ValueError(f'`precision` must be one of {PRECISIONS}, got {precision!r}')
        if chunk_size < 1:
            raise ValueError(f'`chunk_size` must be at least 1, got {chunk_size}')
        self.precision = precision
        self.chunk_size = chunk_size
        self.label_space = LabelSpace.load(label_space)
        if self.head.num_classes != self.label_space.num_classes:
            raise ValueError(
                f'the classifier has {self.head.num_classes} classes, but label space {label_space!r} has '
                f'{self.label_space.num_classes}; set `head.classifier.num_classes` to the latter, or '
                '`head.classifier.label_space` to the same'
            )
        if self.head.class_names not in (None, self.label_space.names):
            raise ValueError(
                f'the classes of `head.classifier.label_space` are not those of `label_space` {label_space!r}'
            )
        freeze_parts(self)
        self.train()

    def set_vocabulary(self, label_space: LabelSpace, vocabulary: TextEmbeddings) -> None:
        """Label with other classes from now on; needs a classifier on text embeddings.

        Args:
            label_space: the classes.
            vocabulary: the vectors of their names, by the encoder of the training.

        Raises:
            ValueError: if the two differ in their names, or see `PanopticSetHead.set_vocabulary`.
        """
        if label_space.names != vocabulary.names:
            raise ValueError(f'label space {label_space.name!r} and its text embeddings have different names')
        self.head.set_vocabulary(vocabulary)
        self.label_space = label_space

    def train(self, mode: bool = True) -> Pano3D:
        super().train(mode)
        if self.frozen_encoder:
            for name in self.backbone.encoder_modules():
                self.backbone.get_submodule(name).eval()
        return self

    def _forward(self, inputs: Tensor, data_samples: list[SceneSample] | None = None) -> SceneOutput:
        """One pass over images (B, V, 3, H, W), RGB in [0, 1]."""
        with self._autocast(inputs.device):
            geometry, views = self._features(inputs, data_samples)
            segmentation = self.head(self.watched('segmentation', views)).predictions  # C(Q), Q . M_i
        return SceneOutput(geometry, [stage.float() for stage in segmentation], views)

    def _features(
        self, inputs: Tensor, data_samples: list[SceneSample] | None
    ) -> tuple[GeometryPrediction, ViewFeatures]:
        """The raw geometry of all views, and what the head sees of them."""
        one_size_only(type(self.backbone).__name__, view_sizes_of(data_samples, inputs), inputs)
        encoded = self._encode(inputs)  # E_i
        decoded = self.backbone.decode(encoded)  # F_i
        geometry = self._regress(encoded, decoded)
        return geometry, self._see(encoded, decoded, geometry, self._extra(inputs, encoded.grid))

    def _encode(self, images: Tensor) -> Tokens:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_encoder):
            return self.backbone.encode(images)

    def _regress(self, encoded: Tokens, decoded: Tokens) -> GeometryPrediction:
        patch = self.backbone.patch_size
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.joint_loss.geometry is not None):
            own = self.gradient_meter.watch_tokens('geometry', decoded)
            return self.backbone.regress(encoded, own, (encoded.grid[0] * patch, encoded.grid[1] * patch))

    def _extra(self, images: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        return {name: features(images, grid) for name, features in self.extra_features.items()}

    def _see(
        self, encoded: Tokens, decoded: Tokens, geometry: GeometryPrediction, extra: dict[str, Tensor]
    ) -> ViewFeatures:
        """What the head sees of views of one size; it asks for the geometry only if it works in 3D."""
        shared = self.segmentation_gradient(decoded.patches)  # gamma
        sources = {'encoder': encoded.patches, 'decoder': shared} | extra
        points = self._points_at_patches(geometry, encoded.grid) if self.head.needs_points else None
        return ViewFeatures(sources, encoded.grid, points=points)

    def watched(self, task: str, views: ViewFeatures) -> ViewFeatures:
        """The same features; what comes back through F counts for the task."""
        return replace(
            views, sources={**views.sources, 'decoder': self.gradient_meter.watch(task, views.sources['decoder'])}
        )

    @torch.no_grad()
    def _points_at_patches(self, geometry: GeometryPrediction, grid: tuple[int, int]) -> Tensor:
        """The predicted point (B, V, h * w, 3) of each patch of `grid`, in the frame of the first camera."""
        device = next(iter(self.parameters())).device
        with torch.autocast(device.type, enabled=False):
            return at_patches(self.backbone.reconstruct(geometry).points, grid)

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        if self.precision == 'float32':
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def loss(self, inputs: Tensor, data_samples: list[SceneSample]) -> dict[str, Tensor]:
        """Weighted terms of both tasks; arguments as in `_forward`, samples with ground truth."""
        output = self._forward(inputs, data_samples)
        targets = self._targets(output, data_samples)
        extra = extra_terms(self, output, targets, data_samples)
        return self.joint_loss(output.geometry, output.segmentation, targets, extra)

    def _targets(self, output: SceneOutput, samples: list[SceneSample]) -> list[SceneSample]:
        """The samples with the ground truth of what was predicted."""
        return samples

    def start_step(self, step: int) -> None:
        """Training step `step` comes, from 0; `JointTrainingHook` says so."""
        self.joint_loss.start(step)
        self.segmentation_gradient.start(step)
        self.gradient_meter.enabled = self.joint_loss.strategy.measuring or self.segmentation_gradient.measuring

    def finish_step(self) -> dict[str, float]:
        """After the backward pass: what it says about the balance of the tasks is taken in; all ranks together.

        Returns:
            What is worth a line in the log.
        """
        norms, gamma = self.gradient_meter.collect(), self.segmentation_gradient.current
        self.segmentation_gradient.observe(norms)
        arriving = {task: norm * (1.0 if task == 'geometry' else gamma) for task, norm in norms.items()}
        self.joint_loss.observe(arriving)
        report = {'segmentation_gradient': self.segmentation_gradient.current}
        if {'geometry', 'segmentation'} <= set(norms) and norms['segmentation']:
            report['geometry_over_segmentation'] = norms['geometry'] / norms['segmentation']
        return report

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list[SceneSample]) -> list[SceneSample]:
        """The samples with predicted labels and geometry, all at input resolution."""
        with self._autocast(inputs.device):
            geometry, views = self._features(inputs, data_samples)
            prediction = self.head.predict(views, chunk_size=self.chunk_size)
        reconstruction = self.backbone.reconstruct(geometry)
        results = []
        for scene, sample in enumerate(data_samples):
            sample = sample.clone()
            sample.pred_reconstruction = reconstruction[scene]
            results.append(self.readout(prediction[scene], tuple(inputs.shape[-2:]), self.label_space, sample))
        return with_extra_predictions(self, views, reconstruction, results)

    def forward(
        self, inputs: Tensor, data_samples: list[SceneSample] | None = None, mode: str = 'tensor'
    ) -> SceneOutput | dict[str, Tensor] | list[SceneSample]:
        """mmengine's entry: `mode` is 'loss', 'predict' or 'tensor'.

        Raises:
            ValueError: on another mode.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self._forward(inputs, data_samples)
        raise ValueError(f"`mode` must be 'loss', 'predict' or 'tensor', got {mode!r}")
