"""The processes that train one model together, and what a launcher's environment variables mean for them."""

from __future__ import annotations

import warnings

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from xaimoe_audio.training.job import Job
from xaimoe_runtime.errors import ConfigError

LAUNCHERS: tuple[tuple[type[ClusterEnvironment], str], ...] = (
    (TorchElasticEnvironment, "torchrun"),
    (SLURMEnvironment, "SLURM"),
    (LSFEnvironment, "LSF"),
    (MPIEnvironment, "MPI"),
)
"""In lightning's order; it takes the first whose environment variables are set."""


def is_first_process(job: Job) -> bool:
    """Return whether this process writes the run folder: the only one of a job, or rank 0 of several."""
    return job.devices * job.nodes == 1 or int(getattr(rank_zero_only, "rank", 0)) == 0


def prepare_processes(job: Job) -> None:
    """Check the launcher's environment variables before the work, and ignore them in a job of one process.

    A batch job that asks for several tasks may run one training in one of them, or an independent one in each: then
    the variables do not describe this training, although lightning would take its rank and size from them.

    Raises:
        ConfigError: several processes are to train together, and the launcher started another number of them.
    """
    if job.devices * job.nodes == 1:
        LightningEnvironment().set_global_rank(0)  # lightning has read another rank from the environment
        return
    for environment, name in LAUNCHERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that srun exists and is not used
            if not environment.detect():
                continue
            try:
                environment().validate_settings(job.devices, job.nodes)
            except (RuntimeError, ValueError, KeyError) as error:
                raise ConfigError(
                    f"devices, nodes: found {job.devices} and {job.nodes}, but {name} started this process otherwise: "
                    f"{' '.join(str(error).split())}"
                ) from error
        return


def cluster_environment(job: Job) -> list[ClusterEnvironment]:
    """Return the plugins that tell a Trainer its environment: lightning's own for one process; for several none, so
    that it detects the launcher's."""
    return [LightningEnvironment()] if job.devices * job.nodes == 1 else []
