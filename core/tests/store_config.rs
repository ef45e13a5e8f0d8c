//! URLs and options of stores: what is taken, what is refused, and that secrets never show.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use varve_core::store::*;

fn refused(url: &str) -> String {
    let error = StoreUrl::parse(url).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{url}");
    error.to_string()
}

#[test]
fn urls() {
    for (url, scheme, bucket, path) in [
        (
            "file:///var/backups/varve",
            Scheme::File,
            "",
            "/var/backups/varve",
        ),
        ("file:///a b/%20/", Scheme::File, "", "/a b/%20"),
        (
            "s3://bucket/some/prefix",
            Scheme::S3,
            "bucket",
            "some/prefix",
        ),
        ("s3://bucket", Scheme::S3, "bucket", ""),
        ("s3://bucket/", Scheme::S3, "bucket", ""),
        (
            "gs://my_bucket.example/p/",
            Scheme::Gcs,
            "my_bucket.example",
            "p",
        ),
        (
            "az://container/prefix",
            Scheme::Azure,
            "container",
            "prefix",
        ),
        ("azure://$root", Scheme::Azure, "$root", ""),
    ] {
        let parsed = StoreUrl::parse(url).unwrap();
        assert_eq!(
            (parsed.scheme(), parsed.bucket(), parsed.path().as_str()),
            (scheme, bucket, path),
            "{url}"
        );
        assert_eq!(StoreUrl::parse(&parsed.to_string()).unwrap(), parsed);
    }
}

