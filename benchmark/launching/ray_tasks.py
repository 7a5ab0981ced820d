"""Workers as tasks on a Ray cluster.

Ray only starts them (``max_retries=0``): claims decide which cell is run where, and records are files on a file system that all nodes
share.  Ray uploads nothing, and its Tune is not used.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from benchmark.launching.follow import Left
from benchmark.launching.options import RayOptions
from benchmark.launching.worker import Ended, Worker, log_of
from benchmark.settings.messages import ConfigError

TASK_SECONDS = 1.0  # between two looks at the tasks
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else Ray uploads the working folder of whoever is started by `uv run`
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; without it Ray warns
}


class RayCrew:
    """The tasks of one launch.

    workers: how many; None for one on each node.  Raises ConfigError if there is no cluster, or no node that could run a worker.
    """

    name, seconds = "ray", TASK_SECONDS

    def __init__(self, worker: Worker, workers: int | None, options: RayOptions) -> None:
        self._ray = connect(options.address)
        self._folder = worker.folder
        try:
            places = _places(self._ray, workers, options)
            task = self._ray.remote(_run)
            # Tasks that have not ended, with their numbers.
            self._tasks = {
                task.options(max_retries=0, **place).remote(worker, number): number
                for number, place in enumerate(places)
            }
        except BaseException:
            self._ray.shutdown()
            raise
        self._lines: list[str] = []
        self._cancelled: set[int] = set()

    def left(self) -> Left:
        """Returns how many tasks have not ended."""
        if self._tasks:
            ended, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
            for task in ended:
                number = self._tasks.pop(task)
                try:
                    result: Ended = self._ray.get(task)
                    if result.status not in (0, 1):
                        self._lines.append(f"worker {number}: {result.reason or f'exit status {result.status}'}")
                except Exception as error:  # Ray raises what the task raised in classes of its own, and its own errors
                    if number in self._cancelled:
                        continue
                    self._lines.append(f"worker {number} ended before its work was done ({type(error).__name__})")
        running = sum(log_of(self._folder, number).exists() for number in self._tasks.values())
        return Left(running, len(self._tasks) - running)

    def losses(self) -> list[str]:
        """Returns a line for each worker that was refused or killed, or whose node died; each only once."""
        lines, self._lines = self._lines, []
        return lines

    def cancel_waiting(self) -> None:
        """Cancels the tasks that have not started; they count as no losses."""
        for task, number in self._tasks.items():
            if not log_of(self._folder, number).exists():
                self._cancelled.add(number)
                self._ray.cancel(task)

    def cancel(self) -> None:
        """Ends all tasks, and leaves the cluster."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._ray.shutdown()


def connect(address: str) -> Any:
    """Connects this process with a cluster, or starts one on this machine, and returns the module ``ray``.  Raises ConfigError."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        ray.shutdown()
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"--launcher ray: no cluster at address={address}: {first}") from error
    return ray


def _run(worker: Worker, number: int) -> Ended:
    return worker(number)


def _places(ray: Any, workers: int | None, options: RayOptions) -> list[dict[str, Any]]:
    """Returns the options of each task: what it needs, and where it is to run.  Raises ConfigError if no node can have one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    needs = [
        {
            "num_cpus": node["Resources"]["CPU"] if options.cpus is None else options.cpus,
            "num_gpus": node["Resources"].get("GPU", 0) if options.gpus is None else options.gpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        }
        for node in nodes
    ]
    fitting = [
        need
        for need, node in zip(needs, nodes, strict=True)
        if need["num_cpus"] <= node["Resources"]["CPU"] and need["num_gpus"] <= node["Resources"].get("GPU", 0)
    ]
    if not fitting:
        raise ConfigError(f"--launcher ray: none of the {len(nodes)} nodes has the CPUs and GPUs that a worker needs")
    return fitting if workers is None else [{**fitting[0], "scheduling_strategy": "SPREAD"} for _ in range(workers)]
