//! Where stores are: which are the same whatever they are called, and that no secret is told.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::symlink;
use std::process::Command;

use varve_core::backup::{BackupError, CopyOptions, copy};
use varve_core::store::{Store, StoreConfig, StorePlace};
use varve_core::wait::never;

/// Says to this program that it is the child of a test, and which store it shall place.
const ASKED: &str = "VARVE_TEST_STORE";

fn place(options: &[(&str, &str)]) -> StorePlace {
    let config = StoreConfig::from_options(options.iter().copied()).unwrap();
    Store::open(&config).unwrap().place(&never).unwrap()
}

fn s3(endpoint: &str) -> StorePlace {
    place(&[("url", "s3://backups/varve"), ("endpoint", endpoint)])
}

fn azure(options: &[(&str, &str)]) -> StorePlace {
    let key = ("access_key", "c2VjcmV0IGtleQ==");
    let url = ("url", "az://backups/varve");
    place(&[&[url, key], options].concat())
}

#[test]
fn one_bucket_however_it_is_spelt() {
    let here = s3("https://minio.internal:9000");
    for same in [
        "https://minio.internal:9000/",
        "https://MinIO.Internal:9000",
        "https://minio.internal.:9000//",
    ] {
        assert_eq!(s3(same), here, "{same}");
    }
    assert_eq!(s3("https://minio"), s3("https://minio:443/"));
    for other in [
        "https://minio.internal:9001",
        "https://minio.internal",
        "https://minio.elsewhere:9000",
        "https://minio.internal:9000/tenant",
    ] {
        assert_ne!(s3(other), here, "{other}");
    }
    let hosted = [
        ("url", "s3://backups/varve"),
        ("endpoint", "https://minio.internal:9000"),
        ("path_style", "false"),
    ];
    assert_eq!(place(&hosted), here);
    let text = "s3://backups/varve at https://minio.internal:9000";
    assert_eq!(here.to_string(), text);
    assert_eq!(here.service().unwrap(), "https://minio.internal:9000");
}

#[test]
fn amazon() {
    let of = |region| place(&[("url", "s3://backups"), ("region", region)]);
    let at = |endpoint| place(&[("url", "s3://backups"), ("endpoint", endpoint)]);
    assert_ne!(of("eu-central-1"), of("eu-west-1"));
    assert_eq!(
        of("eu-west-1"),
        at("https://s3.dualstack.eu-west-1.amazonaws.com")
    );
    assert_eq!(of("us-east-1"), at("https://s3.amazonaws.com/"));
    let deeper = place(&[("url", "s3://backups/a"), ("region", "eu-west-1")]);
    assert_ne!(deeper, of("eu-west-1"));
    assert_eq!(deeper.service(), of("eu-west-1").service());
}

#[test]
fn accounts() {
    let one = azure(&[("account_name", "one")]);
    assert_ne!(one, azure(&[("account_name", "two")]));
    let said = ("endpoint", "https://One.blob.core.windows.net/");
    assert_eq!(one, azure(&[("account_name", "One"), said]));
    let shared = ("endpoint", "https://blobs.internal");
    let of = |account| azure(&[("account_name", account), shared]);
    assert_ne!(of("one"), of("two"));
    assert_ne!(of("one").service(), of("two").service());
    for text in [one.to_string(), format!("{one:?}")] {
        assert!(!text.contains("c2VjcmV0"), "{text}");
    }
}

#[test]
fn directories() {
    let work = tempfile::tempdir().unwrap();
    let work = work.path().canonicalize().unwrap();
    std::fs::create_dir(work.join("disk")).unwrap();
    symlink(work.join("disk"), work.join("link")).unwrap();
    let at = |path: &str| {
        let url = format!("file://{}/{path}", work.display());
        place(&[("url", &url)])
    };
    assert_eq!(at("disk"), at("link/"));
    // What is not there yet will be there.
    assert_eq!(at("disk/new/deep"), at("link/new/deep"));
    assert_ne!(at("disk/new"), at("disk"));
    assert_eq!(at("link/new").to_string(), at("disk/new").to_string());
    assert_eq!(at("disk").service(), None);
}

