"""A papermill engine whose executed notebooks have the same bytes for the same inputs.

Papermill writes timestamps and a random cell id. Stages depend on this file, since it decides the bytes of executed
notebooks; messages to the user are in `run.py`.
"""

import sys

from papermill.engines import NBClientEngine
from traitlets.config import Config


class Engine(NBClientEngine):
    """Papermill's engine without timestamps and random ids; `run` registers it as "aasist"."""

    @classmethod
    def execute_notebook(cls, nb, *args, **kwargs):
        """Execute and tidy a notebook; a failed one stays as it is, for diagnosis."""
        nb = super().execute_notebook(nb, *args, **kwargs)
        failed = nb.metadata.papermill.get("exception")
        return nb if failed else tidy(nb)

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        config = Config()
        config.KernelManager.transport_encryption = "auto"  # ipykernel warns on every start without it
        super().execute_managed_notebook(
            nb_man,
            kernel_name,
            config=config,
            coalesce_streams=True,  # how output is cut into messages is random
            shutdown_kernel="immediate",
            stderr_file=sys.stderr,
            **{key: value for key, value in kwargs.items() if key != "stderr_file"},
        )


def tidy(nb):
    """Remove in place what differs between identical runs: timestamps, random ids, Python version, error stream."""
    nb.metadata.pop("papermill", None)
    nb.metadata.get("language_info", {}).pop("version", None)
    for cell in nb.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return nb
