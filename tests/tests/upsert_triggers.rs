//! Batches within triggers and transactions, and triggers that see batches, beside INSERT … ON CONFLICT on heap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use varve_tests::both_ways::Do::{Batch, Each, Ignore};
use varve_tests::both_ways::{Case, ROWS, check, hypertable, rows, start};

const LOGGED: &str = "CREATE TABLE log (what text, old jsonb, new jsonb);
    CREATE FUNCTION log_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO s.log VALUES (concat_ws(' ', TG_NAME, TG_OP), to_jsonb(OLD), to_jsonb(NEW)); RETURN NEW; END $$;
    CREATE FUNCTION log_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO s.log VALUES (concat_ws(' ', TG_NAME, TG_OP)); RETURN NULL; END $$;
    CREATE FUNCTION log_table() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO s.log SELECT TG_NAME || ' ' || TG_OP, NULL, jsonb_agg(r ORDER BY r::text) FROM seen r; RETURN NULL; END $$";

#[test]
fn triggers() {
    let (_cluster, mut client) = start();
    let checks: &[&str] = &["SELECT * FROM t", "SELECT * FROM log"];
    let row_triggers = format!(
        "{LOGGED}; {};
         CREATE TRIGGER before_row BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION log_row();
         CREATE TRIGGER after_row AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION log_row();
         CREATE TRIGGER before_all BEFORE INSERT OR UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION log_statement();
         CREATE TRIGGER after_all AFTER INSERT OR UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION log_statement()",
        hypertable("")
    );
    let changing = format!(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.s % 10 = 9 THEN RETURN NULL; END IF; NEW.v := NEW.v % 5; RETURN NEW; END $$; {};
         CREATE TRIGGER change BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION change()",
        hypertable("")
    );
    let columns = format!(
        "{LOGGED}; {};
         CREATE TRIGGER of_v AFTER UPDATE OF v ON t FOR EACH ROW EXECUTE FUNCTION log_row();
         CREATE TRIGGER of_w AFTER UPDATE OF w ON t FOR EACH ROW EXECUTE FUNCTION log_row();
         CREATE TRIGGER w_grows AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.w > OLD.w) EXECUTE FUNCTION log_row()",
        hypertable("w int DEFAULT 1,")
    );
    let transition = format!(
        "{LOGGED}; CREATE TABLE t (k int PRIMARY KEY, v int);
         CREATE TRIGGER inserted AFTER INSERT ON t REFERENCING NEW TABLE AS seen FOR EACH STATEMENT EXECUTE FUNCTION log_table();
         CREATE TRIGGER updated AFTER UPDATE ON t REFERENCING NEW TABLE AS seen FOR EACH STATEMENT EXECUTE FUNCTION log_table();
         CREATE TRIGGER updated_from AFTER UPDATE ON t REFERENCING OLD TABLE AS seen FOR EACH STATEMENT EXECUTE FUNCTION log_table()"
    );
    let elsewhere = "CREATE TABLE u (k int PRIMARY KEY, n int); CREATE TABLE t (k int PRIMARY KEY, v int);
         CREATE FUNCTION also() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           PERFORM varve.upsert_query('s.u', format('SELECT %s AS k, %s AS n', NEW.k % 10, NEW.v)); RETURN NEW; END $$;
         CREATE TRIGGER also BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION also()";
    let by_default = "CREATE TABLE u (k int PRIMARY KEY, n int);
         CREATE FUNCTION also() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
           PERFORM varve.upsert_query('s.u', 'SELECT i AS k, i % 2 AS n FROM generate_series(1, 40) i'); RETURN (SELECT count(*) FROM s.u); END $$;
         CREATE TABLE t (k int PRIMARY KEY, v int, w int DEFAULT also())";
    let [mixed, again] = [rows(40, 80, "i / 2 * 2"), rows(1, 80, "i / 3 * 3")];
    let batch = |source| Batch("s, ts, v", source);
    let keyed = [
        Batch("k, v", "SELECT i, i FROM generate_series(1, 60) i"),
        Batch(
            "k, v",
            "SELECT i, i / 2 * 2 FROM generate_series(40, 80) i ORDER BY md5(i::text)",
        ),
        Batch("k, v", "SELECT i, i / 2 * 2 FROM generate_series(40, 80) i"),
    ];
    let texts = [
        "SELECT i, i FROM generate_series(1, 60) i",
        "SELECT i, -i FROM generate_series(40, 80) i",
        "SELECT i, i FROM generate_series(80, 85) i UNION ALL SELECT 1085, 1",
        "SELECT i, i FROM generate_series(86, 89) i UNION ALL SELECT 1070, 1",
    ]
    .map(|rows| {
        [
            format!("SELECT varve.upsert_query('t', 'SELECT * FROM ({rows}) x (k, v)')"),
            format!("INSERT INTO t {rows} ORDER BY 1 ON CONFLICT (k) DO UPDATE SET v = excluded.v"),
        ]
    });
    let inserts = texts.each_ref().map(|[varve, heap]| Each(varve, heap));
    check(
        &mut client,
        &[
            Case {
                name: "row and statement triggers",
                setup: &row_triggers,
                key: "s, ts",
                checks,
                steps: &[
                    batch(ROWS),
                    batch(&mixed),
                    batch(&mixed),
                    Ignore("s, ts, v", &again),
                ],
                ..Case::default()
            },
            Case {
                name: "a trigger that changes rows and drops some",
                setup: &changing,
                key: "s, ts",
                steps: &[batch(ROWS), batch(&mixed), batch(&again)],
                ..Case::default()
            },
            Case {
                name: "triggers of columns, and with a condition",
                setup: &columns,
                key: "s, ts",
                checks,
                steps: &[
                    batch(ROWS),
                    batch(&mixed),
                    Batch("s, ts, w", "SELECT s, ts, s % 3 FROM (TABLE t) x"),
                    Batch("w, s, v, ts", "SELECT 2, s, v, ts FROM (TABLE t) x"),
                ],
                ..Case::default()
            },
            Case {
                name: "transition tables",
                setup: &transition,
                checks,
                steps: &keyed,
                ..Case::default()
            },
            Case {
                // A row of the batch meets one that the trigger of another has made meanwhile.
                name: "a trigger that inserts into the table",
                setup: "CREATE TABLE t (k int PRIMARY KEY, v int);
                        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                          IF pg_trigger_depth() < 2 AND NEW.k > 60 THEN INSERT INTO s.t VALUES (NEW.k + 1000, 0) ON CONFLICT DO NOTHING; END IF; RETURN NEW; END $$;
                        CREATE TRIGGER more BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION more()",
                steps: &[
                    inserts[0],
                    inserts[1],
                    inserts[2],
                    inserts[3],
                ],
                ..Case::default()
            },
            Case {
                name: "a trigger that upserts elsewhere",
                setup: elsewhere,
                checks: &["SELECT * FROM t", "SELECT k, n FROM u"],
                steps: &keyed,
                ..Case::default()
            },
            Case {
                // How often it is called is not compared: a default is computed for rows that turn out to be stored.
                name: "a default that upserts elsewhere",
                setup: by_default,
                checks: &["SELECT * FROM t", "SELECT * FROM u"],
                steps: &keyed,
                ..Case::default()
            },
        ],
    );
}