/// Two directories that are one are refused, two endpoints are two stores: that these are not there is found out later.
#[test]
fn copies_ask_for_places() {
    let work = tempfile::tempdir().unwrap();
    let real = work.path().join("real");
    let link = work.path().join("link");
    std::fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let open = |options: &[(&str, &str)]| {
        Store::open(&StoreConfig::from_options(options.iter().copied()).unwrap()).unwrap()
    };
    let file = |path: &std::path::Path| open(&[("url", &format!("file://{}", path.display()))]);
    let tried = |from: &Store, to: &Store| {
        copy(from, to, &CopyOptions::default(), &mut |_| {}, &never).unwrap_err()
    };
    let error = tried(&file(&real), &file(&link));
    assert!(matches!(error, BackupError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("copied to itself"), "{error}");
    // Nobody listens at these ports.
    let remote = |port: u16| {
        open(&[
            ("url", "s3://backups"),
            ("endpoint", &format!("http://127.0.0.1:{port}")),
            ("allow_http", "true"),
            ("access_key_id", "AKID"),
            ("secret_access_key", "secret"),
            ("max_retries", "0"),
            ("retry_timeout", "1ms"),
        ])
    };
    let error = tried(&remote(1), &remote(2));
    assert!(matches!(error, BackupError::Store(_)), "{error}");
    let error = tried(&remote(1), &remote(1));
    assert!(error.to_string().contains("copied to itself"), "{error}");
}

/// The child: tells the place of the store that is asked for. Run by itself it has nothing to tell.
#[test]
fn told_by_a_child() {
    if let Ok(url) = std::env::var(ASKED) {
        println!("place: {}", place(&[("url", &url)]));
    }
}

/// What no option says comes from the environment, whose secrets are not told.
#[test]
fn of_the_environment() {
    let told = |url: &str, environment: &[(&str, &str)]| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "told_by_a_child", "--nocapture"]);
        let known = ["AWS_", "GOOGLE_", "AZURE_"];
        for (name, _) in std::env::vars() {
            if known.iter().any(|prefix| name.starts_with(prefix)) {
                child.env_remove(name);
            }
        }
        child.env(ASKED, url).envs(environment.iter().copied());
        let output = child.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find_map(|l| Some(l.split_once("place: ")?.1));
        line.unwrap_or_else(|| panic!("{url} {environment:?}: {text}{errors}"))
            .to_owned()
    };
    for (url, environment, expected) in [
        (
            "s3://b",
            vec![],
            "s3://b at https://s3.us-east-1.amazonaws.com",
        ),
        (
            "s3://b",
            vec![("AWS_REGION", "eu-west-1")],
            "s3://b at https://s3.eu-west-1.amazonaws.com",
        ),
        (
            "s3://b",
            vec![
                ("AWS_ENDPOINT_URL", "https://user:hunter2@Host:443/"),
                ("AWS_ACCESS_KEY_ID", "AKID"),
                ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ],
            "s3://b at https://host",
        ),
        (
            "s3://b",
            vec![
                ("AWS_ENDPOINT_URL", "https://host"),
                ("AWS_ENDPOINT_URL_S3", "https://b.objects.host:9000"),
                ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
            ],
            "s3://b at https://objects.host:9000",
        ),
        (
            "az://c/p",
            vec![
                ("AZURE_STORAGE_ACCOUNT_NAME", "shop"),
                ("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg=="),
            ],
            "az://c/p at https://shop.blob.core.windows.net, account shop",
        ),
        (
            "az://c",
            vec![("AZURE_STORAGE_USE_EMULATOR", "true")],
            "az://c at http://127.0.0.1:10000, account devstoreaccount1",
        ),
        ("gs://b", vec![], "gs://b at https://storage.googleapis.com"),
        (
            "gs://b",
            vec![("GOOGLE_BASE_URL", "http://localhost:4443")],
            "gs://b at http://localhost:4443",
        ),
    ] {
        assert_eq!(told(url, &environment), expected);
    }
}
