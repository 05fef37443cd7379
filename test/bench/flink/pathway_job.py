"""pathway_job.py QUERY DIRECTORY STATE [OUTPUT]

One of the queries in Pathway's own words, over the files of DIRECTORY, with
its state and input kept in STATE each second; the result goes nowhere, or as
its changes into the file OUTPUT. Prints milliseconds of the run, those of CPU,
and the most memory in kB. Importing and building the graph do not count.

The files begin with a line of column names, which Pathway wants. They are read in its static mode, in few batches, which is the fastest
there is. Its connectors deliver at least once (exactly once is not in the free
edition), so this does less than the others.
"""
import resource
import sys
import time

import pathway as pw


# id is a word of Pathway's own: number
class clicks(pw.Schema):
    user_id: int
    url: str
    amount: float
    ts: str


class person(pw.Schema):
    number: int
    name: str
    email_address: str
    credit_card: str
    city: str
    state: str
    date_time: str
    extra: str


class auction(pw.Schema):
    number: int
    item_name: str
    description: str
    initial_bid: int
    reserve: int
    date_time: str
    expires: str
    seller: int
    category: int
    extra: str


class bid(pw.Schema):
    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    date_time: str
    extra: str


this = pw.this
count, total = pw.reducers.count, pw.reducers.sum


def read(schema):
    return pw.io.csv.read(f"{directory}/headed/{schema.__name__}", schema=schema, mode="static",
                          csv_settings=pw.io.csv.CsvParserSettings(delimiter="\t"))


def moment(text):
    return text.dt.strptime("%Y-%m-%d %H:%M:%S.%3f")


def query_clicks():
    rows = read(clicks).select(this.url, this.amount, minute=moment(this.ts).dt.floor("1min"))
    return rows.groupby(this.minute, this.url).reduce(this.minute, this.url, clicks=count(), total=total(this.amount))


def query_q3():
    sellers = read(person).filter((this.state == "OR") | (this.state == "ID") | (this.state == "CA"))
    auctions = read(auction).filter(this.category == 10)
    return auctions.join(sellers, pw.left.seller == pw.right.number).select(pw.right.name, pw.right.city, pw.right.state, pw.left.number)


def query_q4():
    # times of the same form are in the order of their texts
    joined = read(auction).join(read(bid), pw.left.number == pw.right.auction).select(
        pw.left.number, pw.left.category, pw.right.price, opened=pw.left.date_time, expires=pw.left.expires, bid_at=pw.right.date_time)
    within = joined.filter((this.bid_at >= this.opened) & (this.bid_at <= this.expires))
    closing = within.groupby(this.number, this.category).reduce(this.category, final=pw.reducers.max(this.price))
    return closing.groupby(this.category).reduce(this.category, average=pw.reducers.avg(this.final))


def query_q17():
    rows = read(bid).select(this.auction, this.price, day=moment(this.date_time).dt.floor("1D"),
                            low=pw.cast(int, this.price < 10000), high=pw.cast(int, this.price >= 1000000))
    grouped = rows.groupby(this.auction, this.day).reduce(
        this.auction, this.day, bids=count(), bids_low=total(this.low), bids_high=total(this.high),
        lowest=pw.reducers.min(this.price), highest=pw.reducers.max(this.price), total=total(this.price))
    return grouped.select(this.auction, this.day, this.bids, this.bids_low, bids_middle=this.bids - this.bids_low - this.bids_high,
                          bids_high=this.bids_high, lowest=this.lowest, highest=this.highest, average=this.total / this.bids, total=this.total)


query, directory, state = sys.argv[1:4]
result = globals()["query_" + query]()
if len(sys.argv) > 4:
    pw.io.csv.write(result, sys.argv[4])
else:
    pw.io.null.write(result)
before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
pw.run(monitoring_level=pw.MonitoringLevel.NONE,
       persistence_config=pw.persistence.Config(pw.persistence.Backend.filesystem(state), snapshot_interval_ms=1000))
after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(round((ended - began) * 1000), round(cpu * 1000), after.ru_maxrss)
