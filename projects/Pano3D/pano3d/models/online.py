"""Sequences of any length through an online network: keyframes fill a memory, chunks of frames are rendered from it.

At any time only the memory, the encoded keyframes and one chunk are on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pano3d.structures import Reconstruction

from .backbones import GeometryPrediction, OnlineBackbone, Tokens
from .keyframes import KeyframePolicy, LinspaceKeyframes

Frames = Iterable[Tensor]
"""Images (3, H, W) of one size, RGB in [0, 1]. What has a length and an index, such as a list that loads from disk, is
read one by one, and more than once; anything else is first made a list."""


@dataclass(frozen=True)
class FrameChunk:
    """Some frames of a sequence, rendered; all tensors (1, n, ...), on the device of the network.

    Args:
        indices: which n frames.
        encoded: E of the frames.
        decoded: F of the frames.
        prediction: the raw outputs of the network's heads.
    """

    indices: tuple[int, ...]
    encoded: Tokens
    decoded: Tokens
    prediction: GeometryPrediction


def reconstruct_online(
    backbone: OnlineBackbone,
    frames: Frames,
    *,
    keyframes: KeyframePolicy | None = None,
    chunk_size: int = 8,
    offload: torch.device | str = 'cpu',
) -> Reconstruction:
    """All frames of a sequence, in the frame of the first one.

    Args:
        backbone: the network, on its device and in eval mode.
        frames: V images, see `Frames`.
        keyframes: which of them enter the memory; None: 20 at equal distances.
        chunk_size: frames rendered at a time.
        offload: where the results are put, chunk by chunk.

    Returns:
        Geometry (V, ...) on the device `offload`.

    Raises:
        TypeError: if a frame is no tensor.
        ValueError: if there is no frame, or one of another shape.
    """
    frames = as_sequence(frames)
    memory, encoded = remember_keyframes(backbone, frames, keyframes=keyframes or LinspaceKeyframes())
    result: dict[str, Tensor] = {}
    for chunk in render_in_chunks(backbone, memory, frames, encoded=encoded, chunk_size=chunk_size):
        found = backbone.reconstruct(chunk.prediction)[0]
        places = torch.tensor(chunk.indices, device=offload)
        for field in fields(found):
            value = getattr(found, field.name)
            if field.name not in result:
                result[field.name] = torch.empty(len(frames), *value.shape[1:], dtype=value.dtype, device=offload)
            result[field.name][places] = value.to(offload)
    return Reconstruction(**result)


@torch.no_grad()
def remember_keyframes(
    backbone: OnlineBackbone, frames: Frames, *, keyframes: KeyframePolicy, update_batches: Sequence[int] = (2, 1)
) -> tuple[Any, dict[int, Tokens]]:
    """The memory of the keyframes of a sequence, and E of each by its index.

    Args:
        backbone: the network.
        frames: see `Frames`.
        keyframes: which of them enter the memory.
        update_batches: how many enter together, call by call; the last number repeats. Fewer do where the policy wants
            to see a frame rendered in between.

    Raises:
        TypeError: if a frame is no tensor.
        ValueError: if there is no frame, or one of another shape.
    """
    if not update_batches or min(update_batches) < 1:
        raise ValueError(f'`update_batches` must be numbers of keyframes from 1, got {tuple(update_batches)}')
    reader = _FrameReader(backbone, as_sequence(frames))
    encoded: dict[int, Tokens] = {}
    pending: list[Tokens] = []
    sizes, memory = list(update_batches), None

    def update() -> None:
        nonlocal memory
        if pending:
            memory, _ = backbone.update(memory, pending)
            pending.clear()
            del sizes[: len(sizes) > 1]

    def render(index: int) -> Reconstruction:
        update()
        return reader.reconstruct(memory, encoded.get(index) or reader.encode([index]))[0]

    for index in keyframes.choose(len(reader.frames), render):
        encoded[index] = reader.encode([index])
        pending.append(encoded[index])
        if len(pending) >= sizes[0]:
            update()
    update()
    return memory, encoded


@torch.no_grad()
def render_in_chunks(
    backbone: OnlineBackbone,
    memory: Any,
    frames: Frames,
    *,
    encoded: Mapping[int, Tokens] | None = None,
    chunk_size: int = 8,
) -> Iterator[FrameChunk]:
    """Render every frame of a sequence from a memory, some at a time; what is yielded is not kept.

    Args:
        backbone: the network.
        memory: see `remember_keyframes`.
        frames: see `Frames`.
        encoded: E (1, 1, ...) of frames that need not be encoded again, by index; they come first.
        chunk_size: frames at a time.

    Raises:
        TypeError: if a frame is no tensor.
        ValueError: if the memory is empty, there is no frame, or one of another shape.
    """
    if chunk_size < 1:
        raise ValueError(f'`chunk_size` must be at least 1, got {chunk_size}')
    reader, known = _FrameReader(backbone, as_sequence(frames)), encoded or {}
    others = [index for index in range(len(reader.frames)) if index not in known]
    for indices in [*_split(sorted(known), chunk_size), *_split(others, chunk_size)]:
        if indices[0] in known:
            patches = torch.cat([known[index].patches for index in indices], dim=1)
            tokens = Tokens(patches, known[indices[0]].grid)
        else:
            tokens = reader.encode(indices)
        decoded = backbone.render(memory, tokens)
        yield FrameChunk(tuple(indices), tokens, decoded, reader.regress(tokens, decoded))


def as_sequence(frames: Frames) -> Sequence[Tensor]:
    """The frames themselves if they can be read by index, otherwise a list of them.

    Raises:
        ValueError: if there is none.
    """
    if not (hasattr(frames, '__len__') and hasattr(frames, '__getitem__')):
        frames = list(frames)
    if not len(frames):
        raise ValueError('no frame was given')
    return frames


class _FrameReader:
    """Frames by index to tokens, with a check that they fit each other."""

    def __init__(self, backbone: OnlineBackbone, frames: Sequence[Tensor]) -> None:
        self.backbone = backbone
        self.frames = frames
        self.shape: torch.Size | None = None
        self.latest: tuple[list[int], Tokens] | None = None

    def encode(self, indices: list[int]) -> Tokens:
        """E (1, n, ...); the latest is kept, since a frame that was looked at may become a keyframe."""
        if self.latest is None or self.latest[0] != indices:
            self.latest = None
            device = next(self.backbone.parameters()).device
            images = torch.stack([self._read(index) for index in indices])
            try:
                self.latest = indices, self.backbone.encode(images[None].to(device))
            except ValueError as error:
                raise ValueError(f'frames {indices}: {error}') from error
        return self.latest[1]

    def _read(self, index: int) -> Tensor:
        frame = self.frames[index]
        if not isinstance(frame, Tensor):
            raise TypeError(f'frame {index} must be a tensor (3, H, W), got {type(frame).__name__}')
        if self.shape is None:
            self.shape = frame.shape
        if frame.shape != self.shape or frame.ndim != 3:
            expected = tuple(self.shape) if len(self.shape) == 3 else '(3, H, W)'
            raise ValueError(
                f'frame {index} must have shape {expected} as the frames before, got {tuple(frame.shape)}; resize all '
                'frames of a sequence to one size'
            )
        return frame

    def regress(self, encoded: Tokens, decoded: Tokens) -> GeometryPrediction:
        patch = self.backbone.patch_size
        return self.backbone.regress(encoded, decoded, (encoded.grid[0] * patch, encoded.grid[1] * patch))

    def reconstruct(self, memory: Any, encoded: Tokens) -> Reconstruction:
        return self.backbone.reconstruct(self.regress(encoded, self.backbone.render(memory, encoded)))


def _split(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
