//! What stands behind the question mark of a path, percent-encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Everything but the characters that mean themselves wherever they stand.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Bytes as they can stand anywhere in a path or a query.
pub(crate) fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, RESERVED).to_string()
}

/// Collects the parameters; those that are not given are left out.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<String>);

impl Query {
    pub(crate) fn bytes(&mut self, name: &str, value: Option<&[u8]>) {
        self.0.extend(value.map(|value| format!("{name}={}", encode(value))));
    }

    pub(crate) fn text(&mut self, name: &str, value: Option<&str>) {
        self.bytes(name, value.map(str::as_bytes));
    }

    pub(crate) fn number(&mut self, name: &str, value: Option<impl Into<i128>>) {
        self.0.extend(value.map(|value| format!("{name}={}", value.into())));
    }

    pub(crate) fn flag(&mut self, name: &str, on: bool) {
        self.0.extend(on.then(|| format!("{name}=true")));
    }

    pub(crate) fn append_to(self, path: impl Into<String>) -> String {
        let path = path.into();
        if self.0.is_empty() { path } else { format!("{path}?{}", self.0.join("&")) }
    }
}
