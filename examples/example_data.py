"""What the examples work on, made when they run: files of measurements, a large input, a job and its reference."""

import json
import random
import sqlite3
import zipfile
from pathlib import Path

COLUMNS = [f"MeanTemperatureOfSensor{number}" for number in range(1, 14)]


def measurements(folder, files=60, rows=100):
    """Put so many CSV files of about 12 kB into a new folder."""
    folder.mkdir()
    for day in range(files):
        numbers = random.Random(day)
        lines = [",".join(f"{numbers.gauss(20, 4):.5f}" for _ in COLUMNS) for _ in range(rows)]
        folder.joinpath(f"day {day:02}.csv").write_text("\n".join([",".join(COLUMNS), *lines, ""]))


def samples(file, megabytes=64):
    """A file of so many megabytes of random bytes."""
    file.write_bytes(random.Random(0).randbytes(megabytes << 20))


def job(file, configurations=200):
    """A JSON job: what all configurations have in common, and what each has of its own."""
    numbers = random.Random(0)
    own = [{"station": numbers.randrange(100), "scale": numbers.random()} for _ in range(configurations)]
    file.write_text(json.dumps({"name": "stations", "common": {"years": [1990, 2020]}, "configurations": own}))


def reference(file, megabytes=20):
    """A zipped SQLite database of about so many megabytes: `readings`, of 100 stations over 40 years."""
    numbers = random.Random(1)
    size = (megabytes << 20) // 4000
    database = Path(f"{file}.sqlite")
    with sqlite3.connect(database) as connection:
        connection.execute("create table readings (station integer, year integer, value real, image blob)")
        rows = ((n % 100, 1985 + n // 100, numbers.random(), numbers.randbytes(size)) for n in range(4000))
        connection.executemany("insert into readings values (?, ?, ?, ?)", rows)
    connection.close()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(database, "reference.sqlite")
    database.unlink()
