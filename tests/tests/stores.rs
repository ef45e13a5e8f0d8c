//! Object stores as SQL knows them: options, privileges, what is shown of them, and whether they can be reached.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use postgres::Client;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use varve_tests::cluster::Cluster;
use varve_tests::session::simple;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start_new(&["fsync = off"]).unwrap();
    let client = cluster.connect_with_varve().unwrap();
    (cluster, client)
}

fn code(client: &mut Client, sql: &str) -> String {
    match simple(client, sql) {
        Ok(rows) => panic!("{sql} gave {rows:?}"),
        Err(e) => {
            assert!(!e.message.contains(SECRET), "{e:?}");
            e.code
        }
    }
}

fn ok(client: &mut Client, sql: &str) -> Vec<String> {
    simple(client, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

#[test]
fn options_and_privileges() {
    let (cluster, mut client) = start();
    let dir = cluster.dir().join("store");
    std::fs::create_dir(&dir).unwrap();
    let above = std::fs::metadata(cluster.dir()).unwrap();
    chown(&dir, Some(above.uid()), Some(above.gid())).unwrap();
    let server = |name: &str, options: &str| {
        format!("CREATE SERVER {name} FOREIGN DATA WRAPPER varve_store OPTIONS ({options})")
    };
    let url = format!("url 'file://{}'", dir.display());
    // What is wrong with options is said at once.
    for options in [
        "role 'primary'",
        "url 'file://relative/path'",
        "url 'file:///a/../b'",
        "url 'ftp://host/dir'",
        "url 's3://user:password@bucket/prefix'",
        "url 's3://'",
        &format!("{url}, role 'tertiary'"),
        &format!("{url}, rolle 'primary'"),
        &format!("{url}, endpoint 'http://localhost'"),
        &format!("{url}, secret_access_key '{SECRET}'"),
        "url 's3://bucket', timeout 'soon'",
    ] {
        assert_eq!(
            code(&mut client, &server("wrong", options)),
            "22023",
            "{options}"
        );
    }
    ok(
        &mut client,
        &server("first", &format!("{url}, role 'primary'")),
    );
    ok(
        &mut client,
        &server(
            "away",
            "url 's3://bucket/prefix', role 'offsite', endpoint 'http://127.0.0.1:1', allow_http 'true', retry_timeout '100ms', max_retries '1'",
        ),
    );
    let mapping = |options: &str| {
        format!("CREATE USER MAPPING FOR CURRENT_USER SERVER away OPTIONS ({options})")
    };
    for options in ["url 'file:///x'", "access_key 'x', acess_key_id 'y'"] {
        assert_eq!(code(&mut client, &mapping(options)), "22023", "{options}");
    }
    ok(
        &mut client,
        &mapping(&format!(
            "access_key_id 'AKIA', secret_access_key '{SECRET}'"
        )),
    );
    assert_eq!(
        code(&mut client, "ALTER SERVER first OPTIONS (ADD timeout '1s')"),
        "22023"
    );
    assert_eq!(
        ok(
            &mut client,
            "SELECT name, role, url, usable, mapped FROM varve.stores ORDER BY 1"
        ),
        [
            "away|offsite|s3://bucket/prefix|t|t".to_string(),
            format!("first|primary|file://{}|t|f", dir.display())
        ]
    );
    // A store that is there.
    assert_eq!(
        ok(
            &mut client,
            "SELECT step, ok, detail FROM varve.check_store('first')"
        ),
        [
            "write|t|∅",
            "write once|t|∅",
            "read|t|∅",
            "list|t|∅",
            "remove|t|∅"
        ]
    );
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.check_store('none')"),
        "42704"
    );
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.check_store(NULL)"),
        "22004"
    );
    // Its directory goes away: nothing is made in its place.
    std::fs::rename(&dir, dir.with_extension("moved")).unwrap();
    let rows = ok(
        &mut client,
        "SELECT step, ok, detail FROM varve.check_store('first')",
    );
    assert!(
        rows.len() == 1 && rows[0].starts_with("write|f|"),
        "{rows:?}"
    );
    assert!(!dir.exists());
    std::fs::rename(dir.with_extension("moved"), &dir).unwrap();

    // Roles: files of the server are not for everybody, stores are for those who are granted them.
    ok(
        &mut client,
        "CREATE ROLE joe; GRANT USAGE ON FOREIGN DATA WRAPPER varve_store TO joe; GRANT CREATE ON DATABASE postgres TO joe",
    );
    ok(&mut client, "SET ROLE joe");
    assert_eq!(code(&mut client, &server("mine", &url)), "42501");
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.check_store('first')"),
        "42501"
    );
    assert_eq!(
        ok(
            &mut client,
            "SELECT name, usable FROM varve.stores ORDER BY 1"
        ),
        ["away|f", "first|f"]
    );
    ok(&mut client, &server("mine", "url 's3://mine'"));
    ok(
        &mut client,
        "RESET ROLE; GRANT EXECUTE ON FUNCTION varve.check_store(name) TO joe; SET ROLE joe",
    );
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.check_store('first')"),
        "42501"
    );
    // The credentials of the server's environment are not his.
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.check_store('mine')"),
        "42501"
    );
    ok(
        &mut client,
        "RESET ROLE; GRANT USAGE ON FOREIGN SERVER first TO joe; SET ROLE joe",
    );
    assert_eq!(
        ok(
            &mut client,
            "SELECT bool_and(ok), count(*) FROM varve.check_store('first')"
        ),
        ["t|5"]
    );
}

#[test]
fn a_store_out_of_reach() {
    let (cluster, mut client) = start();
    // A port on which nobody listens.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    ok(
        &mut client,
        &format!(
            "CREATE SERVER away FOREIGN DATA WRAPPER varve_store OPTIONS (url 's3://bucket/prefix', role 'offsite', \
             endpoint 'http://127.0.0.1:{port}', allow_http 'true', retry_timeout '300ms', max_retries '2');
             CREATE USER MAPPING FOR CURRENT_USER SERVER away OPTIONS (access_key_id 'AKIA', secret_access_key '{SECRET}')"
        ),
    );
    let rows = ok(
        &mut client,
        "SELECT step, ok, detail FROM varve.check_store('away')",
    );
    assert!(
        rows.len() == 1 && rows[0].starts_with("write|f|s3://bucket/prefix/check/"),
        "{rows:?}"
    );
    assert!(
        rows[0].contains("unreachable") && !rows[0].contains(SECRET),
        "{rows:?}"
    );
    // A server that takes the connection and says nothing: whoever waits can be cancelled.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    ok(
        &mut client,
        &format!(
            "ALTER SERVER away OPTIONS (SET endpoint 'http://127.0.0.1:{port}', ADD timeout '60s')"
        ),
    );
    let begin = std::time::Instant::now();
    ok(&mut client, "SET statement_timeout = '300 ms'");
    assert_eq!(
        code(&mut client, "SELECT * FROM varve.check_store('away')"),
        "57014"
    );
    assert!(begin.elapsed() < std::time::Duration::from_secs(20));
    ok(&mut client, "RESET statement_timeout");
    drop(silent);
    let log = cluster.log();
    let statements_left_out: Vec<&str> = log.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(statements_left_out.is_empty(), "{statements_left_out:?}");
}
