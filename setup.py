"""States the one thing that pyproject.toml cannot say well: the repository's root is the package."""

from setuptools import find_packages, setup

OUTSIDE = [f"{folder}{depth}" for folder in ("build", "docs", "examples", "tests") for depth in ("", ".*")]

setup(
    # Build frontends run this file under another name; told its own, setuptools keeps it out of the wheel.
    script_name="setup.py",
    package_dir={"derain_engine": "."},
    packages=["derain_engine", *(f"derain_engine.{name}" for name in find_packages(exclude=OUTSIDE))],
)
