"""Run a hand-in's cells, whatever they do: nbgrader's step, made to end and to be fair. Needs nbgrader."""

from typing import Any

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbgrader.preprocessors import Execute
from nbgrader.preprocessors.execute import UnresponsiveKernelError
from nbgrader.utils import is_grade, is_solution

MOST_TEXT = 1_000_000  # characters that a cell may print
TOO_LONG, DIED = "CellTimeoutError", "KernelDied"


class Execution(Execute):
    """Executes a notebook.

    A cell that ends its kernel, or cannot be interrupted, is an error, and the others are run again without it. In test
    cells only an exception is a failure: what is written to stderr costs nothing, and no value displayed is a grade.
    """

    def preprocess(self, nb: NotebookNode, resources: Any, km: Any = None) -> tuple[NotebookNode, Any]:
        """Execute all cells of ``nb`` in place."""
        self.ended: dict[int, str] = {}
        while True:
            self.at = -1
            try:
                nb, resources = super().preprocess(nb, resources)
                break
            except (DeadKernelError, CellTimeoutError, UnresponsiveKernelError) as error:
                if self.at < 0:
                    raise
                self.ended[self.at] = TOO_LONG if isinstance(error, CellTimeoutError) else DIED
        for cell in nb.cells:
            if cell.cell_type == "code" and is_grade(cell) and not is_solution(cell):
                cell.outputs = fair(cell.outputs)
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> tuple[NotebookNode, Any]:
        """Execute one cell, or say what it did before."""
        self.at, self.printed = index, 0
        if index not in self.ended:
            return super().preprocess_cell(cell, resources, index)
        ename = self.ended[index]
        said = "it did not stop when it was interrupted" if ename == TOO_LONG else "it ended Python itself"
        cell.outputs = [NotebookNode(output_type="error", ename=ename, evalue=said, traceback=[f"{ename}: {said}"])]
        return cell, resources

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Take an output, unless the cell has printed far too much."""
        if msg["msg_type"] == "stream":
            self.printed += len(msg["content"]["text"])
            if self.printed > MOST_TEXT:
                return None
        return super().process_message(msg, cell, cell_index)


def fair(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return a test cell's outputs as nbgrader should see them: an error first, nothing on stderr, no value."""
    kept = [output for output in outputs if output.output_type != "execute_result"]
    for output in kept:
        if output.output_type == "stream":
            output.name = "stdout"
    return sorted(kept, key=lambda output: output.output_type != "error")
