"""`_base_ = 'pano3d::NAME.py'`: recipes of this package as bases of configs anywhere else."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).parent / '.mim' / 'configs'
_PREFIX = 'pano3d::'


def register_config_lookup() -> None:
    """Teach mmengine's `Config` where `pano3d::NAME.py` is; names of other packages are looked up as before.

    mmengine (0.10) knows OpenMMLab's own packages only, by a list in its code, and no configs outside subfolders.
    """
    if getattr(Config._get_cfg_path, 'knows_pano3d', False):
        return
    others = Config._get_cfg_path

    def find(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if not cfg_path.startswith(_PREFIX):
            return others(cfg_path, filename)
        path = CONFIGS / cfg_path.removeprefix(_PREFIX)
        if not path.is_file():
            known = sorted(p.name for p in CONFIGS.glob('*.py'))
            raise FileNotFoundError(f'{filename}: there is no {cfg_path}; the recipes are {known}')
        return str(path), 'pano3d'

    find.knows_pano3d = True  # type: ignore[attr-defined]
    Config._get_cfg_path = staticmethod(find)