/// What a trigger raises comes through as it is.
#[test]
fn errors_of_triggers() {
    let (_cluster, mut client) = start();
    let failing = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.v = 77 THEN RAISE EXCEPTION 'no' USING ERRCODE = 'P0077'; END IF; RETURN NEW; END $$; {};
         CREATE TRIGGER refuse AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()",
        hypertable("")
    );
    let [mixed, bad] = [rows(40, 80, "i / 2 * 2"), rows(1, 99, "i / 7 * 7")];
    let batch = |source| Batch("s, ts, v", source);
    check(
        &mut client,
        &[Case {
            name: "a trigger that fails",
            setup: &failing,
            key: "s, ts",
            steps: &[batch(ROWS), batch(&bad), batch(&mixed)],
            ..Case::default()
        }],
    );
}

#[test]
fn transactions() {
    let (_cluster, mut client) = start();
    let plain = "CREATE TABLE t (k int PRIMARY KEY, v int, CONSTRAINT v_once UNIQUE (v))";
    let upsert = |from: i32, to: i32, value: &str| {
        format!(
            "SELECT i AS k, {value} AS v FROM generate_series({from}, {to}) i ORDER BY md5(i::text)"
        )
    };
    let both = |frame: &str| {
        let mut texts = [String::new(), String::new()];
        for (n, piece) in frame.split('#').enumerate() {
            if n % 2 == 0 {
                texts.iter_mut().for_each(|t| t.push_str(piece));
                continue;
            }
            let mut parts = piece.split(',');
            let mut number = || parts.next().unwrap().trim().parse::<i32>().unwrap();
            let (from, to) = (number(), number());
            let source = upsert(from, to, parts.next().unwrap());
            texts[0].push_str(&format!("varve.upsert_query('s.t', $q${source}$q$)"));
            // The rows that are stored already are not written again, so that no two versions of them are made.
            texts[1].push_str(&format!("s.put($q${source}$q$)"));
        }
        texts
    };
    let setup = format!(
        "{plain}; CREATE FUNCTION put(source text) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN
           EXECUTE format('INSERT INTO s.t SELECT k, v FROM (%s) b ORDER BY k ON CONFLICT (k) DO UPDATE SET v = excluded.v WHERE t.v IS DISTINCT FROM excluded.v', source);
           GET DIAGNOSTICS n = ROW_COUNT; RETURN n; END $$"
    );
    let frames = [
        "BEGIN; SELECT #1,60,i#; SAVEPOINT a; SELECT #30,90,i + 1000#; ROLLBACK TO a; SELECT #50,70,i#; COMMIT",
        "BEGIN; SELECT #40,100,i + 2000#; ROLLBACK",
        "BEGIN; SAVEPOINT a; SELECT #20,40,i + 3000#; SAVEPOINT b; SELECT #30,50,i + 4000#; RELEASE b; SELECT #45,55,i + 5000#; ROLLBACK TO a; SELECT #10,30,i + 6000#; COMMIT",
        // A unique violation is caught; what the block wrote before it is gone.
        "DO $d$ BEGIN PERFORM #61,65,i + 7000#; BEGIN PERFORM #61,62,i + 8000#; PERFORM #1,20,CASE i WHEN 15 THEN 7063 ELSE i END#; EXCEPTION WHEN unique_violation THEN PERFORM #66,70,i + 9000#; END; END $d$",
        // The same rows again and again within one transaction.
        "BEGIN; SELECT #1,90,i + 10000#; SELECT #1,90,i + 20000#; SELECT #1,90,i + 20000#; DELETE FROM s.t WHERE k % 3 = 0; SELECT #1,95,i + 30000#; COMMIT",
        "DO $d$ BEGIN FOR n IN 1..20 LOOP BEGIN PERFORM #1,40,i + 50#; IF random() >= 0 THEN RAISE EXCEPTION 'x'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $d$",
        "BEGIN; DELETE FROM s.t WHERE k < 50; SELECT #20,99,i + 40000#; UPDATE s.t SET v = -v WHERE k % 2 = 0; SELECT #30,60,i + 50000#; COMMIT",
        "BEGIN; SELECT #1,50,i + 60000#; SELECT #1,2,1#; COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT #1,99,i + 70000#; SELECT #90,120,i + 80000#; COMMIT",
        "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; DECLARE c CURSOR FOR SELECT * FROM s.t; FETCH 5 FROM c; SELECT #1,120,i + 90000#; FETCH ALL FROM c; COMMIT",
    ];
    // Sources that write to the table itself: they have done so before the batch is compared with it.
    let sources = [
        Each(
            "SELECT varve.upsert_query('s.t', 'DELETE FROM s.t WHERE k % 2 = 0 RETURNING k, v + 1000000 AS v')",
            "UPDATE s.t SET v = v + 1000000 WHERE k % 2 = 0",
        ),
        Each(
            "SELECT varve.upsert_query('s.t', 'UPDATE s.t SET v = -v WHERE k % 3 = 0 RETURNING k, v')",
            "UPDATE s.t SET v = -v WHERE k % 3 = 0",
        ),
        Each(
            "SELECT varve.upsert_query('s.t', 'INSERT INTO s.t SELECT i, 9000000 + i FROM generate_series(400, 450) i RETURNING k, v + 1000 AS v')",
            "INSERT INTO s.t SELECT i, 9001000 + i FROM generate_series(400, 450) i",
        ),
    ];
    let texts: Vec<[String; 2]> = frames.iter().map(|f| both(f)).collect();
    let steps: Vec<_> = texts
        .iter()
        .map(|[varve, heap]| Each(varve, heap))
        .chain(sources)
        .collect();
    check(
        &mut client,
        &[Case {
            name: "transactions",
            setup: &setup,
            steps: &steps,
            ..Case::default()
        }],
    );
}
