"""An evaluation in a terminal: its tables, then what they come to."""

from rich.console import Console
from rich.table import Table as RichTable

from training.evaluate.report import Evaluation, Table


def show(console: Console, evaluation: Evaluation) -> None:
    for table in evaluation.tables:
        console.print(_rich_table(table))
    console.print(evaluation.summary, soft_wrap=False)


def _rich_table(table: Table) -> RichTable:
    shown = RichTable(title=table.title, caption=table.note or None, title_justify="left")
    for index, name in enumerate(table.header):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    return shown
