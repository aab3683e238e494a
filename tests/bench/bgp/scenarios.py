"""What is measured, and what bgpd must reach in it. The goals are those of docs/benchmarks.md, each a row of its first table."""
from collections import namedtuple

# mode, senders and receivers in the speaker's configuration, IPv6, what bgpload does, what it is.
Scenario = namedtuple("Scenario", "mode senders receivers v6 args title")

SCENARIOS = {
    "A": Scenario("ebgp", 1, 2, False, "load --prefixes 1000000 --late --withdraw explicit",
                  "1,000,000 internet-like IPv4 prefixes, one sender, one receiver; then one that joins late; then (F) withdrawal"),
    "B": Scenario("ebgp", 10, 1, False, "load --senders 10 --prefixes 100000 --same --withdraw session",
                  "ten senders of the same 100,000 prefixes, one receiver; then the senders go"),
    "C": Scenario("ibgp", 500, 0, False, "mass --clients 500 --prefixes 10 --churn 100",
                  "a reflector with 500 clients of 10 blocks each, sessions up first; then single blocks; then one client dies"),
    "C11": Scenario("ibgp", 500, 0, False, "mass --clients 500 --prefixes 10 --churn 100 --quiet-ms 11000",
                    "as C, with sessions that have been up for 11 s"),
    "Ccold": Scenario("ibgp", 500, 0, False, "mass --clients 500 --prefixes 10 --cold --churn 5",
                      "as C, from the first connect: every client announces as its session comes up"),
    "D": Scenario("ebgp", 1, 1, False, "load --prefixes 200000 --latency 2000 --withdraw none",
                  "one prefix at a time with 200,000 loaded"),
    "E": Scenario("ibgp", 1, 1, True, "load --v6 --prefixes 250000 --withdraw explicit",
                  "250,000 IPv6 prefixes through a reflector, over an IPv4 session"),
    "M": Scenario("ibgp", 1000, 0, False, "mass --clients 1000 --prefixes 100 --churn 20",
                  "a reflector with 1,000 clients of 100 blocks each"),
    "S": Scenario("ebgp", 1, 3, False, "load --prefixes 1000000 --stalled 2 --withdraw none",
                  "as A, with two more receivers that read nothing"),
    "H": Scenario("ebgp", 130, 1, False, "hostile --wait 0.6", "malformed input from eBGP peers"),
    "Hi": Scenario("ibgp", 12, 1, False, "hostile --wait 0.6", "malformed input from clients of a reflector"),
}

# Which of the rivals a measured value is divided by: one by name, or whichever is best.
BEST = "the best of the others"
# Not against a rival: the value itself, or against our own in another scenario.
AT_MOST, AT_LEAST = "at most", "at least"

Goal = namedtuple("Goal", "scenario what field against limit")

