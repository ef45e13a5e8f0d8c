//! Settings that change plans and answers, the same on both sides.

use super::rng::Rng;
use super::step::{Step, Who};

/// One setting at a time.
const SINGLE: &[&str] = &[
    "SET enable_seqscan = off",
    "SET enable_indexscan = off",
    "SET enable_bitmapscan = off",
    "SET enable_hashjoin = off",
    "SET enable_nestloop = off",
    "SET enable_mergejoin = off",
    "SET enable_hashagg = off",
    "SET enable_sort = off",
    "SET enable_incremental_sort = off",
    "SET enable_memoize = off",
    "SET enable_material = off",
    "SET enable_presorted_aggregate = off",
    "SET enable_partitionwise_aggregate = on",
    "SET enable_partitionwise_join = on",
    "SET plan_cache_mode = force_generic_plan",
    "SET plan_cache_mode = force_custom_plan",
    "SET debug_parallel_query = on",
    "SET work_mem = '64kB'",
    "SET hash_mem_multiplier = 1",
    "SET cursor_tuple_fraction = 1",
    "SET timezone = 'Europe/Berlin'",
    "SET timezone = 'America/St_Johns'",
    "SET varve.enable_columnar_scan = off",
    "SET varve.enable_columnar_aggregate = off",
    "SET varve.upsert_merge_rows = 0",
    "SET varve.upsert_merge_rows = 10",
    "RESET varve.upsert_merge_rows",
    "RESET enable_seqscan",
    "RESET enable_indexscan",
    "RESET enable_bitmapscan",
    "RESET enable_hashagg",
    "RESET enable_sort",
    "RESET enable_memoize",
    "RESET plan_cache_mode",
    "RESET debug_parallel_query",
    "RESET work_mem",
    "RESET timezone",
    "DISCARD PLANS",
];

/// Settings that belong together. Those of one kind undo each other.
const BUNDLES: &[&str] = &[
    // Joins of one kind.
    "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_nestloop = on",
    "SET enable_hashjoin = off; SET enable_mergejoin = on; SET enable_nestloop = off",
    "SET enable_hashjoin = on; SET enable_mergejoin = off; SET enable_nestloop = off",
    "RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_nestloop",
    // Parallel plans wherever there can be one. The leader takes part: without it, a parallel ChunkAppend of
    // TimescaleDB's that excludes chunks while it runs reads none of them (on heap, too).
    "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2",
    "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 3; SET varve.enable_columnar_aggregate = off",
    "RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET max_parallel_workers_per_gather",
    // Groups in order, and groups that do not fit.
    "SET enable_hashagg = off; SET enable_sort = on",
    "SET enable_hashagg = on; SET work_mem = '64kB'; SET hash_mem_multiplier = 1",
    // Nothing but grouping by columns, where that can be done.
    "SET enable_hashagg = off; SET enable_sort = off; SET varve.enable_columnar_aggregate = on",
    "SET enable_hashagg = off; SET enable_sort = off; SET work_mem = '64kB'",
    // Frozen rows by columns again.
    "SET varve.enable_columnar_scan = on; SET varve.enable_columnar_aggregate = on",
    "RESET ALL",
];

/// A change of settings.
pub fn setting(who: Who, rng: &mut Rng) -> Step {
    let sql = if rng.chance(50) {
        rng.pick(SINGLE)
    } else {
        rng.pick(BUNDLES)
    };
    Step::new(who, *sql)
}
