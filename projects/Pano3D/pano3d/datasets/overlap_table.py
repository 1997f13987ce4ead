"""How much the frames of a stored scene see of each other: `overlap.npz` (docs/scene_format.md)."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import get
from numpy.typing import NDArray

from .scene_record import FrameRecord, SceneRecord


@dataclass(frozen=True, eq=False)
class OverlapTable:
    """Overlap of all frames of a scene.

    Args:
        frame_ids: of the N frames, in the order of the scene.
        shares: (N, N) float32; (i, j) is the share of frame i's pixels with depth that frame j sees too, see
            `pairwise_overlap`.
    """

    frame_ids: tuple[str, ...]
    shares: NDArray[np.float32]

    @classmethod
    def read(cls, scene: SceneRecord, *, backend_args: dict[str, Any] | None = None) -> OverlapTable:
        """From the scene's `overlap.npz`.

        Raises:
            FileNotFoundError: if there is none; the message says how to make it.
            ValueError: if it is damaged or of other frames.
        """
        remedy = 'make it with tools/measure_overlap.py'
        try:
            data = get(scene.overlap, backend_args=backend_args)
        except OSError as error:
            raise FileNotFoundError(f'{scene.overlap}: cannot be read ({error}); {remedy}') from error
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                frame_ids, shares = tuple(arrays['frame_ids'].tolist()), arrays['overlap'].astype(np.float32)
        except (KeyError, MemoryError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f'{scene.overlap}: not a table of overlaps ({error!r}); {remedy}') from error
        expected = tuple(frame.id for frame in scene.frames)
        if frame_ids != expected or shares.shape != (len(expected), len(expected)):
            raise ValueError(
                f'{scene.overlap}: expected the {len(expected)} frames of scene {scene.scene_id}, found '
                f'{len(frame_ids)} frames and a table of {shares.shape}; {remedy}'
            )
        return cls(frame_ids, shares)

    def write(self, path: str | Path) -> None:
        """In one step, so that nobody reads half of it."""
        path = Path(path)
        partial = path.with_name(f'.{path.name}.partial')
        with partial.open('wb') as file:
            np.savez_compressed(
                file,
                frame_ids=np.array(self.frame_ids),
                overlap=self.shares.astype(np.float16),
            )
        partial.replace(path)

    def among(self, views: Sequence[FrameRecord]) -> NDArray[np.float32]:
        """Shares (V, V) of these views, in their order."""
        position = {frame_id: index for index, frame_id in enumerate(self.frame_ids)}
        chosen = [position[view.id] for view in views]
        return self.shares[np.ix_(chosen, chosen)]
