"""Reconstruct and label a folder of images: `python tools/infer.py FOLDER --config C --checkpoint C --out DIR`."""

from __future__ import annotations

import argparse
import sys

from pano3d.apis import Pano3DInferencer, format_summary, list_images, save_outputs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Geometry, semantics and instances of one scene from its images.')
    parser.add_argument('folder', help='folder of images of one scene; no poses needed')
    parser.add_argument('--config', required=True, help='configuration file')
    parser.add_argument('--checkpoint', required=True, help='weights written by training')
    parser.add_argument('--out', required=True, help='folder for pictures, point clouds, arrays and summary')
    parser.add_argument('--device', help="'cpu', 'cuda' or 'cuda:N' (default: a GPU if there is one)")
    parser.add_argument('--max-views', type=int, help='take at most this many images, evenly spread')
    parser.add_argument(
        '--classes',
        help="label with these classes instead of those of the training, e.g. 'sofa,plant,wall'; needs a model with a "
        'classifier on text embeddings',
    )
    parser.add_argument(
        '--stuff', help='those of --classes without countable instances (default: the names that were so in training)'
    )
    parser.add_argument(
        '--min-confidence',
        type=float,
        default=0.0,
        help='leave out less certain points; in the unit of the network, summary.json tells its range (default: 0)',
    )
    return parser.parse_args()


def split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(',')] if text.strip() else []


def main() -> None:
    args = parse_args()
    try:
        list_images(args.folder)  # before the model is loaded, which takes longer
        inferencer = Pano3DInferencer(args.config, args.checkpoint, device=args.device)
        if args.classes is not None:
            stuff = None if args.stuff is None else split_names(args.stuff)
            inferencer.set_vocabulary(split_names(args.classes), stuff=stuff)
        elif args.stuff is not None:
            raise ValueError('--stuff needs --classes')
        sample = inferencer(args.folder, max_views=args.max_views)
        summary = save_outputs(sample, inferencer.label_space, args.out, min_confidence=args.min_confidence)
    except (ValueError, OSError) as error:
        sys.exit(f'infer.py: {error}')
    print(format_summary(summary))
    print(args.out)


if __name__ == '__main__':
    main()
