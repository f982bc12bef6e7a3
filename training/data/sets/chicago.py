"""Daily rail ridership in Chicago with its weather, 2001 to 2016.

The packaged file comes from the R package modeldata (MIT licence, see
`packaged/chicago_ridership.LICENSE.md`). Its station columns are entries of fourteen days before
their row, and its sports columns are of the day itself; recipes here use neither.
"""

from training.data.series import SeriesDataset

DATASET = SeriesDataset(
    name="chicago",
    title="Chicago rail ridership (R package modeldata)",
    licence="MIT",
    note="Daily entries at the Clark/Lake station with weather, 2001-01-22 to 2016-08-28.",
    looks_like=(
        "a CSV file with a column 'date' (YYYY-MM-DD, one row a day) and the numeric columns that"
        " the recipe names, such as 'ridership', 'temp_max' and 'weather_snow'"
    ),
    packaged="chicago_ridership.csv.gz",
    time_column="date",
    known={
        "ridership": ("thousand entries", "entries at the Clark/Lake station on the day"),
        "temp": ("°F", "median temperature of the day"),
        "temp_min": ("°F", "lowest temperature of the day"),
        "temp_max": ("°F", "highest temperature of the day"),
        "percip": ("inch", "median hourly precipitation of the day"),
        "percip_max": ("inch", "highest hourly precipitation of the day"),
        "wind": ("knot", "median wind speed of the day"),
        "wind_max": ("knot", "highest wind speed of the day"),
        "weather_rain": ("share", "share of the day's reports that mention rain"),
        "weather_snow": ("share", "share of the day's reports that mention snow"),
        "weather_cloud": ("share", "share of the day's reports that mention clouds"),
        "weather_storm": ("share", "share of the day's reports that mention a storm"),
    },
)
