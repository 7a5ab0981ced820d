"""Workers as tasks on two Ray nodes on this machine, of which one is killed."""

from __future__ import annotations

import pytest
from launched import NUM_CELLS, Command
from test_kills import files

ray = pytest.importorskip("ray", reason="no Ray: pip install 'lavo-bench[ray]'")


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two nodes, each with one CPU, and its second node."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # A node that is killed is missed after some seconds, not after half a minute.
    settings = {
        "health_check_initial_delay_ms": 500,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
    }
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": settings}
    )
    try:
        yield made, made.add_node(num_cpus=1, include_dashboard=False)
    finally:
        made.shutdown()


@pytest.mark.slow
def test_a_node_that_is_killed_loses_and_doubles_nothing(cluster, tmp_path, alone):
    (expected, cache), (made, second) = alone, cluster
    options = ["--launcher", "ray", "--launcher-option", f"address={made.address}", "--lease", "5"]
    command = Command(tmp_path / "results", cache, *options)
    command.until(lambda: "2 workers running" in command.said and command.records() >= 2)
    made.remove_node(second, allow_graceful=False)
    assert command.records() < NUM_CELLS
    assert command.wait() == 0, command.said
    assert "ended before its work was done" in command.said
    assert files(command.folder) == expected
    assert len(command.told()) == len(set(command.told())) == NUM_CELLS
    assert not list(command.folder.glob(".*"))
    assert not command.left()
