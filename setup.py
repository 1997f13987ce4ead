"""Packaging of Pano3D: `pip install -e .` or `pip wheel .`, both with `--no-build-isolation` if offline.

The package carries the repository's configs/ and tools/ in `pano3d/.mim`, where OpenMMLab looks for them, so that
after `import pano3d` a config in any other directory can say `_base_ = 'pano3d::configs/NAME.py'`. A wheel holds
copies; an editable install holds links, so a config edited here is seen at once.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCE = 'projects/Pano3D'

# mmengine opens `<package>/.mim/model-index.yml` before any config, and reads `pano3d::DIR/NAME.py` as
# `<package>/.mim/configs/DIR/NAME.py`. It refuses a name without DIR, and most configs here lie flat in configs/,
# so the folder is placed one level down: what follows `pano3d::` is the path from the root of the repository.
MIM_FOLDERS = {'configs': 'configs/configs', 'tools': 'tools'}
MODEL_INDEX = 'Import: []\n'


class BuildWithConfigs(build_py):
    """Build the package, then put configs/ and tools/ into its `.mim` folder."""

    def run(self) -> None:
        super().run()
        package = ROOT / SOURCE / 'pano3d' if self.editable_mode else Path(self.build_lib) / 'pano3d'
        mim = package / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        for source, target in MIM_FOLDERS.items():
            (mim / target).parent.mkdir(parents=True, exist_ok=True)
            if self.editable_mode:
                (mim / target).symlink_to(os.path.relpath(ROOT / source, (mim / target).parent))
            else:
                shutil.copytree(ROOT / source, mim / target, ignore=shutil.ignore_patterns('__pycache__'))
        (mim / 'model-index.yml').write_text(MODEL_INDEX, encoding='utf-8')


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
    package_data={'pano3d': ['py.typed', '**/*.json']},
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
    install_requires=[
        'torch>=2.6',
        'mmengine>=0.10.7,<0.11',
        'setuptools<81',  # mmengine imports pkg_resources
        'numpy',
        'scipy',
        'opencv-python',
        'pillow',
        'safetensors',
        'plyfile',
        'trimesh',
        'pycocotools',
        'tqdm',
    ],
    extras_require={
        # Rendering of scanned meshes and of the synthetic rooms
        'data': ['embreex'],
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
