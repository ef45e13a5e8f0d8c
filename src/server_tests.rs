//! Tests that run inside a server (`cargo pgrx test`): what SQL from outside cannot ask.

use crate::am::body::{BodyReader, BodyWriter, Location, NO_BLOCK, PIECE};
use crate::am::tid::{self, MAX_SEGMENT, Place};
use crate::am::{companion, datum, directory, tombstone};
use crate::jobs::schedule::Schedule;
use crate::pg::cursor::Cursor;
use crate::pg::guard;
use crate::pg::relation::{self, OpenRel};
use crate::pg::snapshot::{Registered, Statement};
use crate::pg::spi::Connection;
use crate::pg::zone::Zone;
use crate::scan::left_out;
use pgrx::prelude::*;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use varve_core::Kind;

#[pg_schema]
mod tests {
    use super::*;

    fn table(name: &str) -> OpenRel {
        let namespace = Spi::get_one::<pg_sys::Oid>("SELECT 'public'::regnamespace::oid")
            .unwrap()
            .unwrap();
        OpenRel::table(
            relation::lookup(name, namespace).unwrap(),
            pg_sys::AccessShareLock,
        )
    }

    /// Freezes rows that this very transaction wrote, which only `varve.debug_freeze` does.
    fn frozen_table(definition: &str) {
        Spi::run("SET LOCAL varve.debug_freeze = commit").unwrap();
        Spi::run(definition).unwrap();
        crate::am::inplace::freeze_written();
    }

    #[pg_test]
    fn item_pointers_name_every_frozen_row_once() {
        for segment in [0, 1, 15, 16, 65_535, MAX_SEGMENT - 1, MAX_SEGMENT] {
            for row in [0, 1, 4_094, 4_095, 4_096, 65_534, 65_535] {
                let place = Place { segment, row };
                let tid = tid::encode(place);
                assert_eq!(tid::decode(&tid), Some(place));
                // SAFETY: a valid item pointer.
                assert!(unsafe { pg_sys::ItemPointerIsValid(&tid) });
            }
        }
        assert_eq!(tid::decode(&crate::pg::tuple::make_tid(7, 1)), None);
    }

    fn instant(text: &str) -> pg_sys::TimestampTz {
        let time = Spi::get_one_with_args::<TimestampWithTimeZone>(
            "SELECT $1::timestamptz",
            &[text.into()],
        );
        time.unwrap().unwrap().into()
    }

    /// The times at which a job is due after `from`.
    fn due(schedule: &str, zone: &str, first: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let zone = Zone::named(zone).unwrap();
        let first = instant(first);
        let mut now = instant(from);
        (0..count)
            .map(|_| {
                now = schedule.next(zone, first, now).unwrap();
                let time = TimestampWithTimeZone::try_from(now).unwrap();
                Spi::get_one_with_args::<String>(
                    "SELECT to_char($1 AT TIME ZONE 'UTC', 'MM-DD HH24:MI:SS')",
                    &[time.into()],
                )
                .unwrap()
                .unwrap()
            })
            .collect()
    }

    /// In Berlin the clock goes from 02:00 to 03:00 on 2026-03-29 (01:00 UTC), and back from 03:00 to 02:00 on 2026-10-25.
    #[pg_test]
    fn schedules_and_clocks_that_are_set() {
        let daily = |from| due("30 2 * * *", "Europe/Berlin", from, from, 3);
        // 02:30 does not come on that day: the job runs when the clock has been set forward.
        assert_eq!(
            daily("2026-03-27 12:00Z"),
            ["03-28 01:30:00", "03-29 01:00:00", "03-30 00:30:00"]
        );
        // It comes twice, and the job runs once.
        assert_eq!(
            daily("2026-10-23 12:00Z"),
            ["10-24 00:30:00", "10-25 00:30:00", "10-26 01:30:00"]
        );
        // What runs by the hour does so every hour.
        assert_eq!(
            due(
                "0 * * * *",
                "Europe/Berlin",
                "2026-10-24 23:30Z",
                "2026-10-24 23:30Z",
                4
            ),
            [
                "10-25 00:00:00",
                "10-25 01:00:00",
                "10-25 02:00:00",
                "10-25 03:00:00"
            ]
        );
        assert_eq!(
            due(
                "*/20 * * * * *",
                "UTC",
                "2026-01-01 00:00Z",
                "2026-01-01 00:00:19.5Z",
                3
            ),
            ["01-01 00:00:20", "01-01 00:00:40", "01-01 00:01:00"]
        );
        assert_eq!(
            due(
                "0 9 L * *",
                "Asia/Tokyo",
                "2026-01-01 00:00Z",
                "2026-01-31 12:00Z",
                2
            ),
            ["02-28 00:00:00", "03-31 00:00:00"]
        );
        // Intervals are multiples from the first time on, by the clock of the zone.
        assert_eq!(
            due(
                "1 day",
                "Europe/Berlin",
                "2026-03-27 11:00Z",
                "2026-03-27 11:00Z",
                3
            ),
            ["03-28 11:00:00", "03-29 10:00:00", "03-30 10:00:00"]
        );
        assert_eq!(
            due(
                "1 month",
                "UTC",
                "2026-01-31 00:00Z",
                "2026-01-31 00:00Z",
                3
            ),
            ["02-28 00:00:00", "03-31 00:00:00", "04-30 00:00:00"]
        );
        assert_eq!(
            due(
                "90 seconds",
                "UTC",
                "1990-01-01 00:00Z",
                "2026-01-01 00:00:01Z",
                2
            ),
            ["01-01 00:01:30", "01-01 00:03:00"]
        );
        // What has its first time before it.
        assert_eq!(
            due("1 hour", "UTC", "2026-05-01 00:00Z", "2026-01-01 00:00Z", 2),
            ["05-01 00:00:00", "05-01 01:00:00"]
        );
    }

