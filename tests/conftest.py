"""Options and fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--golden-root', type=Path, metavar='DIR', help='folder of reference values for the golden tests')


def pytest_configure() -> None:
    if 'PYTEST_XDIST_WORKER' in os.environ:
        torch.set_num_threads(1)  # the workers share the cores already


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker('slow') is not None)


@pytest.fixture(scope='session')
def golden_root(pytestconfig: pytest.Config) -> Path:
    """The folder given as --golden-root; without one the test is skipped."""
    root = pytestconfig.getoption('--golden-root')
    if root is None:
        pytest.skip('give --golden-root DIR to compare with the reference values')
    return root.resolve()
