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
"""Images (3, H, W), RGB in [0, 1]. What has a length and an index, such as a list that loads from disk, is
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
    frames = _OneSize(as_sequence(frames))
    remembered = remember_keyframes(backbone, frames, keyframes=keyframes or LinspaceKeyframes())
    result = ReconstructionBuffer(len(frames), frames.size, offload=offload)
    for chunk in render_in_chunks(
        backbone, remembered.memory, frames, encoded=remembered.encoded, chunk_size=chunk_size
    ):
        result.put(chunk.indices, backbone.reconstruct(chunk.prediction)[0])
    return result.reconstruction()


class ReconstructionBuffer:
    """Geometry of all views of a scene, which comes some views at a time.

    Args:
        num_views: V.
        canvas: (H, W) of the whole; smaller views lie in the top left corner, invalid around it.
        offload: where it is collected.
    """

    def __init__(self, num_views: int, canvas: tuple[int, int], *, offload: torch.device | str) -> None:
        self.num_views = num_views
        self.canvas = canvas
        self.offload = offload
        self._fields: dict[str, Tensor] = {}

    def put(self, indices: Sequence[int], found: Reconstruction) -> None:
        """Views of one size (n, ...), by their numbers."""
        height, width = found.valid.shape[1:]
        places = torch.tensor(indices, device=self.offload)
        for field in fields(found):
            value = getattr(found, field.name)
            is_map = field.name not in ('camera_to_world', 'intrinsics')
            if field.name not in self._fields:
                shape = (*self.canvas, *value.shape[3:]) if is_map else value.shape[1:]
                self._fields[field.name] = value.new_zeros(self.num_views, *shape, device=self.offload)
            whole = self._fields[field.name]
            if is_map:
                whole = whole[:, :height, :width]
            whole[places] = value.to(self.offload)

    def reconstruction(self) -> Reconstruction:
        """All that was put in."""
        return Reconstruction(**self._fields)


@dataclass(frozen=True)
class KeyframeMemory:
    """What is left of the keyframes of a sequence.

    Args:
        memory: the memory of the network.
        encoded: E (1, 1, ...) of each keyframe, by its number.
        decoded: F (1, 1, ...) of each, as it was when it entered.
    """

    memory: Any
    encoded: dict[int, Tokens]
    decoded: dict[int, Tokens]


@torch.no_grad()
def remember_keyframes(
    backbone: OnlineBackbone, frames: Frames, *, keyframes: KeyframePolicy, update_batches: Sequence[int] = (2, 1)
) -> KeyframeMemory:
    """The memory of the keyframes of a sequence.

    Args:
        backbone: the network.
        frames: see `Frames`.
        keyframes: which of them enter the memory.
        update_batches: how many enter together, call by call; the last number repeats. Fewer do where the policy wants
            to see a frame rendered in between.

    Raises:
        TypeError: if a frame is no tensor.
        ValueError: if there is no frame, or one is no picture.
    """
    if not update_batches or min(update_batches) < 1:
        raise ValueError(f'`update_batches` must be numbers of keyframes from 1, got {tuple(update_batches)}')
    reader = _FrameReader(backbone, as_sequence(frames))
    encoded: dict[int, Tokens] = {}
    decoded: dict[int, Tokens] = {}
    pending: list[int] = []
    sizes, memory = list(update_batches), None

    def update() -> None:
        nonlocal memory
        if pending:
            memory, entered = backbone.update(memory, [encoded[index] for index in pending])
            decoded.update(zip(pending, entered, strict=True))
            pending.clear()
            del sizes[: len(sizes) > 1]

    def render(index: int) -> Reconstruction:
        update()
        return reader.reconstruct(memory, encoded.get(index) or reader.encode(index))[0]

    for index in keyframes.choose(len(reader.frames), render):
        encoded[index] = reader.encode(index)
        pending.append(index)
        if len(pending) >= sizes[0]:
            update()
    update()
    return KeyframeMemory(memory, encoded, decoded)


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

    Frames of several sizes are rendered together where they have one size and come in one chunk.

    Args:
        backbone: the network.
        memory: see `remember_keyframes`.
        frames: see `Frames`.
        encoded: E (1, 1, ...) of frames that need not be encoded again, by index; they come first.
        chunk_size: frames at a time.

    Raises:
        TypeError: if a frame is no tensor.
        ValueError: if the memory is empty, there is no frame, or one is no picture.
    """
    if chunk_size < 1:
        raise ValueError(f'`chunk_size` must be at least 1, got {chunk_size}')
    reader, known = _FrameReader(backbone, as_sequence(frames)), encoded or {}
    others = [index for index in range(len(reader.frames)) if index not in known]
    for indices in [*_split(sorted(known), chunk_size), *_split(others, chunk_size)]:
        stacks = _stack_known(known, indices) if indices[0] in known else reader.encode_stacks(indices)
        for chosen, tokens in stacks:
            decoded = backbone.render(memory, tokens)
            yield FrameChunk(chosen, tokens, decoded, reader.regress(tokens, decoded))


