"""The kernel that runs notebooks: always the Python that runs now."""

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec


class OwnKernel(AsyncKernelManager):
    """Starts `sys.executable`, where Jupyter would start what the first kernelspec called `python3` names.

    That may be another installation's: Jupyter looks first in JUPYTER_PATH, which clusters set.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        """What ipykernel would install for this Python."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())
