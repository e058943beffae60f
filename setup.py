"""Packaging. The JSON schemas are in the repository's root and ship inside the package.

In a GitHub workflow, such as the one that releases, the package's metadata links to the repository.
"""

import os
import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

COLLECTOR = ["httptools>=0.6.3", "prometheus-client>=0.20", "uvloop>=0.19"]
POSTGRES = ["psycopg[binary]>=3.3.5"]

VERSION = runpy.run_path("tap_autopilot/__init__.py")["__version__"]
REPOSITORY = os.environ.get("GITHUB_REPOSITORY")  # owner and name
FILES = f"https://github.com/{REPOSITORY}/blob/v{VERSION}"
RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/v{VERSION}"


def readme() -> str:
    """The README; its links and pictures are absolute if the repository is known."""
    text = Path("README.md").read_text(encoding="utf-8")
    if REPOSITORY:
        relative = r"\((?!https?:|#)([^)\s]+)\)"
        text = re.sub(rf"(!\[[^]]*\]){relative}", rf"\1({RAW}/\2)", text)
        text = re.sub(rf"(\[[^]]*\]){relative}", rf"\1({FILES}/\2)", text)
    return text


def urls() -> dict[str, str]:
    """The project's pages, if the repository is known."""
    if not REPOSITORY:
        return {}
    return {
        "Source": f"https://github.com/{REPOSITORY}",
        "Documentation": f"{FILES}/README.md",
        "Changelog": f"{FILES}/CHANGELOG.md",
        "Issues": f"https://github.com/{REPOSITORY}/issues",
    }


setup(
    name="tap-autopilot",
    version=VERSION,
    description="Singer tap for Autopilot (autopilothq): contacts, lists, segments, email events",
    keywords=["Singer", "tap", "ELT", "Meltano", "Stitch", "Autopilot", "autopilothq"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls=urls(),
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["tap_autopilot*"]), "tap_autopilot.schemas"],
    package_dir={"tap_autopilot.schemas": "schemas"},
    package_data={"tap_autopilot": ["py.typed"], "tap_autopilot.schemas": ["*.json"]},
    install_requires=[
        "backoff>=2.2",
        "ciso8601>=2.3",
        "msgspec>=0.19",
        "requests>=2.33.0",
        "singer-python>=6.1",
        "urllib3>=2.8.0",
    ],
    extras_require={
        "collector": COLLECTOR,
        "postgres": POSTGRES,
        "socks": ["PySocks>=1.5.6,!=1.5.7"],
        "dev": [
            *COLLECTOR,
            *POSTGRES,
            "PySocks",
            "build",
            "hypothesis",
            "jsonschema",
            "mypy",
            "pyte",
            "pytest",
            "pytest-xdist",
            "responses",
            "ruff",
            "setuptools>=83.0.0",
            "singer-tools",
            "trustme",
            "twine",
            "types-jsonschema",
            "types-requests",
        ],
    },
    entry_points={
        "console_scripts": [
            "tap-autopilot=tap_autopilot.__main__:main",
            "tap-autopilot-collector=tap_autopilot.collector.cli:main",
        ]
    },
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Database",
        "Typing :: Typed",
    ],
)
