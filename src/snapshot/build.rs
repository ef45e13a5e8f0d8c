//! The statements that make a table anew from its definition.

use super::ddl::{Column, Constraint, Ddl, Dimension, Sequence, Source};
use crate::pg::relation::quote;
use pgrx::pg_sys::NodeTag;
use std::ffi::{CStr, CString};

/// A statement, and what it must be: definitions are text that somebody else may have written.
pub struct Statement {
    /// Its text.
    pub sql: String,
    /// What the parser makes of it.
    pub tag: NodeTag,
}

/// How a table is made under a name.
pub struct Script<'d> {
    /// Its definition.
    pub ddl: &'d Ddl,
    /// The schema that it goes into.
    pub schema: String,
    /// Its name there.
    pub table: String,
    /// The schema of TimescaleDB's functions.
    pub timescaledb: String,
    /// The name that an index, a constraint with an index, or a sequence gets.
    pub name: &'d dyn Fn(&str) -> String,
}

/// A text as a literal.
pub fn literal(text: &str) -> String {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: returns a palloc'd copy.
    unsafe { CStr::from_ptr(pgrx::pg_sys::quote_literal_cstr(text.as_ptr())) }
        .to_string_lossy()
        .into_owned()
}

/// Parameters, `name=value`, as WITH takes them.
fn parameters(options: &[String]) -> String {
    let each = options.iter().map(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, "true"));
        let name: Vec<String> = name.splitn(2, '.').map(quote).collect();
        format!("{}={}", name.join("."), literal(value))
    });
    each.collect::<Vec<_>>().join(", ")
}

/// A sequence's parameters but its name.
fn sequence(s: &Sequence) -> String {
    let cycle = if s.cycle { "CYCLE" } else { "NO CYCLE" };
    format!(
        "START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {} CACHE {} {cycle}",
        s.start, s.increment, s.min, s.max, s.cache
    )
}

