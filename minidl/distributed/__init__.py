"""Training by several processes or machines, with the bits of one."""

from minidl.distributed.data_parallel import DataParallel
from minidl.distributed.mpi import WorkerError

__all__ = ["DataParallel", "WorkerError"]
