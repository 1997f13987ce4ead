"""Which versions of the host's packages the components of this folder work with."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from mmengine.utils import digit_version


@dataclass(frozen=True)
class Supported:
    """From `lowest`, included, to `beyond`, excluded; the command that installs a tested version; what it needs."""

    lowest: str
    beyond: str
    command: str
    needs: tuple[str, ...] = ()


SUPPORTED = {
    'mmcv': Supported('2.1.0', '2.2.0', 'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0'),
    'mmdet': Supported('3.3.0', '3.4.0', 'pip install --no-deps mmdet==3.3.0', ('mmcv',)),
    'mmdet3d': Supported('1.4.0', '1.5.0', 'pip install --no-deps mmdet3d==1.4.0', ('mmcv', 'mmdet')),
    'spconv': Supported('2.3.6', '2.4.0', 'pip install spconv==2.3.8'),
    'numpy': Supported('1.26', '2.4', "pip install 'numpy<2.4'"),
}


def require(name: str) -> ModuleType:
    """The package `name`, imported, after a look at its version and at those that it needs itself.

    Args:
        name: 'mmdet3d', 'mmdet', 'mmcv' (with its compiled operators), 'spconv', or 'numpy' for what numpy 2.4 dropped.

    Raises:
        ImportError: if one of them is missing or of an unsupported version; one line with the command that installs it.
    """
    # requirements first: the package itself refuses to be imported beside wrong ones
    for needed in (*SUPPORTED[name].needs, name):
        _check(needed, name)
    return import_module(name)


def _check(needed: str, name: str) -> None:
    supported = SUPPORTED[needed]
    versions = f'{needed}>={supported.lowest},<{supported.beyond}'
    wanted = versions if needed == name else f'{name} needs {versions}'
    if find_spec(needed) is None:
        raise ImportError(f'{wanted} is not installed: {supported.command}')
    found = import_module(needed).__version__
    if not digit_version(supported.lowest) <= digit_version(found) < digit_version(supported.beyond):
        raise ImportError(f'{wanted} expected, found {needed} {found}: {supported.command}')
    if needed == 'mmcv' and find_spec('mmcv._ext') is None:
        raise ImportError(f'{wanted} with its compiled operators expected, found it without: {supported.command}')
