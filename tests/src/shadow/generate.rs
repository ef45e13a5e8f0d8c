//! Which statement comes next.

use super::cursor::{self, Cursor};
use super::rng::Rng;
use super::shape::{Shape, added, shapes};
use super::step::{Step, Who};
use super::{ddl, dml, query, settings, tick, upsert};
use std::collections::{BTreeSet, VecDeque};

/// What is known of a session.
#[derive(Default)]
struct Session {
    open: bool,
    aborted: bool,
    serializable: bool,
    /// One snapshot for the whole transaction.
    steady: bool,
    savepoints: Vec<String>,
    cursor: Option<Cursor>,
    /// Whether a cursor may be open, be it one that is fetched from no more.
    cursors: bool,
    age: u64,
    /// Tables of which the open transaction may hold rows locked FOR KEY SHARE.
    shared: BTreeSet<String>,
    /// Tables of which it may have rows locked FOR UPDATE.
    locked: BTreeSet<String>,
    /// Tables of which it may have rows locked or changed.
    written: BTreeSet<String>,
}

impl Session {
    /// Follows what a statement did to the transaction.
    fn learn(&mut self, sql: &str, failed: bool) {
        self.age += 1;
        let word = |n: usize| {
            sql.split_whitespace()
                .nth(n)
                .unwrap_or_default()
                .to_string()
        };
        match word(0).as_str() {
            "BEGIN" if !failed => {
                let cursor = self.cursor.take();
                *self = Session {
                    cursor,
                    open: true,
                    serializable: sql.contains("SERIALIZABLE"),
                    steady: !sql.contains("COMMITTED"),
                    ..Session::default()
                };
            }
            "COMMIT" => {
                let held = self.cursor.take();
                let held = held.filter(|c| c.hold && !failed && !self.aborted);
                *self = Session {
                    cursor: held,
                    ..Session::default()
                };
            }
            "ROLLBACK" if word(1) != "TO" => *self = Session::default(),
            "SAVEPOINT" if !failed => self.savepoints.push(word(1)),
            "ROLLBACK" if !failed => {
                self.aborted = false;
                self.cursor = None;
                self.keep(&word(2), 1);
            }
            "RELEASE" if !failed => self.keep(&word(1), 0),
            _ => {}
        }
        if failed && self.open {
            self.aborted = true;
            self.cursor = None;
        }
    }

    /// Forgets savepoints from the named one on, but for `more` of them.
    fn keep(&mut self, name: &str, more: usize) {
        if let Some(at) = self.savepoints.iter().rposition(|s| s == name) {
            self.savepoints.truncate(at + more);
        }
    }
}

/// Makes statements, and follows what came of them.
pub struct Generator {
    rng: Rng,
    shapes: Vec<Shape>,
    main: Session,
    second: Session,
    queue: VecDeque<Step>,
    names: u64,
    freeze_at_commit: bool,
    /// Whether the added columns may have changed.
    pub stale: bool,
}

impl Generator {
    /// A generator that starts from `seed`, for one setting of `varve.debug_freeze`.
    pub fn new(seed: u64, freeze_at_commit: bool) -> Generator {
        Generator {
            rng: Rng::new(seed),
            shapes: shapes(),
            main: Session::default(),
            second: Session::default(),
            queue: VecDeque::new(),
            names: 0,
            freeze_at_commit,
            stale: false,
        }
    }

    /// Rows to begin with.
    pub fn load(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..4 {
            if let Some(shape) = tick::large(&self.shapes) {
                steps.push(tick::bulk(Who::Main, shape, &mut self.rng));
            }
        }
        for shape in tick::small(&self.shapes) {
            for _ in 0..3 {
                let one = std::slice::from_ref(shape);
                steps.push(dml::any(Who::Main, one, &mut self.rng));
                steps.push(dml::bulk(Who::Main, shape, &mut self.rng).touching(shape.touched()));
            }
        }
        for shape in &self.shapes {
            if self.rng.chance(80) {
                steps.push(ddl::moved(shape, "warm", ""));
            }
        }
        steps
    }

    /// Whether the main session can be asked for its columns.
    pub fn can_ask(&self) -> bool {
        !self.main.aborted && self.queue.is_empty()
    }

