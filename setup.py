"""The metadata is in pyproject.toml; the place where optional extensions are declared."""

from setuptools import setup

setup()
