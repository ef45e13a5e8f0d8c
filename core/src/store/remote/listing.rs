//! Listings as the servers send them.
//!
//! A bucket may have objects of others whose names are no paths: `a//b`, or a directory's `a/`, which some tools write. The crate
//! `object_store` takes a whole page that has one for broken. So these are cut out of the answer before it sees that.

use bytes::Bytes;
use http::Request;
use object_store::path::Path;

/// What stands around an object, and around its name in there.
const KINDS: [(&str, &str, &str, &str); 2] = [
    ("<Contents>", "</Contents>", "<Key>", "</Key>"),
    ("<Blob>", "</Blob>", "<Name>", "</Name>"),
];

/// Whether the answer to a request is a listing: of S3 and Google, or of Azure.
pub(super) fn is_asked_for<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let lists = |pair: &str| matches!(pair, "list-type=2" | "comp=list");
    request.method() == http::Method::GET && query.split('&').any(lists)
}

/// A listing without the objects whose names are no paths.
pub(super) fn without_foreign(body: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&body) else {
        return body;
    };
    let kind = KINDS.iter().find(|(open, ..)| text.contains(open));
    let Some((open, close, name_open, name_close)) = kind else {
        return body;
    };
    let mut kept = String::new();
    let (mut rest, mut foreign) = (text, false);
    while let Some((before, object)) = rest.split_once(open) {
        kept.push_str(before);
        let Some((object, after)) = object.split_once(close) else {
            return body;
        };
        rest = after;
        let name = object
            .split_once(name_open)
            .and_then(|(_, name)| Some(name.split_once(name_close)?.0));
        if name.is_some_and(|name| !is_path(&plain(name))) {
            foreign = true;
        } else {
            kept.extend([*open, object, *close]);
        }
    }
    if !foreign {
        return body;
    }
    kept.push_str(rest);
    kept.into()
}

/// Whether it is a path as it stands: slashes at its ends are passed over in silence, and the object would not be found.
fn is_path(name: &str) -> bool {
    Path::parse(name).is_ok_and(|path| path.as_ref() == name)
}

/// Text of XML without its escapes.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, escaped)) = rest.split_once('&') {
        plain.push_str(before);
        let (name, after) = escaped.split_once(';').unwrap_or((escaped, ""));
        let number = || {
            let digits = name.strip_prefix('#')?;
            let number = match digits.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => digits.parse(),
            };
            char::from_u32(number.ok()?)
        };
        let known = match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => number(),
        };
        plain.extend(known);
        rest = after;
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> String {
        let objects = names
            .iter()
            .map(|name| format!("<Contents><Key>{name}</Key><Size>1</Size></Contents>"));
        format!("<R><Name>b</Name>{}<X/></R>", objects.collect::<String>())
    }

    #[test]
    fn only_names_that_are_no_paths_go() {
        let cleaned = |names: &[&str]| without_foreign(listing(names).into());
        let ours = ["a/b", "a&amp;b", "x &#47; y", "&#xe4;"];
        assert_eq!(cleaned(&ours), listing(&ours));
        let mixed = [
            "a//b", "a/b", "a/./c", "&#x2e;.", "a/../c", "a/", "a/&#1;", "a&#47;/b", "c",
        ];
        assert_eq!(cleaned(&mixed), listing(&["a/b", "c"]));
        let azure =
            "<E><Blobs><Blob><Name>a//b</Name></Blob><Blob><Name>c</Name></Blob></Blobs></E>";
        let cleaned = "<E><Blobs><Blob><Name>c</Name></Blob></Blobs></E>";
        assert_eq!(without_foreign(azure.into()), cleaned);
        for broken in [
            "",
            "<Contents>",
            "<Contents><Key>a//b</Key>",
            "<Contents><Key>a//b</Contents>",
            "<Contents></Contents></Key>",
            "</Contents><Contents>",
        ] {
            assert_eq!(without_foreign(broken.into()), broken);
        }
        let bytes = Bytes::from_static(b"<Contents><Key>\xff//</Key></Contents>");
        assert_eq!(without_foreign(bytes.clone()), bytes);
    }
}
