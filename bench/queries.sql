-- The queries that varve is measured by. Each stands in one line below its name and its target: how long varve may take
-- at most, as a ratio to the same query on heap in the same run. The reference is what it took on heap on the machine that the
-- targets in rows per second come from: it tells how that machine compares to this one.

-- name: c01_count
-- target: 0.004
-- reference: 91 ms
SELECT count(*) FROM cpu;

-- name: c02_avg1
-- target: 0.05
-- reference: 125 ms
SELECT avg(usage_user) FROM cpu;

-- name: c03_minmaxavg5_by_host
-- target: 0.08
-- reference: 380 ms
SELECT hostname, min(usage_user), max(usage_system), avg(usage_idle), avg(usage_nice), max(usage_iowait) FROM cpu GROUP BY hostname;

-- name: c04_double_groupby_1
-- target: 0.1
-- reference: 78 ms
SELECT time_bucket('1 hour', time) b, hostname, avg(usage_user) FROM cpu WHERE time >= '2025-01-06 06:00+00' AND time < '2025-01-06 18:00+00' GROUP BY 1,2;

-- name: c05_double_groupby_5
-- target: 0.15
-- reference: 104 ms
SELECT time_bucket('1 hour', time) b, hostname, avg(usage_user), avg(usage_system), avg(usage_idle), avg(usage_nice), avg(usage_iowait) FROM cpu WHERE time >= '2025-01-06 06:00+00' AND time < '2025-01-06 18:00+00' GROUP BY 1,2;

-- name: c06_double_groupby_all
-- target: 0.2
-- reference: 615 ms
SELECT time_bucket('1 hour', time) b, hostname, avg(usage_user), avg(usage_system), avg(usage_idle), avg(usage_nice), avg(usage_iowait), avg(usage_irq), avg(usage_softirq), avg(usage_steal), avg(usage_guest), avg(usage_guest_nice) FROM cpu GROUP BY 1,2;

-- name: c07_single_groupby_1_1_1
-- target: 0.6
-- reference: 0.50 ms
SELECT time_bucket('1 minute', time) b, max(usage_user) FROM cpu WHERE hostname = 'host_7' AND time >= '2025-01-07 03:00+00' AND time < '2025-01-07 04:00+00' GROUP BY 1 ORDER BY 1;

-- name: c08_single_groupby_5_8_1
-- target: 0.25
-- reference: 5.7 ms
SELECT time_bucket('1 minute', time) b, max(usage_user), max(usage_system), max(usage_idle), max(usage_nice), max(usage_iowait) FROM cpu WHERE hostname IN ('host_1','host_9','host_17','host_33','host_41','host_56','host_73','host_99') AND time >= '2025-01-07 03:00+00' AND time < '2025-01-07 04:00+00' GROUP BY 1 ORDER BY 1;

-- name: c09_cpu_max_all_8
-- target: 0.12
-- reference: 45 ms
SELECT time_bucket('1 hour', time) b, max(usage_user), max(usage_system), max(usage_idle), max(usage_nice), max(usage_iowait), max(usage_irq), max(usage_softirq), max(usage_steal), max(usage_guest), max(usage_guest_nice) FROM cpu WHERE hostname IN ('host_1','host_9','host_17','host_33','host_41','host_56','host_73','host_99') AND time >= '2025-01-06 08:00+00' AND time < '2025-01-06 16:00+00' GROUP BY 1 ORDER BY 1;

-- name: c10_lastpoint
-- target: 0.002
-- reference: 2489 ms
SELECT DISTINCT ON (hostname) * FROM cpu ORDER BY hostname, time DESC;

-- name: c11_groupby_orderby_limit
-- target: 1.5
-- reference: 0.62 ms
SELECT time_bucket('1 minute', time) b, max(usage_user) FROM cpu WHERE time < '2025-01-08 11:22:40+00' GROUP BY 1 ORDER BY 1 DESC LIMIT 5;

-- name: c12_high_cpu_all
-- target: 0.4
-- reference: 64 ms
SELECT * FROM cpu WHERE usage_user > 90 AND time >= '2025-01-07 02:00+00' AND time < '2025-01-07 14:00+00';

-- name: c13_high_cpu_1
-- target: 0.2
-- reference: 3.3 ms
SELECT * FROM cpu WHERE usage_user > 90 AND hostname = 'host_33' AND time >= '2025-01-07 02:00+00' AND time < '2025-01-07 14:00+00';

-- name: c14_point
-- target: 1.2
-- reference: 0.17 ms
SELECT * FROM cpu WHERE hostname = 'host_42' AND time = '2025-01-07 12:34:50+00';

-- name: c15_one_host_day
-- target: 0.3
-- reference: 11.1 ms
SELECT * FROM cpu WHERE hostname = 'host_42' AND time >= '2025-01-07' AND time < '2025-01-08' ORDER BY time;

-- name: c16_sum4_all
-- target: 0.1
-- reference: 172 ms
SELECT sum(usage_user), sum(usage_system), sum(usage_idle), sum(usage_nice) FROM cpu;

-- name: b01_daily_ohlcv
-- target: 0.04
-- reference: 8452 ms
SELECT symbol, time_bucket('1 day', ts) d, first(open, ts), max(high), min(low), last(close, ts), sum(volume) FROM bars GROUP BY 1,2;

-- name: b02_top10_volume_week
-- target: 0.03
-- reference: 145 ms
SELECT symbol, sum(volume) v FROM bars WHERE ts >= '2025-02-03' AND ts < '2025-02-10' GROUP BY 1 ORDER BY v DESC LIMIT 10;

-- name: b03_filter_nonkey_count
-- target: 0.05
-- reference: 503 ms
SELECT count(*) FROM bars WHERE close BETWEEN 1000 AND 1010;

-- name: b04_vwap_symbol_month
-- target: 0.06
-- reference: 518 ms
SELECT symbol, sum(close*volume)/sum(volume) FROM bars WHERE ts >= '2025-02-01' AND ts < '2025-03-01' GROUP BY 1;

-- name: b05_one_symbol_all
-- target: 0.15
-- reference: 36 ms
SELECT * FROM bars WHERE symbol = 'S0123' ORDER BY ts;

-- name: b06_minmax_time
-- target: 1.5
-- reference: 0.37 ms
SELECT min(ts), max(ts) FROM bars;

-- name: b07_distinct_symbols
-- target: 0.05
-- reference: 48 ms
SELECT count(DISTINCT symbol) FROM bars;

-- name: b08_weekly_range
-- target: 0.02
-- reference: 6865 ms
SELECT symbol, time_bucket('7 days', ts) w, max(high), min(low) FROM bars GROUP BY 1,2;
