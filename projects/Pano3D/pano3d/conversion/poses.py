"""What every stored pose must be."""

from __future__ import annotations

import numpy as np

TOLERANCE = 0.05  # recordings hold float32 and some tools print few digits; damage is far off


def is_rigid(pose: np.ndarray) -> bool:
    """Whether a finite matrix (4, 4) turns and moves without scaling, skewing or mirroring."""
    rotation = pose[:3, :3].astype(np.float64)
    return bool(
        np.allclose(pose[3], (0, 0, 0, 1), atol=1e-4)
        and np.abs(rotation @ rotation.T - np.eye(3)).max() < TOLERANCE
        and np.linalg.det(rotation) > 0
    )
