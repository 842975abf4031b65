"""A papermill engine whose executed notebooks are a function of their inputs: same inputs, same bytes.

Papermill leaves clocks in the metadata of the notebook and of each cell, and a random id on the cell it injects.
Stages depend on this file, since it decides the bytes of every executed notebook; what only talks to the person who
waits is in `run.py`.
"""

import sys

from papermill.engines import NBClientEngine
from traitlets.config import Config


class Engine(NBClientEngine):
    """Papermill's own engine without clocks and random ids; `run` registers it as "aasist"."""

    @classmethod
    def execute_notebook(cls, nb, *args, **kwargs):
        """Executed notebook; one that failed is left as it is, for whoever looks for the reason."""
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
            coalesce_streams=True,  # how a long text was cut into messages is chance
            shutdown_kernel="immediate",
            stderr_file=sys.stderr,
            **{key: value for key, value in kwargs.items() if key != "stderr_file"},
        )


def tidy(nb):
    """Drops from an executed notebook what differs between two identical runs.

    Clocks, random ids and the version of the interpreter go; so does the error stream, which is for the person who
    watches (the engine passes it on while the notebook runs): warnings in it name processes, times and folders.

    Parameters
    ----------
    nb : nbformat.NotebookNode
        Changed in place.

    Returns
    -------
    nbformat.NotebookNode
        The same notebook.
    """
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
