//! Stores as the command line names them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use varve_core::store::{OptionSpec, Store, StoreConfig, StoreUrl};

use crate::common::StoreOptions;
use crate::exit::Failure;

/// Longest file of credentials, in bytes.
const MAX_CREDENTIALS_BYTES: u64 = 64 << 10;

/// An option, and the number of the store that it is for, if it is for one.
struct Given {
    store: Option<usize>,
    name: String,
    value: String,
    used: bool,
}

/// Opens stores by their URLs.
pub fn open(urls: &[String], options: &StoreOptions) -> Result<Vec<Store>, Failure> {
    open_as(urls, options, false)
}

/// Opens stores so that those that are away are given up soon.
pub fn open_hasty(urls: &[String], options: &StoreOptions) -> Result<Vec<Store>, Failure> {
    open_as(urls, options, true)
}

fn open_as(urls: &[String], options: &StoreOptions, hasty: bool) -> Result<Vec<Store>, Failure> {
    let mut given = Vec::new();
    for text in &options.store_option {
        given.push(parse(text)?);
    }
    if let Some(path) = &options.credentials {
        given.extend(credentials(path)?);
    }
    let mut stores = Vec::new();
    for (number, url) in urls.iter().enumerate() {
        stores.push(open_one(number + 1, url, &mut given, hasty)?);
    }
    match given.iter().find(|option| !option.used) {
        None => Ok(stores),
        Some(unused) => Err(Failure::usage(format!(
            "no store that is named takes the option \"{}\"",
            unused.name
        ))),
    }
}

/// One store.
pub fn open_single(url: &str, options: &StoreOptions) -> Result<Store, Failure> {
    open(&[url.to_owned()], options)?
        .pop()
        .ok_or_else(|| Failure::usage("no store is named"))
}

fn open_one(number: usize, url: &str, given: &mut [Given], hasty: bool) -> Result<Store, Failure> {
    let wrong = |error: varve_core::store::StoreError| Failure::usage(error.to_string());
    let scheme = StoreUrl::parse(url).map_err(wrong)?.scheme();
    let mut all = vec![("url", url)];
    for option in given {
        let spec = OptionSpec::find(&option.name).map_err(wrong)?;
        let mine = match option.store {
            Some(store) => store == number,
            None => spec.schemes.contains(&scheme),
        };
        if mine {
            option.used = true;
            all.push((spec.name, &option.value));
        }
    }
    let config = StoreConfig::from_options(all).map_err(wrong)?;
    let config = if hasty { config.hasty() } else { config };
    Store::open(&config).map_err(wrong)
}

fn parse(text: &str) -> Result<Given, Failure> {
    // What stands behind the first equals sign may be secret, and where there is none all of it.
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| Failure::usage("an option of a store is written KEY=VALUE"))?;
    let (store, name) = match name.split_once('.') {
        Some((number, name)) => match number.trim().parse() {
            Ok(number) => (Some(number), name),
            Err(_) => (None, name),
        },
        None => (None, name),
    };
    Ok(Given {
        store,
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
        used: false,
    })
}

fn credentials(path: &Path) -> Result<Vec<Given>, Failure> {
    let failed = |detail: String| Failure::usage(format!("{}: {detail}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(failed(
            "others can read these credentials: its mode must be 0600".to_owned(),
        ));
    }
    let mut text = String::new();
    file.take(MAX_CREDENTIALS_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(parse)
        .collect()
}
