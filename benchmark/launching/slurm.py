"""Workers as an array of SLURM jobs, which submitit submits and requeues.

A job is sent SIGUSR2 some time before its time limit, and at preemption where the cluster is set up to do so
(``SlurmctldParameters=preempt_send_user_signal``).  submitit then calls ``Worker.checkpoint`` and requeues the job.  Elsewhere a
preempted job is just killed and requeued by SLURM itself, and resumes from the last checkpoint all the same.

submitit takes each such signal for a time-out if the limit is below ten minutes (its issue 1656), so ``timeouts`` is high by default.
"""

from __future__ import annotations

import io
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from typing import Any

from benchmark.launching.follow import Left
from benchmark.launching.options import FLAG, SlurmOptions
from benchmark.launching.worker import Ended, Worker
from benchmark.settings.messages import ConfigError

QUEUE_SECONDS = 10.0  # between two questions to SLURM's controller, which serves the whole cluster
LOCAL_SECONDS = 1.0
RESOLUTION_SECONDS = 60  # by which SLURM may send a signal too early
_COMMAND_SECONDS = 60.0
_GONE = "Invalid job id"  # what squeue says of a job that has ended some minutes ago


def check(options: SlurmOptions) -> None:
    """Raises ConfigError if a job would be stopped as soon as it starts."""
    least = options.signal + RESOLUTION_SECONDS
    if options.time * 60 <= least:
        raise ConfigError(
            f"{FLAG} time={options.time}: {options.time * 60} seconds; more than {least} are wanted, because SLURM stops the cells of "
            f"a job signal={options.signal} seconds before its end, and may do so {RESOLUTION_SECONDS} seconds earlier"
        )


def submit(worker: Worker, workers: int, options: SlurmOptions) -> SlurmCrew:
    """Submits that many workers.  Raises ConfigError with what sbatch says if it refuses them."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    parameters: dict[str, Any] = {
        "name": "lavo-bench",
        "timeout_min": options.time,
        "cpus_per_task": options.cpus,
        "gpus_per_node": options.gpus or None,
        "mem_gb": options.memory,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_constraint": options.constraint,
        "slurm_array_parallelism": options.parallel,
        "slurm_signal_delay_s": options.signal,
        # Since SLURM 22.05 srun doesn't take the number of CPUs from sbatch.
        "slurm_srun_args": [f"--cpus-per-task={options.cpus}"],
        "slurm_additional_parameters": {"requeue": True, **options.sbatch},
    }
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # submitit repeats there what sbatch says
            executor = submitit.AutoExecutor(
                folder=worker.folder, cluster=options.executor, slurm_max_num_timeout=options.timeouts
            )
            executor.update_parameters(**parameters)
            jobs = executor.map_array(worker, range(workers))
    except (FailedJobError, FailedSubmissionError) as error:
        lines = re.findall(r"^sbatch: (?:error|fatal): (.+)$", said.getvalue() or str(error), flags=re.MULTILINE)
        raise ConfigError(f"--launcher slurm: {lines[-1] if lines else error}") from error
    except RuntimeError as error:  # submitit found no srun
        raise ConfigError("--launcher slurm: srun and sbatch are not found on this machine") from error
    return SlurmCrew(jobs, options.executor)


class SlurmCrew:
    """The jobs of one array."""

    def __init__(self, jobs: Sequence[Any], executor: str) -> None:
        self._jobs, self._queue, self._in_process = list(jobs), executor == "slurm", executor == "debug"
        self._array = str(jobs[0].job_id).partition("_")[0]
        self._told: set[str] = set()
        # Of the jobs in the queue.  They are there from the beginning, whether or not the controller answers the first question.
        self._states: dict[str, str] = {job.job_id: "PENDING" for job in jobs}
        self.seconds = QUEUE_SECONDS if self._queue else LOCAL_SECONDS
        self.name = f"slurm, job {self._array}" if self._queue else f"submitit, {executor}"

    def left(self) -> Left:
        """Returns how many jobs have not ended.

        ``squeue`` is asked, not submitit, which asks ``sacct``: many clusters keep no accounts, and then it knows no states.
        """
        if not self._queue:
            self._states = {
                job.job_id: "RUNNING" for job in self._jobs if not job.done()
            }  # debug runs the job here and now
        else:
            done = _command("squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={self._array}")
            if done is not None and done.returncode == 0:
                self._states = dict(line.split(maxsplit=1) for line in done.stdout.split("\n") if line.strip())
            elif done is not None and _GONE in done.stderr:
                self._states = {}
            # In any other case the controller doesn't answer, and the jobs are what they were.
        counts = Counter("waiting" if state == "PENDING" else "running" for state in self._states.values())
        return Left(counts["running"], counts["waiting"])

    def losses(self) -> list[str]:
        """Returns a line for each worker that was refused, killed or cancelled; each only once."""
        lines = []
        for number, job in enumerate(self._jobs):
            if job.job_id in self._states or job.job_id in self._told:
                continue
            self._told.add(job.job_id)
            ended = _result(job) if self._in_process or job.paths.result_pickle.exists() else None
            if ended is None:
                lines.append(f"worker {number} ended before its work was done")
            elif ended.status not in (0, 1):
                lines.append(f"worker {number}: {ended.reason or f'exit status {ended.status}'}")
        return lines

    def cancel_waiting(self) -> None:
        """Cancels the jobs that have not started; they count as no losses."""
        if self._queue:
            self.left()
            self._told |= {job for job, state in self._states.items() if state == "PENDING"}
            _command("scancel", "--state=PENDING", self._array)
        if self._in_process:
            self._jobs = []

    def cancel(self) -> None:
        """Ends all jobs."""
        if self._queue:
            _command("scancel", "--quiet", self._array)
        for job in () if self._queue else self._jobs:
            with suppress(Exception):
                job.cancel()


def _result(job: Any) -> Ended:
    """Returns what a job returned, or the last line of what it raised."""
    try:
        result: Ended = job.result()
        return result
    except Exception as error:  # submitit raises what the job raised, in classes of its own
        lines = str(error).strip().splitlines()
        return Ended(-1, lines[-1] if lines else type(error).__name__)


def _command(*words: str) -> subprocess.CompletedProcess[str] | None:
    """Runs one of SLURM's commands.  Returns None if it can't be run or doesn't answer."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
