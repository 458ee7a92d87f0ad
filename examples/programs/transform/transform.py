"""A program that was there before: transform.py INPUT OUTPUT cleans one CSV file of measurements.

It has its requirements beside it, and has never heard of batchexec.
"""

import argparse
import csv
import time

import inflection


def main():
    parser = argparse.ArgumentParser(description="Clean a CSV file: plain column names, and a column of sums.")
    parser.add_argument("input")
    parser.add_argument("output")
    options = parser.parse_args()
    with open(options.input, newline="") as file:
        names, *rows = csv.reader(file)
    time.sleep(0.1)  # it asks a slow service
    with open(options.output, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(inflection.underscore(name) for name in names), "sum"])
        writer.writerows([*row, f"{sum(map(float, row)):.6f}"] for row in rows)


if __name__ == "__main__":
    main()
