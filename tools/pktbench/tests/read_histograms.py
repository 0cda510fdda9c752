"""Reads the output files of a run with the Python library of HdrHistogram, and checks that they agree.

    read_histograms.py RUN.hlog RUN.hgrm RESULT.json
"""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

LOG, TABLE, RESULT = sys.argv[1:]
HOUR_NS = 3600 * 10**9


def logged(tag):
    """The sum of all intervals with a tag."""
    total = HdrHistogram(1, HOUR_NS, 3)
    reader = HistogramLogReader(LOG, HdrHistogram(1, HOUR_NS, 3))
    while histogram := reader.get_next_interval_histogram():
        if histogram.get_tag() == tag:
            total.add(histogram)
    return total


def check(name, found, expected):
    assert found == expected, f"{name}: found {found}, but the document has {expected}"


with open(RESULT) as file:
    latencies = json.load(file)["latency_ns"]
for tag in ["service", "response"]:
    latency = latencies[tag]
    for source, histogram in [("log", logged(tag)), ("document", HdrHistogram.decode(latency["hdr_v2"]))]:
        name = f"{tag} of the {source}"
        check(f"{name}, count", histogram.get_total_count(), latency["count"])
        check(f"{name}, max", histogram.get_max_value(), latency["max"])
        for percent, ns in latency["percentiles"]:
            check(f"{name}, p{percent}", histogram.get_value_at_percentile(percent), ns)

with open(TABLE) as file:
    rows = [line.split() for line in file if line.strip() and not line.startswith("#")]
check("columns", rows[0], ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"])
value_ms, percentile, count = rows[-1]
check("the last row", (float(value_ms), percentile, int(count)),
      (round(latencies["response"]["max"] / 1e6, 6), "1.000000000000", latencies["response"]["count"]))