    #[pg_test]
    fn a_segment_is_stored_and_found() {
        frozen_table(
            "CREATE TABLE public.s (a int, b text, c float8) USING varve;
             INSERT INTO public.s SELECT i, CASE WHEN i % 3 > 0 THEN 'b' || i END, i / 4.0 FROM generate_series(1, 1000) i",
        );
        let table = table("s");
        let companion = companion::of(table.as_ptr()).unwrap();
        let latest = Registered::latest();
        let segments = directory::load(table.as_ptr(), &companion, latest.get());
        assert_eq!(segments.len(), 1);
        assert_eq!(segments[0].header.rows, 1000);
        let attnums: Vec<u16> = segments[0]
            .header
            .columns
            .iter()
            .map(|c| c.attnum)
            .collect();
        assert_eq!(attnums, [1, 2, 3]);
        assert_eq!(segments[0].page_rows(0), 0..1000);
        let decoded = directory::Decoded::new(table.as_ptr(), &segments[0], 0, |i| i == 1);
        assert!(decoded.columns[0].is_none());
        let nulls = (0..1000)
            .filter(|row| decoded.columns[1].as_ref().unwrap().get(*row).is_none())
            .count();
        assert_eq!(nulls, 333);
    }

    #[pg_test]
    fn a_thaw_leaves_one_tombstone() {
        frozen_table(
            "CREATE TABLE public.s (a int PRIMARY KEY) USING varve;
             INSERT INTO public.s SELECT generate_series(1, 10)",
        );
        Spi::run("UPDATE public.s SET a = a + 100 WHERE a = 4").unwrap();
        let table = table("s");
        let companion = companion::of(table.as_ptr()).unwrap();
        let latest = Registered::latest();
        let thawed = directory::tombstones(&companion, latest.get());
        assert_eq!(thawed.len(), 1);
        let place = Place { segment: 0, row: 3 };
        assert_eq!(thawed[&0], [place.row]);
        assert!(
            tombstone::find(&companion, place)
                .unwrap()
                .running
                .is_none()
        );
        let rows = Spi::get_one::<i64>("SELECT count(*) FROM public.s").unwrap();
        assert_eq!(rows, Some(10));
    }

    #[pg_test]
    fn a_column_of_another_form_is_refused() {
        Spi::run("CREATE TABLE public.s (a int, b bigint, c float8, d text, e uuid, f name)")
            .unwrap();
        let table = table("s");
        let desc = relation::tupdesc(table.as_ptr());
        let kinds = [
            Kind::I32,
            Kind::I64,
            Kind::F64,
            Kind::Bytes,
            Kind::Fixed { len: 16 },
            Kind::Fixed { len: 64 },
        ];
        for (i, own) in kinds.iter().enumerate() {
            let attr = relation::attribute(desc, i);
            for kind in kinds {
                let same_length =
                    matches!((own, kind), (Kind::I64, Kind::F64) | (Kind::F64, Kind::I64));
                let fits = datum::check_kind(attr, kind).is_ok();
                assert_eq!(fits, kind == *own || same_length, "{own:?} and {kind:?}");
            }
        }
    }

