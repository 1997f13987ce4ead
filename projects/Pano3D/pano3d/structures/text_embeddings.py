"""Names as vectors of a text encoder, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

EMBEDDING_FOLDER = Path(__file__).parent.parent / 'models' / 'text_embeddings'
VECTORS = 'vectors'
KEYS = ('names', 'encoder', 'prompt')


@dataclass(frozen=True)
class TextEmbeddings:
    """What a frozen text encoder says of some names.

    Stored as .safetensors: one tensor `vectors` of any floating-point type, and in the metadata `names` as a JSON list,
    `encoder` and `prompt`.

    Args:
        names: of classes, each once.
        vectors: (C, D), float32 of length 1.
        encoder: what made them, as `load_text_encoder` takes it, e.g. 'minilm'; vectors of two encoders must not meet.
        prompt: the sentence around a name, with `{}` in its place.

    Raises:
        ValueError: if the parts do not fit together.
    """

    names: tuple[str, ...]
    vectors: Tensor
    encoder: str
    prompt: str

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f'`names` repeats {sorted({n for n in self.names if self.names.count(n) > 1})}')
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.names) or not self.vectors.is_floating_point():
            raise ValueError(
                f'`vectors` must be floating-point numbers ({len(self.names)}, D), one row per name, got '
                f'{self.vectors.dtype} {tuple(self.vectors.shape)}'
            )
        lengths = self.vectors.float().norm(dim=1)
        if not ((lengths - 1).abs() < 1e-3).all():
            raise ValueError(
                f'`vectors` must have length 1, got lengths from {lengths.min():.3g} to {lengths.max():.3g}'
            )
        if '{}' not in self.prompt:
            raise ValueError(f"`prompt` must hold '{{}}' in place of the name, got {self.prompt!r}")

    @classmethod
    def load(cls, name_or_path: str) -> TextEmbeddings:
        """A file of the package by name (e.g. 'minilm'), or any .safetensors file of this layout.

        Raises:
            ValueError: if there is no such file, or it is no file of text embeddings.
        """
        path = Path(name_or_path).expanduser()
        if path.suffix != '.safetensors':
            path = EMBEDDING_FOLDER / f'{name_or_path}.safetensors'
        if not path.is_file():
            known = sorted(p.stem for p in EMBEDDING_FOLDER.glob('*.safetensors'))
            raise ValueError(
                f'no text embeddings {name_or_path!r}: expected one of {known} or a path to a .safetensors file; '
                'tools/make_text_embeddings.py writes one'
            )
        try:
            with torch.device('cpu'), safe_open(path, 'pt') as file:  # also while a model is built without memory
                metadata, found = file.metadata() or {}, list(file.keys())
                missing = [key for key in KEYS if key not in metadata] + [VECTORS] * (VECTORS not in found)
                if missing:
                    raise ValueError(f'{missing} are missing, it has {sorted(metadata)} and tensors {found[:3]}')
                vectors = F.normalize(file.get_tensor(VECTORS).float(), dim=1)  # what rounding to float16 took
            return cls(tuple(json.loads(metadata['names'])), vectors, metadata['encoder'], metadata['prompt'])
        except (ValueError, TypeError, SafetensorError) as error:
            raise ValueError(f'{path}: expected text embeddings (`vectors`, and metadata {KEYS}): {error}') from error

    def save(self, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write the file; float16 moves a vector by less than 0.001."""
        metadata = {'names': json.dumps(self.names), 'encoder': self.encoder, 'prompt': self.prompt}
        save_file({VECTORS: self.vectors.to(dtype).contiguous()}, path, metadata)

    @property
    def dim(self) -> int:
        """D, the width of the encoder's output."""
        return self.vectors.shape[1]

    def select(self, names: Sequence[str]) -> TextEmbeddings:
        """Those of the given names, in their order.

        Raises:
            ValueError: if some are not there.
        """
        missing = sorted(set(names) - set(self.names))
        if missing:
            raise ValueError(
                f'no text embeddings of {missing[:10]} ({len(missing)} in all) by encoder {self.encoder!r}; '
                'tools/make_text_embeddings.py makes them'
            )
        rows = torch.tensor([self.names.index(name) for name in names], device=self.vectors.device)
        return replace(self, names=tuple(names), vectors=self.vectors[rows])
