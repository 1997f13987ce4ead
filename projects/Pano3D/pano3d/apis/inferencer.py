"""From pictures to a labelled reconstruction in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from pano3d.datasets import ResizeCrop
from pano3d.datasets.transforms.geometric import resize_and_crop
from pano3d.engine import load_config, load_model_weights
from pano3d.models import Pano3D
from pano3d.registry import MODELS
from pano3d.structures import LabelSpace, SceneSample

from .images import ImageSource, load_views
from .vocabulary import open_vocabulary


class Pano3DInferencer:
    """Runs a trained model on images of one scene.

    Args:
        config: path of a config, or the config itself.
        checkpoint: weights, loaded strictly; None keeps the model untrained (a warning says so).
        device: 'cpu', 'cuda' or 'cuda:N'; None takes a GPU if there is one.

    Attributes:
        model: the network, in evaluation mode.
        image_size: (H, W) that every view is resized and cropped to, that of the config's test pipeline.

    Raises:
        ValueError: if the config lacks a part, the checkpoint does not fit it, or the device does not exist.
    """

    def __init__(
        self, config: str | Path | Config, checkpoint: str | Path | None = None, *, device: str | None = None
    ) -> None:
        self.device = find_device(device)
        config = config if isinstance(config, Config) else load_config(config)
        for key in ('model', 'test_dataloader'):
            if key not in config:
                raise ValueError(f'the config has no `{key}`, which inference needs; known are {sorted(config)}')
        self.image_size = image_size_of(config)
        with DefaultScope.overwrite_default_scope('pano3d'):
            self.model = MODELS.build(config.model)
        if checkpoint is None:
            print_log('no checkpoint: the model is untrained', logger='current', level=30)
        else:
            load_model_weights(self.model, checkpoint)
        self.model.to(self.device).eval()

    @property
    def label_space(self) -> LabelSpace:
        """The classes that the model speaks of."""
        return self.model.label_space

    def set_vocabulary(self, classes: Sequence[str], *, stuff: Sequence[str] | None = None) -> None:
        """Label with any classes by name from now on; needs a model with a `TextClassifier`.

        Args:
            classes: their names. Words that no file of text embeddings has need the text encoder of the training.
            stuff: those without countable instances; None takes the names that are stuff now.

        Raises:
            ValueError: if the classes of the model are fixed, or see `open_vocabulary`.
        """
        if not isinstance(self.model, Pano3D):
            raise ValueError(f'{type(self.model).__name__} has fixed classes; other names need a Pano3D model')
        trained = self.model.head.vocabulary
        names = [name.strip() for name in classes]
        stuff = [name for name in names if name in self.label_space.stuff] if stuff is None else stuff
        self.model.set_vocabulary(*open_vocabulary(names, trained, stuff=stuff))

    @torch.no_grad()
    def __call__(self, images: ImageSource, *, max_views: int | None = None) -> SceneSample:
        """Predict one scene.

        Args:
            images: a folder, a list of files or a list of arrays (H, W, 3), uint8 RGB; the first view is the
                reference. Files are turned upright as their EXIF data says.
            max_views: if there are more, this many are taken, evenly spread.

        Returns:
            The sample on the CPU with `images` as the model saw them and all `pred_*` fields.

        Raises:
            ValueError: if an image cannot be used; the message names it.
        """
        arrays, names = load_views(images, max_views=max_views)
        centre = np.array([0.5, 0.5])
        cropped = np.stack([resize_and_crop(array, self.image_size, centre)[0] for array in arrays])
        views = torch.from_numpy(cropped).permute(0, 3, 1, 2).contiguous()
        scene_id = Path(images).resolve().name if isinstance(images, str | Path) else 'scene'
        sample = SceneSample(metainfo={'scene_id': scene_id, 'frame_ids': names, 'label_space': self.label_space.name})
        [result] = self.model.test_step({'inputs': [views], 'data_samples': [sample]})
        return result.to('cpu')


def find_device(name: str | None) -> torch.device:
    """The device of that name; None means the first GPU, or the CPU without one.

    Raises:
        ValueError: if there is no such device.
    """
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"`device` {name!r} is unknown: expected 'cpu', 'cuda' or 'cuda:N'") from error
    count = torch.cuda.device_count() if device.type == 'cuda' else 1
    if (device.index or 0) >= count:
        raise ValueError(f"`device` {name!r} is not available: {count} CUDA devices here; use 'cpu'")
    return device


def image_size_of(config: Config) -> tuple[int, int]:
    """(H, W) of the `ResizeCrop` in the test pipeline of a config.

    Raises:
        ValueError: if there is none.
    """
    pipeline = config.test_dataloader.dataset.get('pipeline', [])
    sizes = [step['size'] for step in pipeline if step['type'] in ('ResizeCrop', 'pano3d.ResizeCrop', ResizeCrop)]
    if not sizes:
        found = [step['type'] for step in pipeline]
        raise ValueError(f'test_dataloader.dataset.pipeline needs a ResizeCrop, which says the image size; has {found}')
    height, width = sizes[-1]
    return int(height), int(width)
