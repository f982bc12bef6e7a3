"""Any table of your own: `data.source = "csv_series"` and `--data FILE`."""

from training.data.series import SeriesDataset

DATASET = SeriesDataset(
    name="csv_series",
    title="A CSV file of your own",
    licence="yours to know",
    note="",
    looks_like=(
        "a CSV file (columns apart by comma, semicolon or tab; .gz allowed) with a column 'time'"
        " (YYYY-MM-DD or YYYY-MM-DD HH:MM:SS, perhaps with Z or an offset, at a fixed rate) and the"
        " numeric columns that the recipe names"
    ),
)
