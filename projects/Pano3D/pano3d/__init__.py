"""Pano3D: feed-forward 3D reconstruction and panoptic segmentation from unposed images, for OpenMMLab.

Importing the package needs torch and mmengine only; components register themselves when a registry is first asked.
"""

from .config_lookup import register_config_lookup
from .version import __version__

__all__ = ['__version__']

register_config_lookup()
