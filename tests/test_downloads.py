"""The shipped manifests: every file is pinned; and what no manifest may say."""

from __future__ import annotations

import pytest

from benchmark import registry
from benchmark.fetching.manifest import Source, read_manifest
from benchmark.settings.messages import ConfigError

SOURCES = [
    (f"{task}/{name}", source)
    for task in registry.TASKS
    for name, dataset in read_manifest(registry.task_folder(task) / "sources.yaml").items()
    for source in dataset.files
]
SHA = "a" * 64
GOOD_SET = f"""
sets:
  - name: s
    title: S
    makes: [lstf/s.csv]
    licence: none
    cite: nobody
    home: https://example.org/
    files:
    - {{name: s.csv, urls: ['https://example.org/s'], bytes: 3, sha256: {SHA}}}
"""
BAD_MANIFESTS = {
    "a file that leaves": ("name: s.csv", "name: ../s.csv", "must stay below the data root"),
    "an absolute file": ("name: s.csv", "name: /s.csv", "must stay below the data root"),
    "a drive": ("name: s.csv", "name: 'C:/s.csv'", "must stay below the data root"),
    "backslashes": ("name: s.csv", "name: 'a\\s.csv'", "must stay below the data root"),
    "a place that leaves": ("[lstf/s.csv]", "[lstf/../../s.csv]", "must stay below the data root"),
    "places in two folders": ("[lstf/s.csv]", "[lstf/s.csv, lm/s.csv]", "one folder"),
    "no encryption": ("https://example.org/s'", "http://example.org/s'", "must be an https address"),
    "another machine named as this one": ("https://example.org/s'", "http://127.0.0.1.example.org/s'", "https address"),
    "a file address": ("https://example.org/s'", "file:///etc/passwd'", "must be an https address"),
    "half a digest": (SHA, "abc", "sha256"),
    "no licence": ("    licence: none\n", "", "licence is missing"),
    "no address": ("urls: ['https://example.org/s'], ", "", "by_hand"),
    "an unknown key": ("title: S", "titel: S", "did you mean title?"),
    "an archive without limits": ("bytes: 3,", "bytes: 3, archive: true,", "needs unpack"),
    "a name with a slash": ("name: s\n", "name: a/s\n", "pattern"),
}


@pytest.mark.parametrize(("old", "new", "reason"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_wrong_manifest_is_refused(old, new, reason, tmp_path):
    (tmp_path / "sources.yaml").write_text(GOOD_SET)
    assert list(read_manifest(tmp_path / "sources.yaml")) == ["s"]
    assert old in GOOD_SET
    (tmp_path / "sources.yaml").write_text(GOOD_SET.replace(old, new))
    with pytest.raises(ConfigError, match=r"sources\.yaml") as caught:
        read_manifest(tmp_path / "sources.yaml")
    assert reason in str(caught.value)


def test_a_task_without_a_manifest_has_no_sets(tmp_path):
    assert read_manifest(tmp_path / "sources.yaml") == {}


@pytest.mark.parametrize(("name", "source"), SOURCES, ids=[f"{name}:{source.name}" for name, source in SOURCES])
def test_shipped_files_are_pinned_by_a_digest_or_fetched_by_hand(name: str, source: Source):
    assert source.digests or not source.urls
    for url in source.urls:
        assert url.startswith("https://")
        if url.startswith("https://raw.githubusercontent.com/"):
            assert len(url.split("/")[5]) == 40, url  # a branch may change its bytes


def test_two_sets_of_one_name_are_refused(tmp_path):
    (tmp_path / "sources.yaml").write_text(GOOD_SET + GOOD_SET.partition("sets:\n")[2])
    with pytest.raises(ConfigError, match="two sets are called s"):
        read_manifest(tmp_path / "sources.yaml")