    #[pg_test]
    fn a_body_is_read_piece_by_piece_wherever_it_lies() {
        Spi::run("CREATE TABLE public.s (a int) USING varve; INSERT INTO public.s VALUES (1)")
            .unwrap();
        let table = table("s");
        let companion = companion::create(table.as_ptr(), relation::oid(table.as_ptr()));
        let writer = BodyWriter::new(companion.segments, false);
        let bytes: Vec<u8> = (0..3 * PIECE + 100).map(|i| (i * 7 % 251) as u8).collect();
        let (head, tail) = bytes.split_at(5000);
        let location = Location {
            segment: 4,
            first_block: writer.write_body(4, &[head, &[], tail]),
            // SAFETY: the transaction that has just written.
            writer: unsafe { pg_sys::GetCurrentTransactionId() },
        };
        drop(writer);
        let reader = BodyReader::new(&companion);
        let nowhere = Location {
            first_block: NO_BLOCK,
            ..location
        };
        let wrong = Location {
            first_block: location.first_block + 1,
            ..location
        };
        let other = Location {
            writer: pg_sys::FrozenTransactionId,
            ..location
        };
        for location in [location, nowhere, wrong, other] {
            for range in [
                0..1,
                0..bytes.len(),
                10..PIECE,
                PIECE - 1..2 * PIECE + 1,
                3 * PIECE..3 * PIECE + 100,
            ] {
                let mut found = Vec::new();
                reader.read(location, range.clone(), &mut found).unwrap();
                assert_eq!(found, bytes[range.clone()]);
                let mut scratch = vec![1, 2, 3];
                let found =
                    reader.with_range(location, range.clone(), &mut scratch, <[u8]>::to_vec);
                assert_eq!(found.unwrap(), bytes[range]);
            }
            for range in [3 * PIECE + 50..3 * PIECE + 101, 3 * PIECE..4 * PIECE + 1] {
                let beyond = reader.with_range(location, range, &mut Vec::new(), <[u8]>::to_vec);
                assert!(beyond.unwrap_err().contains("too short"));
            }
            let beyond = reader.read(location, 0..bytes.len() + 1, &mut Vec::new());
            assert!(beyond.unwrap_err().contains("too short"));
            let beyond = reader.read(location, 4 * PIECE..4 * PIECE + 1, &mut Vec::new());
            assert!(beyond.unwrap_err().contains("missing"));
        }
    }

    #[pg_test]
    fn errors_keep_the_name_of_the_constraint() {
        Spi::run(
            "CREATE TABLE public.s (a int) USING varve; INSERT INTO public.s VALUES (1), (1);
             CREATE FUNCTION public.build() RETURNS text LANGUAGE plpgsql AS $$
             DECLARE name text;
             BEGIN
                 CREATE UNIQUE INDEX s_a ON public.s (a);
             EXCEPTION WHEN unique_violation THEN
                 GET STACKED DIAGNOSTICS name = CONSTRAINT_NAME;
                 RETURN name;
             END $$",
        )
        .unwrap();
        let name = Spi::get_one::<String>("SELECT public.build()").unwrap();
        assert_eq!(name.as_deref(), Some("s_a"));
    }

    /// A query that is planned without some tables; others at the same time, and after one that could not be planned.
    #[pg_test]
    fn what_is_left_out_of_a_query() {
        Spi::run("CREATE TABLE public.a AS SELECT generate_series(1, 3) AS n; CREATE TABLE public.b AS TABLE public.a")
            .unwrap();
        let [a, b] = ["a", "b"].map(|name| relation::oid(table(name).as_ptr()));
        // What was just inserted is seen.
        let _statement = Statement::begin();
        let connection = Connection::open();
        let count = |query: &str, params| {
            let mut rows = 0;
            // SAFETY: NULL or the list of this query.
            let mut cursor = unsafe { Cursor::open_with(&connection, query, params) };
            while !cursor.ended() {
                cursor.fetch(10, 1, &mut |_| rows += 1);
            }
            rows
        };
        let none = std::ptr::null_mut();
        let from_a = "SELECT n FROM public.a";
        let both = HashSet::from([a, b]);
        let found = left_out::without(&both, |params| count(from_a, params));
        assert_eq!(found, (0, HashSet::from([a])));
        let found = left_out::without(&both, |_| count(from_a, none));
        assert_eq!(found, (3, HashSet::new()));
        let within = left_out::without(&HashSet::from([a]), |params| {
            let found = left_out::without(&HashSet::from([b]), |params| count(from_a, params));
            assert_eq!(found, (3, HashSet::new()));
            count("SELECT n FROM public.a UNION ALL TABLE public.b", params)
        });
        assert_eq!(within, (3, HashSet::from([a])));
        let mut last = none;
        let failed = guard::attempt(
            AssertUnwindSafe(|| {
                left_out::without(&both, |params| {
                    last = params;
                    count("SELECT n FROM public.a WHERE n = 1 / 0", params)
                })
            }),
            |_| true,
        );
        assert_eq!(failed.unwrap_err(), "division by zero");
        assert!(!last.is_null());
        assert_eq!(count(from_a, last), 3);
    }
}