    /// Takes the columns that ALTER TABLE has added, as (table, column, type).
    pub fn learn_columns(&mut self, rows: &[String]) {
        self.stale = false;
        for shape in &mut self.shapes {
            shape.columns.truncate(shape.base);
        }
        for row in rows {
            let mut fields = row.split(" | ");
            let (Some(table), Some(name), Some(sql_type)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if let Some(shape) = self.shapes.iter_mut().find(|s| s.name == table) {
                shape.columns.push(added(name, sql_type));
            }
        }
    }

    /// Follows what a statement did.
    pub fn learn(&mut self, step: &Step, failed: bool) {
        if step.varve_only {
            return;
        }
        let session = match step.who {
            Who::Main => &mut self.main,
            Who::Second => &mut self.second,
        };
        session.learn(&step.sql, failed);
        if step.who == Who::Main
            && (step.sql.starts_with("ALTER")
                || step.sql.starts_with("ROLLBACK")
                || step.sql.starts_with("COMMIT"))
        {
            self.stale = true;
        }
    }

    /// The next statement.
    pub fn next_step(&mut self) -> Step {
        if let Some(step) = self.queue.pop_front() {
            return step;
        }
        for _ in 0..5 {
            let steps = if self.rng.chance(20) {
                self.second()
            } else {
                self.main()
            };
            if !self.meets_limit(&steps) {
                self.note_locks(&steps);
                self.queue.extend(steps);
                break;
            }
        }
        self.queue
            .pop_front()
            .unwrap_or_else(|| Step::new(Who::Main, "SELECT 1"))
    }

    /// Whether statements meet one of the documented limits of frozen rows:
    /// - Who shares a row FOR KEY SHARE, by himself or for a foreign key, and who updates other columns of it wait for
    ///   each other, which heap does not ask for; a frozen row has no place to note both.
    /// - Who locks a frozen row FOR UPDATE takes it out of its segment, and whose new key equals that row's waits for him.
    /// - With `debug_freeze = commit`, FOR KEY SHARE fails to serialise on a row that was updated since the snapshot.
    fn meets_limit(&self, steps: &[Step]) -> bool {
        steps.iter().any(|step| {
            let (me, other) = match step.who {
                Who::Main => (&self.main, &self.second),
                Who::Second => (&self.second, &self.main),
            };
            let shares = key_shared(step);
            (self.freeze_at_commit && me.steady && !shares.is_empty())
                || step.tables.iter().any(|t| other.shared.contains(t))
                || step.meets_keys && step.tables.iter().any(|t| other.locked.contains(t))
                || shares.iter().any(|t| other.written.contains(t))
        })
    }

    /// Remembers tables of whose rows statements of an open transaction lock or change some.
    fn note_locks(&mut self, steps: &[Step]) {
        for step in steps {
            let session = match step.who {
                Who::Main => &mut self.main,
                Who::Second => &mut self.second,
            };
            if session.open {
                session.shared.extend(key_shared(step));
                if ["FOR UPDATE", "FOR NO KEY UPDATE", "DO UPDATE", "CURRENT OF"]
                    .iter()
                    .any(|lock| step.sql.contains(lock))
                {
                    session.locked.extend(step.tables.iter().cloned());
                }
                session.written.extend(step.tables.iter().cloned());
            }
        }
    }

    fn main(&mut self) -> Vec<Step> {
        let rng = &mut self.rng;
        if self.main.aborted {
            return vec![leave_failed(Who::Main, &self.main, rng)];
        }
        if self.main.open {
            return self.in_transaction();
        }
        let alone = !self.second.open;
        match rng.weighted(&[18, 40, 60, 2, 2, 7, 1, 4, 3, 4, 2, 12]) {
            0 => vec![begin(Who::Main, !self.second.serializable, rng)],
            1 => vec![write(Who::Main, &self.shapes, rng)],
            2 => vec![query::any(Who::Main, &self.shapes, rng)],
            3 => vec![query::lock(Who::Main, tick::small(&self.shapes), rng)],
            4 => ddl::definition(&self.shapes, rng),
            5 => vec![ddl::tier(&self.shapes, rng)],
            6 if rng.chance(25) => vec![ddl::truncate(&self.shapes, rng)],
            7 => vec![ddl::vacuum(&self.shapes, alone, rng)],
            8 => vec![ddl::upkeep(&self.shapes, rng)],
            9 => vec![settings::setting(Who::Main, rng)],
            11 => upsert::any(Who::Main, &self.shapes, rng),
            _ => {
                let mut steps = vec![begin(Who::Main, false, rng)];
                steps.extend(cursor::current_of(
                    Who::Main,
                    tick::small(&self.shapes),
                    rng,
                ));
                steps.push(Step::new(Who::Main, "COMMIT"));
                steps
            }
        }
    }

    fn in_transaction(&mut self) -> Vec<Step> {
        let rng = &mut self.rng;
        let alone = !self.second.open;
        let session = &mut self.main;
        let leave = 4 + session.age / 4;
        match rng.weighted(&[leave, leave / 2, 9, 6, 3, 38, 42, 4, 3, 4, 1, 2, 2, 8, 2, 8]) {
            0 => vec![Step::new(Who::Main, "COMMIT")],
            1 => vec![Step::new(Who::Main, "ROLLBACK")],
            2 => {
                self.names += 1;
                vec![Step::new(Who::Main, format!("SAVEPOINT s{}", self.names))]
            }
            3 if !session.savepoints.is_empty() => {
                vec![Step::new(
                    Who::Main,
                    format!("ROLLBACK TO {}", rng.pick(&session.savepoints)),
                )]
            }
            4 if !session.savepoints.is_empty() => {
                vec![Step::new(
                    Who::Main,
                    format!("RELEASE {}", rng.pick(&session.savepoints)),
                )]
            }
            6 => vec![query::any(Who::Main, &self.shapes, rng)],
            7 => vec![query::lock(Who::Main, tick::small(&self.shapes), rng)],
            // An index is in use where a cursor reads through it, which no plan has to do.
            8 if !session.cursors => ddl::definition(&self.shapes, rng),
            9 => vec![ddl::tier(&self.shapes, rng)],
            10 if rng.chance(25) => vec![ddl::truncate(&self.shapes, rng)],
            11 if !session.cursors => vec![ddl::upkeep(&self.shapes, rng)],
            12 => vec![settings::setting(Who::Main, rng)],
            13 => {
                if let Some(cursor) = &session.cursor {
                    return cursor::fetch(Who::Main, cursor, rng);
                }
                self.names += 1;
                let (cursor, step) = cursor::declare(Who::Main, self.names, &self.shapes, rng);
                session.cursor = Some(cursor);
                session.cursors = true;
                vec![step]
            }
            15 if alone && !session.steady => upsert::any(Who::Main, &self.shapes, rng),
            14 => cursor::current_of(Who::Main, tick::small(&self.shapes), rng),
            _ => vec![write(Who::Main, &self.shapes, rng)],
        }
    }

    /// The second session: mostly reads under a snapshot that grows old, sometimes writes.
    fn second(&mut self) -> Vec<Step> {
        let rng = &mut self.rng;
        let session = &mut self.second;
        if session.aborted {
            return vec![leave_failed(Who::Second, session, rng)];
        }
        if !session.open {
            return match rng.below(4) {
                0 => vec![query::any(Who::Second, &self.shapes, rng)],
                1 => vec![write(Who::Second, &self.shapes, rng)],
                // A snapshot without a lock on any table, so that tables can be frozen under it.
                2 => vec![
                    Step::new(Who::Second, "BEGIN ISOLATION LEVEL REPEATABLE READ"),
                    Step::new(Who::Second, "SELECT 1"),
                ],
                _ => vec![begin(Who::Second, !self.main.serializable, rng)],
            };
        }
        let leave = 2 + session.age;
        match rng.weighted(&[leave, leave / 2, 30, 6, 8, 4]) {
            0 => vec![Step::new(Who::Second, "COMMIT")],
            1 => vec![Step::new(Who::Second, "ROLLBACK")],
            2 => vec![query::any(Who::Second, &self.shapes, rng)],
            3 => vec![query::lock(Who::Second, tick::small(&self.shapes), rng)],
            4 => vec![write(Who::Second, &self.shapes, rng)],
            _ => {
                if let Some(cursor) = &session.cursor {
                    return cursor::fetch(Who::Second, cursor, rng);
                }
                self.names += 1;
                let (cursor, step) = cursor::declare(Who::Second, self.names, &self.shapes, rng);
                session.cursor = Some(cursor);
                vec![step]
            }
        }
    }
}

/// A statement that writes, now and then to the large table.
fn write(who: Who, shapes: &[Shape], rng: &mut Rng) -> Step {
    match tick::large(shapes) {
        Some(large) if rng.chance(14) => tick::change(who, large, rng),
        _ => dml::any(who, tick::small(shapes), rng),
    }
}

fn begin(who: Who, serializable: bool, rng: &mut Rng) -> Step {
    let level = match rng.below(4) {
        0 => "REPEATABLE READ",
        1 if serializable => "SERIALIZABLE",
        _ => "READ COMMITTED",
    };
    Step::new(who, format!("BEGIN ISOLATION LEVEL {level}"))
}

fn leave_failed(who: Who, session: &Session, rng: &mut Rng) -> Step {
    let sql = match (session.savepoints.is_empty(), rng.below(10)) {
        (false, 0..=5) => format!("ROLLBACK TO {}", rng.pick(&session.savepoints)),
        (_, 6) => "COMMIT".into(),
        (_, 7) => "SELECT 1".into(),
        _ => "ROLLBACK".into(),
    };
    Step::new(who, sql)
}

/// Tables whose rows a statement locks FOR KEY SHARE.
fn key_shared(step: &Step) -> Vec<String> {
    let named = |table: &str| step.tables.iter().any(|t| t == table);
    if step.sql.contains("FOR KEY SHARE") {
        step.tables.clone()
    } else if named("line") && !named("item") {
        vec!["item".into()]
    } else {
        Vec::new()
    }
}
