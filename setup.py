"""States the one thing that pyproject.toml cannot say well: the repository's root is the package."""

from setuptools import setup

SUBPACKAGES = [
    "engine",
    "engine.backends",
    "engine.device",
    "engine.media",
    "engine.models",
    "engine.plan",
    "engine.weights",
    "kernels",
    "export",
    "training",
    "bench",
    "bench.kernels",
    "cli",
]

setup(
    # Build frontends run this file under another name; told its own, setuptools keeps it out of the wheel.
    script_name="setup.py",
    package_dir={"derain_engine": "."},
    packages=["derain_engine", *(f"derain_engine.{name}" for name in SUBPACKAGES)],
)
