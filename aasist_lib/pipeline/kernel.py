"""The kernel for notebooks: always the running Python."""

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec


class OwnKernel(AsyncKernelManager):
    """Starts `sys.executable`; Jupyter might find another `python3` kernel, as it searches JUPYTER_PATH first."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernelspec that ipykernel would install for this Python."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())
