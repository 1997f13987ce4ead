"""The version of the package, written here once; setup.py reads this file without importing the package."""

__version__ = '0.1.0'
