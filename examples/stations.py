"""What was there before: a job of many configurations, split, run one by one against a reference, and merged."""

import functools
import hashlib
import json
import sqlite3
import tempfile
import zipfile


def split(job):
    """The job's configurations, each with what all have in common."""
    return [{**job["common"], **own} for own in job["configurations"]]


def merge(job, results):
    """One text of all results; raises the first that is an exception."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    return json.dumps({"name": job["name"], "results": list(results)}, indent=1)


def run(configuration, attempt):
    """The mean of a station's readings. Now and then, in 5 % of all attempts, there is no answer: OSError."""
    if _draw(configuration, attempt) < 0.05:
        raise TimeoutError(f"attempt {attempt}: no answer")
    query = "select avg(value) from readings where station = ? and year between ? and ?"
    (mean,) = _database().execute(query, [configuration["station"], *configuration["years"]]).fetchone()
    return {**configuration, "mean": mean * configuration["scale"]}


@functools.cache
def _database():
    """The reference, which lies in the working directory; unpacked once in a process."""
    with zipfile.ZipFile("reference.zip") as archive, tempfile.TemporaryDirectory() as place:
        return sqlite3.connect(archive.extract("reference.sqlite", place))


def _draw(configuration, attempt):
    """A number from 0 to 1, always the same for the same attempt."""
    digest = hashlib.sha256(json.dumps([configuration, attempt]).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