GOALS = [
    Goal("A", "load, wall time", "load.all_s", "bird", 0.5),
    Goal("A", "load, CPU time", "load.cpu_s", "bird", 0.8),
    Goal("A", "resident octets a prefix", "mem.bytes_per_prefix", AT_MOST, 100),
    Goal("A", "prefixes an UPDATE sent", "load.nlri_per_update", AT_LEAST, 5.5),
    Goal("A", "a receiver that joins late", "late_joiner.all_s", BEST, 0.35),
    Goal("A", "F: all withdrawn", "withdraw.all_s", "bird", 0.55),
    Goal("B", "until the last best path is known", "load.last_change_s", "bird", 0.5),
    Goal("B", "resident octets a path", "mem.bytes_per_path", AT_MOST, 60),
    Goal("B", "share of best paths right", "best_path_ok", AT_LEAST, 1.0),
    Goal("C", "all announce at once, wall time", "converge.all_s", "bird", 0.15),
    Goal("C", "all announce at once, CPU time", "converge.cpu_s", "bird", 0.15),
    Goal("C", "one new block to all, median", "churn_to_all.p50_us", "bird", 0.65),
    Goal("C", "500 sessions up", "sessions.all_up_s", "bird", 0.1),
    Goal("C11", "settled sessions, wall time", "converge.all_s", "bird", 0.15),
    Goal("C11", "settled sessions, CPU time", "converge.cpu_s", "bird", 0.15),
    Goal("C11", "settled sessions, wall time", "converge.all_s", "frr", 1.2),
    Goal("C11", "settled sessions, CPU time", "converge.cpu_s", "frr", 1.2),
    Goal("D", "announce, median", "latency.announce.p50_us", "bird", 1.1),
    Goal("D", "announce, 99th percentile", "latency.announce.p99_us", "bird", 1.2),
    Goal("D", "withdraw, median", "latency.withdraw.p50_us", "bird", 1.1),
    Goal("D", "withdraw, 99th percentile", "latency.withdraw.p99_us", "bird", 1.2),
    Goal("E", "load, wall time", "load.all_s", "bird", 0.5),
    Goal("E", "resident octets a prefix", "mem.bytes_per_prefix", AT_MOST, 120),
    Goal("M", "wall time per delivered prefix, against C", "per_delivery.all_us", "C", 1.0),
    Goal("M", "CPU time per delivered prefix, against C", "per_delivery.cpu_us", "C", 1.0),
    Goal("S", "the receiver that reads, against A", "load.all_s", "A", 1.2),
    Goal("S", "resident octets a prefix", "mem.bytes_per_prefix", AT_MOST, 100),
    Goal("H", "rows right, of 113", "right", AT_LEAST, 113),
    Goal("Hi", "rows right, of 8", "right", AT_LEAST, 8),
]

# Columns of the table of each scenario: title, field, unit.
COLUMNS = {
    "A": [("load s", "load.all_s"), ("CPU s", "load.cpu_s"), ("octets/prefix", "mem.bytes_per_prefix"),
          ("peak KiB", "mem.peak_kb"), ("prefixes/UPDATE", "load.nlri_per_update"), ("late joiner s", "late_joiner.all_s"),
          ("F: withdraw s", "withdraw.all_s"), ("withdraw CPU s", "withdraw.cpu_s"), ("tool CPU s", "load.tool_cpu_s")],
    "B": [("all known s", "load.all_s"), ("last change s", "load.last_change_s"), ("CPU s", "load.cpu_s"),
          ("octets/path", "mem.bytes_per_path"), ("best paths right", "best_path_ok"), ("repeats", "load.repeats"),
          ("senders gone s", "withdraw.all_s"), ("tool CPU s", "load.tool_cpu_s")],
    "C": [("converge s", "converge.all_s"), ("CPU s", "converge.cpu_s"), ("tool CPU s", "converge.tool_cpu_s"),
          ("sessions up s", "sessions.all_up_s"), ("RSS KiB", "converge.rss_kb"), ("new block p50 us", "churn_to_all.p50_us"),
          ("p99 us", "churn_to_all.p99_us"), ("node loss s", "node_loss.all_s")],
    "D": [("announce p50 us", "latency.announce.p50_us"), ("p99 us", "latency.announce.p99_us"),
          ("withdraw p50 us", "latency.withdraw.p50_us"), ("p99 us", "latency.withdraw.p99_us"), ("load s", "load.all_s")],
    "E": [("load s", "load.all_s"), ("CPU s", "load.cpu_s"), ("octets/prefix", "mem.bytes_per_prefix"),
          ("prefixes/UPDATE", "load.nlri_per_update"), ("withdraw s", "withdraw.all_s"), ("tool CPU s", "load.tool_cpu_s")],
    "S": [("load s", "load.all_s"), ("CPU s", "load.cpu_s"), ("octets/prefix", "mem.bytes_per_prefix"),
          ("peak KiB", "mem.peak_kb")],
    "H": [("right", "right"), ("allowed", "allowed"), ("differs", "differs"), ("crashes", "crashes")],
}
COLUMNS["C11"] = COLUMNS["Ccold"] = COLUMNS["M"] = COLUMNS["C"]
COLUMNS["Hi"] = COLUMNS["H"]