def _stack_known(known: Mapping[int, Tokens], indices: list[int]) -> list[tuple[tuple[int, ...], Tokens]]:
    """E of frames that have it already, size by size."""
    by_grid: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_grid.setdefault(known[index].grid, []).append(index)
    return [
        (tuple(chosen), Tokens(torch.cat([known[index].patches for index in chosen], dim=1), grid))
        for grid, chosen in by_grid.items()
    ]


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


class _OneSize:
    """Frames that must have the size of the first one."""

    def __init__(self, frames: Sequence[Tensor]) -> None:
        self.frames = frames
        self.shape: torch.Size | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), after the first frame was read."""
        return self.shape[-2], self.shape[-1]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        frame = self.frames[index]
        self.shape = self.shape or getattr(frame, 'shape', None)
        if getattr(frame, 'shape', None) != self.shape:
            raise ValueError(
                f'frame {index} must have shape {tuple(self.shape)} as the frames before, got {tuple(frame.shape)}; '
                'resize all frames of a sequence to one size'
            )
        return frame


class _FrameReader:
    """Frames by index to tokens."""

    def __init__(self, backbone: OnlineBackbone, frames: Sequence[Tensor]) -> None:
        self.backbone = backbone
        self.frames = frames
        self.latest: tuple[int, Tokens] | None = None

    def encode(self, index: int) -> Tokens:
        """E (1, 1, ...); the latest is kept, since a frame that was looked at may become a keyframe."""
        if self.latest is None or self.latest[0] != index:
            self.latest = None
            [(_, tokens)] = self.encode_stacks([index])
            self.latest = index, tokens
        return self.latest[1]

    def encode_stacks(self, indices: list[int]) -> Iterator[tuple[tuple[int, ...], Tokens]]:
        """E (1, n, ...), size by size, and of which frames."""
        by_size: dict[torch.Size, dict[int, Tensor]] = {}
        for index in indices:
            frame = self._read(index)
            by_size.setdefault(frame.shape, {})[index] = frame
        device = next(self.backbone.parameters()).device
        for images in by_size.values():
            try:
                tokens = self.backbone.encode(torch.stack(list(images.values()))[None].to(device))
            except ValueError as error:
                raise ValueError(f'frames {list(images)}: {error}') from error
            yield tuple(images), tokens

    def _read(self, index: int) -> Tensor:
        frame = self.frames[index]
        if not isinstance(frame, Tensor):
            raise TypeError(f'frame {index} must be a tensor (3, H, W), got {type(frame).__name__}')
        if frame.ndim != 3:
            raise ValueError(f'frame {index} must have shape (3, H, W), got {tuple(frame.shape)}')
        return frame

    def regress(self, encoded: Tokens, decoded: Tokens) -> GeometryPrediction:
        patch = self.backbone.patch_size
        return self.backbone.regress(encoded, decoded, (encoded.grid[0] * patch, encoded.grid[1] * patch))

    def reconstruct(self, memory: Any, encoded: Tokens) -> Reconstruction:
        return self.backbone.reconstruct(self.regress(encoded, self.backbone.render(memory, encoded)))


def _split(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
