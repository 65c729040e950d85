"""Packaging: `pip install -e .`, with extras for accelerators and for the tests."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

# The version is written once, in the package, and read here without importing it.
(VERSION,) = re.findall(
    r'__version__ = "(.+?)"', (HERE / "generalist/__init__.py").read_text(encoding="utf-8")
)

setup(
    name="generalist",
    version=VERSION,
    description="One pixel-space diffusion model for depth, segmentation and restoration, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The generalist authors",
    license="Apache-2.0",
    keywords=[
        "diffusion",
        "dense prediction",
        "depth estimation",
        "panoptic segmentation",
        "image restoration",
        "jax",
        "flax",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["generalist", "generalist.*"]),
    package_data={
        "generalist": ["pretrained/scenes/*", "pretrained/scenes_autoencoder/*", "tasks/*.json"]
    },
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8.3",  # the first that reads gs://
        "clu>=0.0.12",
        "etils[epath]>=1.9",
        "flax>=0.12,<0.14",
        "grain>=0.2.12",
        "jax>=0.10",
        "jaxtyping>=0.3",
        "ml_dtypes>=0.5",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "opencv-python-headless>=4.11",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.20",
        "pillow>=11",
        "safetensors>=0.5",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.9",
    ],
    extras_require={
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "data": [
            "gcsfs>=2025.1",
            "h5py>=3.12",
        ],  # gs:// paths, and NYU's labeled .mat file
        "pretrained": [
            "huggingface_hub>=0.30",
            "tokenizers>=0.20",
        ],  # published weights: the hub, and the text encoders' tokenizers
        "beam": ["apache-beam>=2.60"],  # data prepare --beam
        "notebook": ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"],
        "fuzz": ["atheris>=3.0", "h5py>=3.12", "scipy>=1.14"],  # benchmarks/fuzz.py
        "dev": ["pre-commit>=4", "pyright>=1.1.400", "ruff>=0.15"],  # make lint
        # What the tests compare with; nothing of it is imported by the package.
        "test": [
            "apache-beam>=2.60",
            "beartype>=0.20",  # checks the shape types of the package while the tests run
            "diffusers>=0.35",
            "h5py>=3.12",
            "hypothesis>=6.100",
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "scikit-image>=0.25",
            "scipy>=1.14",
            "tokenizers>=0.20",
            "torch>=2.8",
            "torchmetrics>=1.7",
            "transformers>=5.0",
        ],
    },
    entry_points={"console_scripts": ["generalist=generalist.cli:main"]},
)
