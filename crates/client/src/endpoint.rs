//! The address of one node's HTTP API.

use crate::Error;

/// `host:port` of a node that speaks plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(String);

impl Endpoint {
    /// Reads `host:port`, with or without `http://` in front.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Err(Error::InvalidInput(format!("endpoint {text:?} {why}")));
        let trimmed = text.trim();
        if trimmed.starts_with("https://") {
            return refuse("asks for TLS, but the client speaks plain HTTP only; write host:port");
        }
        let authority = trimmed.strip_prefix("http://").unwrap_or(trimmed).trim_end_matches('/');
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if matches!(port, None | Some(0)) {
            return refuse("names no port; write host:port, such as 127.0.0.1:21001");
        }
        let Ok(url) = reqwest::Url::parse(&format!("http://{authority}")) else {
            return refuse("is not an address; write host:port, such as 127.0.0.1:21001");
        };
        let only_host_and_port = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !only_host_and_port {
            return refuse("holds more than host:port");
        }
        Ok(Self(authority.to_owned()))
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.0
    }

    /// The address of `path`, which begins with a slash.
    pub(crate) fn url(&self, path: &str) -> Result<reqwest::Url, Error> {
        reqwest::Url::parse(&format!("http://{}{path}", self.0))
            .map_err(|error| Error::InvalidInput(format!("{path:?} is no path of a URL: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_read_with_and_without_a_scheme() {
        for (text, authority) in [
            ("127.0.0.1:21001", "127.0.0.1:21001"),
            ("http://node-1:80/", "node-1:80"),
            (" [::1]:21001 ", "[::1]:21001"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().authority(), authority, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "node-1",
            "https://node-1:443",
            "http://a:1/path",
            "user@a:1",
            "a:0",
            "a:99999",
            "a b:1",
            "::1",
        ] {
            assert!(matches!(Endpoint::parse(text), Err(Error::InvalidInput(_))), "{text}");
        }
    }
}