#[test]
fn wrong_urls() {
    for (url, part) in [
        ("", "no scheme"),
        ("/var/backups", "no scheme"),
        ("http://host/x", "unknown scheme \"http\""),
        ("S3://bucket", "unknown scheme"),
        ("abfss://c@a.dfs.core.windows.net", "unknown scheme"),
        ("file://relative/path", "whole path"),
        ("file://", "whole path"),
        ("file:///", "root of the file system"),
        ("file:///a/../b", "\"..\""),
        ("file:///a/./b", "\".\""),
        ("file:///a//b", "empty"),
        ("file:///a\0b", "in it"),
        ("file:///a?x=y", "no query"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("az:///prefix", "names no container"),
        ("s3://user:hunter2@bucket/x", "has no user"),
        ("s3://bucket:9000/x", "has no port"),
        ("s3://bucket/x?secret=hunter2", "no query"),
        ("s3://bucket/x#hunter2", "no fragment"),
        ("s3://bucket/../x", "the prefix is wrong"),
        ("s3://bucket//x", "the prefix is wrong"),
        ("s3://buc ket/x", "no name of a bucket"),
        ("s3://../x", "no name of a bucket"),
        ("az://Container", "no name of a container"),
    ] {
        let message = refused(url);
        assert!(message.contains(part), "{url}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    refused(&format!("file:///{}", "x".repeat(2_000)));
}

fn config(options: &[(&str, &str)]) -> Result<StoreConfig, StoreError> {
    StoreConfig::from_options(options.iter().copied())
}

#[test]
fn options() {
    let made = config(&[
        ("endpoint", "http://127.0.0.1:9000/base"),
        ("role", "offsite"),
        ("url", "s3://bucket/prefix"),
        ("region", "eu-central-1"),
        ("allow_http", "on"),
        ("path_style", "no"),
        ("timeout", "5s"),
        ("retry_timeout", "1min"),
        ("max_retries", "3"),
        ("access_key_id", "AKID"),
        ("secret_access_key", "hunter2-hunter2"),
        ("session_token", "hunter3-hunter3"),
    ])
    .unwrap();
    assert_eq!(made.role(), Role::Offsite);
    assert_eq!(made.url().to_string(), "s3://bucket/prefix");
    let shown = format!("{made:?}");
    assert!(
        !shown.contains("hunter") && !shown.contains("AKID"),
        "{shown}"
    );
    let shown = format!("{:?}", Store::open(&made).unwrap());
    assert!(
        !shown.contains("hunter") && !shown.contains("AKID"),
        "{shown}"
    );
    assert_eq!(
        StoreConfig::from_url("file:///x").unwrap().role(),
        Role::Primary
    );

    for (options, part) in [
        (&[("role", "primary")][..], "\"url\" is missing"),
        (
            &[("url", "file:///x"), ("role", "third")],
            "none of primary, secondary and offsite",
        ),
        (
            &[("url", "file:///x"), ("region", "x")],
            "a store at file:// has no option \"region\"",
        ),
        (
            &[("url", "s3://b"), ("create", "true")],
            "a store at s3:// has no option \"create\"",
        ),
        (
            &[("url", "gs://b"), ("access_key_id", "hunter2")],
            "a store at gs:// has no option",
        ),
        (
            &[("url", "file:///x"), ("create", "maybe")],
            "neither true nor false",
        ),
        (
            &[("url", "file:///x"), ("create", "on"), ("create", "on")],
            "given twice",
        ),
        (
            &[("url", "s3://b"), ("endpoint", "host:9000")],
            "must begin with https://",
        ),
        (
            &[("url", "s3://b"), ("endpoint", "http://u:hunter2@host")],
            "must be a host",
        ),
        (&[("url", "s3://b"), ("timeout", "1d")], "is not a time"),
        (
            &[("url", "s3://b"), ("max_retries", "-1")],
            "no number from 0 to 1000",
        ),
        (
            &[("url", "s3://b"), ("secret_access_key", "hunter2 hunter2")],
            "spaces",
        ),
        (&[("url", "s3://b"), ("secret_access_key", "")], "empty"),
        (
            &[("url", "gs://b"), ("service_account_path", "key.json")],
            "whole path",
        ),
        (
            &[("url", "s3://b"), ("secret_acces_key", "hunter2")],
            "did you mean \"secret_access_key\"?",
        ),
    ] {
        let error = config(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let message = error.to_string();
        assert!(message.contains(part), "{message}");
        assert!(!message.contains("hunter"), "{message}");
    }
}

#[test]
fn half_of_the_credentials_make_no_store() {
    let error = config(&[("url", "s3://b"), ("secret_access_key", "hunter2-hunter2")])
        .and_then(|config| Store::open(&config))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(!error.to_string().contains("hunter"), "{error}");
    for (name, value) in [
        (
            "service_account_key",
            "{\"private_key\": \"hunter2hunter2hunter2\"}",
        ),
        ("service_account_key", "hunter2hunter2hunter2"),
    ] {
        let error = config(&[("url", "gs://b"), (name, value)])
            .and_then(|config| Store::open(&config))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!error.to_string().contains("hunter"), "{error}");
    }
    let error = config(&[
        ("url", "az://c"),
        ("account_name", "account"),
        ("access_key", "hunter2hunter2hunter2!"),
    ])
    .and_then(|config| Store::open(&config))
    .unwrap_err();
    assert!(!error.to_string().contains("hunter"), "{error}");
}

#[test]
fn the_table_is_whole() {
    let mut names: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), OPTIONS.len());
    for option in OPTIONS {
        assert_eq!(OptionSpec::find(option.name).unwrap().name, option.name);
        assert!(!option.schemes.is_empty() && option.about.ends_with('.'));
        // What everyone sees holds no secret.
        assert!(
            !option.secret || option.place == Place::UserMapping,
            "{}",
            option.name
        );
        if option.secret {
            let message = option
                .check("hunter2\n\thunter2 ")
                .err()
                .map(|e| e.to_string());
            assert!(
                !message.unwrap_or_default().contains("hunter"),
                "{}",
                option.name
            );
        }
    }
    for (name, secret) in [
        ("secret_access_key", true),
        ("sas_token", true),
        ("account_name", false),
    ] {
        assert_eq!(OptionSpec::find(name).unwrap().secret, secret, "{name}");
    }
    let page = include_str!("../../docs/stores.md");
    for option in OPTIONS {
        assert!(
            page.contains(&format!("| `{}` |", option.name)),
            "{} is not in docs/stores.md",
            option.name
        );
    }
}

#[test]
fn options_in_the_wrong_place() {
    let server = |options: &[(&str, &str)]| {
        StoreConfig::check_options(Place::Server, options.iter().copied())
    };
    let mapping = |options: &[(&str, &str)]| {
        StoreConfig::check_options(Place::UserMapping, options.iter().copied())
    };
    server(&[("url", "s3://b"), ("region", "x")]).unwrap();
    mapping(&[("access_key_id", "x"), ("secret_access_key", "y")]).unwrap();
    mapping(&[]).unwrap();
    for (result, part) in [
        (server(&[("role", "primary")]), "\"url\" is missing"),
        (
            server(&[("url", "s3://b"), ("secret_access_key", "hunter2")]),
            "belongs to the user mapping",
        ),
        (mapping(&[("url", "s3://b")]), "belongs to the server"),
        (
            mapping(&[("password", "hunter2")]),
            "unknown option \"password\"",
        ),
        (
            mapping(&[("access_key", "hunter2 hunter2")]),
            "option \"access_key\"",
        ),
    ] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        assert!(!message.contains("hunter"), "{message}");
    }
}
