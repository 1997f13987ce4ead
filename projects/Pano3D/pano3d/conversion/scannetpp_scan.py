"""The files of a ScanNet++ v2 release: split lists, what belongs to one scan, and the images of a camera."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np

from .colmap import PosedImage
from .images import read_color, read_grey

CameraName = Literal['dslr', 'iphone']
MATROSKA = b'\x1aE\xdf\xa3'
SPLITS = {'train': 'nvs_sem_train.txt', 'val': 'nvs_sem_val.txt', 'test': 'sem_test.txt'}


@dataclass(frozen=True)
class PPScan:
    """The files of one scan that concern one of its cameras.

    Args:
        folder: the scan's folder, named by its scene id.
        camera: 'dslr' or 'iphone'.
    """

    folder: Path
    camera: CameraName

    def path(self, name: str) -> Path:
        """A file below the scan's folder."""
        return self.folder / name

    def of_camera(self, name: str) -> Path:
        """A file below the camera's folder."""
        return self.folder / self.camera / name

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, folders of images as sums; tells whether a scan has changed since it was converted."""
        singles = [
            *(self.folder / 'scans').glob('*'),
            *self.of_camera('.').glob('*'),
            *self.of_camera('colmap').glob('*'),
        ]
        singles.append(self.of_camera('nerfstudio/transforms.json'))
        sizes = {str(path.relative_to(self.folder)): path.stat().st_size for path in sorted(singles) if path.is_file()}
        for name in ('resized_images', 'resized_anon_masks', 'rgb', 'rgb_masks'):
            files = [path.stat().st_size for path in self.of_camera(name).glob('*') if path.is_file()]
            if files:
                sizes[f'{self.camera}/{name}/'] = sum(files)
        return sizes


def read_splits(folder: Path) -> dict[str, list[str]]:
    """Scene ids by split, from those lists that are there.

    Raises:
        ValueError: if there is none.
    """
    scenes_of = {
        split: list(dict.fromkeys((folder / name).read_text(encoding='utf-8', errors='replace').split()))
        for split, name in SPLITS.items()
        if (folder / name).is_file()
    }
    if not scenes_of:
        raise ValueError(f'{folder}: no split list; expected at least one of {sorted(SPLITS.values())}')
    return scenes_of


class DSLRImages:
    """The photographs of a scan. A frame is called by its file's name."""

    def __init__(self, scan: PPScan) -> None:
        self._scan = scan

    def frame_id(self, image: PosedImage) -> str:
        """Raises ValueError if the name would lead out of the folder."""
        name = PurePosixPath(image.name)
        if not re.fullmatch(r'[A-Za-z0-9_-]+\.\w+', image.name):
            raise ValueError(f'image name {image.name!r}: expected letters, digits, `_` and `-`, and an ending')
        return name.stem

    def color(self, image: PosedImage, size: tuple[int, int]) -> np.ndarray:
        """(H, W, 3) uint8, BGR."""
        return read_color(self._scan.of_camera('resized_images') / image.name, size)

    def mask(self, image: PosedImage, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) uint8, 255 = valid; None if there is none."""
        path = self._scan.of_camera('resized_anon_masks') / f'{self.frame_id(image)}.png'
        return read_grey(path, size) if path.is_file() else None


class IPhoneImages:
    """The video frames of a scan, as files or in the video itself. A frame is called by its number in six digits."""

    def __init__(self, scan: PPScan) -> None:
        self._scan = scan
        self._videos: dict[str, Video] = {}

    def frame_id(self, image: PosedImage) -> str:
        """Raises ValueError if the name has no frame number."""
        return f'{frame_number(image):06d}'

    def color(self, image: PosedImage, size: tuple[int, int]) -> np.ndarray:
        """(H, W, 3) uint8, BGR; from `rgb/` if that has the frame, else from `rgb.mkv`."""
        path = self._scan.of_camera('rgb') / f'frame_{self.frame_id(image)}.jpg'
        if path.is_file():
            return read_color(path, size)
        return self._video('rgb.mkv').read(frame_number(image), size)

    def mask(self, image: PosedImage, size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) uint8, 255 = valid; from `rgb_masks/` or `rgb_mask.mkv`, None if neither has it."""
        path = self._scan.of_camera('rgb_masks') / f'frame_{self.frame_id(image)}.png'
        if path.is_file():
            return read_grey(path, size)
        if not self._scan.of_camera('rgb_mask.mkv').is_file():
            return None
        grey = self._video('rgb_mask.mkv').read(frame_number(image), size)[..., 0]
        return np.where(grey > 127, 255, 0).astype(np.uint8)  # a lossy video has other values at edges

    def _video(self, name: str) -> Video:
        if name not in self._videos:
            self._videos[name] = Video(self._scan.of_camera(name))
        return self._videos[name]


class Video:
    """Frames of a video file by number; cheapest in rising order.

    Raises:
        ValueError: if there is no such file or it is no video that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def read(self, frame: int, size: tuple[int, int]) -> np.ndarray:
        """A frame (H, W, 3) uint8, BGR.

        Raises:
            ValueError: if it is of another (width, height) or the video ends before it.
        """
        if frame < self._next:
            self._open()
        while self._next < frame and self._capture.grab():
            self._next += 1
        done, image = self._capture.read() if self._next == frame else (False, None)
        if not done or image is None:
            raise ValueError(f'{self.path}: frame {frame}: cannot be decoded, or the video ends before it')
        self._next += 1
        if image.shape[1::-1] != size:
            found = f'{image.shape[1]}x{image.shape[0]}'
            raise ValueError(f'{self.path}: frame {frame}: expected size {size[0]}x{size[1]}, found {found}')
        return image

    def _open(self) -> None:
        if not self.path.is_file():
            raise ValueError(f'{self.path}: not there, and no image files instead of it; download it')
        with open(self.path, 'rb') as file:
            start = file.read(len(MATROSKA))
        if start != MATROSKA:  # the decoder knows formats that make it open other files
            raise ValueError(f'{self.path}: expected a Matroska video, found {start!r}. Download it again')
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        self._next = 0
        if not self._capture.isOpened():
            raise ValueError(f'{self.path}: not a video that can be decoded. Download it again')


def frame_number(image: PosedImage) -> int:
    """Number of a video frame from its name, e.g. 12 of `video/frame_000012.jpg`.

    Raises:
        ValueError: if the name is of another kind.
    """
    match = re.fullmatch(r'(?:.*/)?frame_(\d{1,9})\.\w+', image.name)
    if match is None:
        raise ValueError(f'image name {image.name!r}: expected frame_ and a number')
    return int(match[1])
