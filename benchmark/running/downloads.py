"""Downloads the public data files that a manifest names into the data root, and checks their SHA-256."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator

from benchmark.files import umask
from benchmark.settings import Settings
from benchmark.settings.messages import ConfigError, validate
from benchmark.settings.yaml_files import read_yaml


class Source(Settings):
    """One file of a manifest."""

    path: str  # relative to the data root, with / as separator
    url: str = Field(pattern=r"^https://")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in path or ":" in path:
            raise ValueError("must stay below the data root")
        return path


class Manifest(Settings):
    """The file ``sources.yaml`` of a task."""

    files: list[Source]


def read_manifest(path: Path) -> list[Source]:
    """Returns the files that the manifest names; none if it doesn't exist.  Raises ConfigError for a wrong manifest."""
    if not path.is_file():
        return []
    return validate(Manifest, read_yaml(path), lambda _: str(path)).files


def fetch_missing(manifest: Path, data_root: Path, wanted: Collection[str] | None = None) -> list[Path]:
    """Downloads the files of the manifest that the data root lacks, and returns their paths.

    wanted: the paths of the manifest to download; paths that it does not have are ignored.  None means all of its files.
    Raises ConfigError, in one line, if a file can't be downloaded or its digest differs.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # the caller says what was fetched
    fetched = []
    for source in read_manifest(manifest):
        target = data_root / source.path
        if target.exists() or (wanted is not None and source.path not in wanted):
            continue
        try:
            pooch.retrieve(source.url, f"sha256:{source.sha256}", fname=target.name, path=target.parent)
            target.chmod(0o666 & ~umask())  # pooch's temporary files are readable for their owner only
        except (requests.RequestException, OSError) as error:
            reason = type(error).__name__
            raise ConfigError(
                f"{source.path}: can't be fetched from {source.url} ({reason}); put it into {data_root} yourself"
            ) from error
        except ValueError as error:  # from pooch, if the digest differs; it has removed the file
            raise ConfigError(
                f"{source.path}: the file from {source.url} has another SHA-256 than {source.sha256[:16]}…"
            ) from error
        fetched.append(target)
    return fetched