impl Script<'_> {
    /// The table as SQL names it.
    pub fn target(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.table))
    }

    fn within(&self, name: &str) -> String {
        format!("{}.{}", quote(&self.schema), quote(name))
    }

    /// What has a name of its own, as SQL names it.
    fn renamed(&self, name: &str) -> String {
        self.within(&(self.name)(name))
    }

    /// The name of a constraint.
    fn named(&self, c: &Constraint) -> String {
        match c.kind {
            'c' | 'f' => c.name.clone(),
            _ => (self.name)(&c.name),
        }
    }

    /// What makes the table, without its indexes, so that rows can come.
    pub fn begin(&self) -> Vec<Statement> {
        let mut all = Vec::new();
        let mut add = |tag, sql| all.push(Statement { sql, tag });
        let unlogged = match self.ddl.persistence {
            'u' => "UNLOGGED ",
            _ => "",
        };
        for column in &self.ddl.columns {
            if let Source::Serial(s) = &column.source {
                let name = self.renamed(&s.name);
                let sql = format!(
                    "CREATE {unlogged}SEQUENCE {name} AS {} {}",
                    s.type_name,
                    sequence(s)
                );
                add(NodeTag::T_CreateSeqStmt, sql);
            }
        }
        let checks = self.ddl.constraints.iter().filter(|c| c.kind == 'c');
        let parts: Vec<String> = self
            .ddl
            .columns
            .iter()
            .map(|c| self.column(c))
            .chain(checks.filter(|c| c.valid).map(|c| {
                let name = quote(&c.name);
                format!("CONSTRAINT {name} {}", c.definition)
            }))
            .collect();
        let with = match self.ddl.options.as_slice() {
            [] => String::new(),
            options => format!(" WITH ({})", parameters(options)),
        };
        add(
            NodeTag::T_CreateStmt,
            format!(
                "CREATE {unlogged}TABLE {} (\n    {}\n) USING {}{with}",
                self.target(),
                parts.join(",\n    "),
                quote(&self.ddl.access_method)
            ),
        );
        for column in &self.ddl.columns {
            if let Source::Serial(s) = &column.source {
                let owner = format!("{}.{}", self.target(), quote(&column.name));
                let sql = format!("ALTER SEQUENCE {} OWNED BY {owner}", self.renamed(&s.name));
                add(NodeTag::T_AlterSeqStmt, sql);
            }
            for change in column_changes(column) {
                let name = quote(&column.name);
                let sql = format!("ALTER TABLE {} ALTER COLUMN {name} {change}", self.target());
                add(NodeTag::T_AlterTableStmt, sql);
            }
        }
        let dimensions = self.ddl.hypertable.iter().flat_map(|h| &h.dimensions);
        for (i, dimension) in dimensions.enumerate() {
            add(NodeTag::T_SelectStmt, self.dimension(i == 0, dimension));
            if let Some(now) = &dimension.now {
                let (target, now) = (literal(&self.target()), literal(now));
                let functions = quote(&self.timescaledb);
                let sql = format!(
                    "SELECT {functions}.set_integer_now_func({target}::pg_catalog.regclass, {now}::pg_catalog.regproc)"
                );
                add(NodeTag::T_SelectStmt, sql);
            }
        }
        if let Some(managed) = &self.ddl.managed {
            let names = |columns: &[String]| {
                let each: Vec<String> = columns.iter().map(|c| literal(c)).collect();
                format!("ARRAY[{}]::pg_catalog.name[]", each.join(", "))
            };
            let sql = format!(
                "SELECT varve.enable({}::pg_catalog.regclass, {}, {})",
                literal(&self.target()),
                names(&managed.segment_by),
                names(&managed.order_by)
            );
            add(NodeTag::T_SelectStmt, sql);
        }
        all
    }

    fn column(&self, column: &Column) -> String {
        let mut text = format!("{} {}", quote(&column.name), column.type_name);
        if let Some(collation) = &column.collation {
            text += &format!(" COLLATE {collation}");
        }
        let identity =
            |s: &Sequence| format!("(SEQUENCE NAME {} {})", self.renamed(&s.name), sequence(s));
        text += &match &column.source {
            Source::Nothing => String::new(),
            Source::Default(expression) => format!(" DEFAULT ({expression})"),
            Source::Generated(expression) => {
                format!(" GENERATED ALWAYS AS ({expression}) STORED")
            }
            Source::Serial(s) => {
                let name = literal(&self.renamed(&s.name));
                format!(" DEFAULT pg_catalog.nextval({name}::pg_catalog.regclass)")
            }
            Source::Always(s) => format!(" GENERATED ALWAYS AS IDENTITY {}", identity(s)),
            Source::Identity(s) => format!(" GENERATED BY DEFAULT AS IDENTITY {}", identity(s)),
        };
        if column.not_null {
            text += " NOT NULL";
        }
        text
    }

    fn dimension(&self, first: bool, d: &Dimension) -> String {
        let functions = quote(&self.timescaledb);
        let column = literal(&d.column);
        let function = match &d.function {
            Some(function) => {
                format!(
                    ", partition_func => {}::pg_catalog.regproc",
                    literal(function)
                )
            }
            None => String::new(),
        };
        let by = match (d.interval, d.partitions) {
            (_, Some(partitions)) => format!("by_hash({column}, {partitions}{function})"),
            (Some(length), None) if d.times => {
                let length = literal(&format!("{length} microseconds"));
                format!("by_range({column}, {length}::pg_catalog.interval{function})")
            }
            (length, None) => {
                let length = length.unwrap_or(1);
                format!("by_range({column}, {length}::pg_catalog.int8{function})")
            }
        };
        let target = literal(&self.target());
        match first {
            true => format!(
                "SELECT {functions}.create_hypertable({target}::pg_catalog.regclass, {functions}.{by}, create_default_indexes => false)"
            ),
            false => format!(
                "SELECT {functions}.add_dimension({target}::pg_catalog.regclass, {functions}.{by})"
            ),
        }
    }

    fn constraint(&self, c: &Constraint) -> Vec<Statement> {
        let (target, name) = (self.target(), self.named(c));
        let definition = match &c.after_itself {
            Some(after) => format!("{}{target}{after}", c.definition),
            None => c.definition.clone(),
        };
        let mut all = vec![Statement {
            sql: format!(
                "ALTER TABLE {target} ADD CONSTRAINT {} {definition}",
                quote(&name)
            ),
            tag: NodeTag::T_AlterTableStmt,
        }];
        if !c.options.is_empty() {
            let set = parameters(&c.options);
            all.push(Statement {
                sql: format!("ALTER INDEX {} SET ({set})", self.within(&name)),
                tag: NodeTag::T_AlterTableStmt,
            });
        }
        all
    }

    /// What follows when the rows are there: constraints, indexes, comments, the places of sequences.
    pub fn end(&self) -> Vec<Statement> {
        let mut all = Vec::new();
        let constraints = &self.ddl.constraints;
        for c in constraints {
            if matches!(c.kind, 'p' | 'u' | 'x') {
                all.extend(self.constraint(c));
            }
        }
        for index in &self.ddl.indexes {
            let unique = if index.unique { "UNIQUE " } else { "" };
            let name = quote(&(self.name)(&index.name));
            all.push(Statement {
                sql: format!(
                    "CREATE {unique}INDEX {name} ON {} {}",
                    self.target(),
                    index.definition
                ),
                tag: NodeTag::T_IndexStmt,
            });
        }
        for c in constraints {
            if c.kind == 'f' || c.kind == 'c' && !c.valid {
                all.extend(self.constraint(c));
            }
        }
        let mut change = |change: String| {
            all.push(Statement {
                sql: format!("ALTER TABLE {} {change}", self.target()),
                tag: NodeTag::T_AlterTableStmt,
            });
        };
        let index = |name: &Option<String>| name.as_deref().map(self.name);
        match (self.ddl.replica_identity, index(&self.ddl.replica_index)) {
            ('i', Some(name)) => change(format!("REPLICA IDENTITY USING INDEX {}", quote(&name))),
            ('f', _) => change("REPLICA IDENTITY FULL".into()),
            ('n', _) => change("REPLICA IDENTITY NOTHING".into()),
            _ => {}
        }
        if let Some(name) = index(&self.ddl.clustered_by) {
            change(format!("CLUSTER ON {}", quote(&name)));
        }
        all.extend(self.comments());
        for column in &self.ddl.columns {
            let sequence = match &column.source {
                Source::Serial(s) | Source::Always(s) | Source::Identity(s) => s,
                _ => continue,
            };
            if let Some(last) = sequence.last {
                let (name, called) = (literal(&self.renamed(&sequence.name)), sequence.called);
                all.push(Statement {
                    sql: format!(
                        "SELECT pg_catalog.setval({name}::pg_catalog.regclass, {last}, {called})"
                    ),
                    tag: NodeTag::T_SelectStmt,
                });
            }
        }
        all
    }

    fn comments(&self) -> Vec<Statement> {
        let target = self.target();
        let mut on: Vec<(String, &Option<String>)> =
            vec![(format!("TABLE {target}"), &self.ddl.comment)];
        for column in &self.ddl.columns {
            let name = quote(&column.name);
            on.push((format!("COLUMN {target}.{name}"), &column.comment));
        }
        for c in &self.ddl.constraints {
            let name = quote(&self.named(c));
            on.push((format!("CONSTRAINT {name} ON {target}"), &c.comment));
        }
        for index in &self.ddl.indexes {
            let name = self.renamed(&index.name);
            on.push((format!("INDEX {name}"), &index.comment));
        }
        on.into_iter()
            .filter_map(|(on, comment)| {
                let text = literal(comment.as_deref()?);
                Some(Statement {
                    sql: format!("COMMENT ON {on} IS {text}"),
                    tag: NodeTag::T_CommentStmt,
                })
            })
            .collect()
    }
}

fn column_changes(column: &Column) -> Vec<String> {
    let mut all = Vec::new();
    let storage = column.storage.and_then(|letter| match letter {
        'p' => Some("PLAIN"),
        'e' => Some("EXTERNAL"),
        'm' => Some("MAIN"),
        'x' => Some("EXTENDED"),
        _ => None,
    });
    all.extend(storage.map(|storage| format!("SET STORAGE {storage}")));
    let method = column.compression.and_then(|letter| match letter {
        'p' => Some("pglz"),
        'l' => Some("lz4"),
        _ => None,
    });
    all.extend(method.map(|method| format!("SET COMPRESSION {method}")));
    let target = column.statistics;
    all.extend(target.map(|target| format!("SET STATISTICS {target}")));
    if !column.options.is_empty() {
        all.push(format!("SET ({})", parameters(&column.options)));
    }
    all
}
