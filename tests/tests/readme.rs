//! What the README shows in psql is what psql shows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::path::Path;
use varve_tests::cluster::Cluster;

/// The chapters whose statements need nothing but those before them.
const CHAPTERS: &[&str] = &["What has changed"];

/// A statement, and what is shown of its output.
#[derive(Debug, Default)]
struct Example {
    statement: String,
    output: Vec<String>,
}

/// The statements in the fenced blocks of a chapter.
fn examples(text: &str, chapter: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut fenced, mut open) = (false, false);
    let lines = text.lines().skip_while(|line| *line != chapter).skip(1);
    for line in lines.take_while(|line| !line.starts_with("## ")) {
        let first = line.strip_prefix("=> ");
        match (line.starts_with("```"), first) {
            (true, _) => fenced = !fenced,
            _ if !fenced => {}
            (_, Some(first)) => {
                let statement = first.to_string();
                open = !statement.ends_with(';');
                examples.push(Example {
                    statement,
                    output: Vec::new(),
                });
            }
            _ => {
                let example = examples.last_mut().expect("output before a statement");
                match open {
                    true => {
                        example.statement += "\n";
                        example.statement += line;
                        open = !line.ends_with(';');
                    }
                    false => example.output.push(line.trim_end().to_string()),
                }
            }
        }
    }
    examples
}

/// What psql shows of each statement.
fn shown(cluster: &Cluster, examples: &[Example]) -> Vec<Vec<String>> {
    const END: &str = "== end of a statement ==";
    let mut script = "\\set ON_ERROR_STOP 1\n\\pset footer off\n".to_string();
    for example in examples {
        script += &format!("{}\n\\echo {END}\n", example.statement);
    }
    let file = cluster.dir().join("examples.sql");
    std::fs::write(&file, script).unwrap();
    let output = cluster
        .tool("psql")
        .args(["-X", "-q", "-d", &cluster.conninfo("postgres")])
        .stdin(File::open(file).unwrap())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut all: Vec<Vec<String>> = text
        .split(END)
        .map(|part| part.lines().map(|line| line.trim_end().to_string()))
        .map(|lines| lines.filter(|line| !line.is_empty()).collect())
        .collect();
    assert_eq!(all.pop(), Some(Vec::new()));
    all
}

#[test]
fn examples_are_what_psql_shows() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(path).unwrap();
    for chapter in CHAPTERS {
        let examples = examples(&text, &format!("## {chapter}"));
        assert!(examples.iter().any(|e| !e.output.is_empty()), "{chapter}");
        let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
        drop(cluster.connect_with_varve().unwrap());
        let shown = shown(&cluster, &examples);
        assert_eq!(shown.len(), examples.len());
        for (example, shown) in examples.iter().zip(shown) {
            let mut expected = example.output.clone();
            expected.retain(|line| !line.is_empty());
            assert_eq!(shown, expected, "{}", example.statement);
        }
    }
}
