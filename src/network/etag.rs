//! Entity tags: a key's modification revision in double quotes.
//!
//! Parsing follows RFC 9110 §8.8.3 and §13.1. A write's condition becomes part
//! of the replicated command and is judged when that is applied, so it must be
//! one that a command can carry; a read's conditions are judged here.

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::command::Condition;
use crate::error::Error;

/// The tag of a modification revision.
pub(super) fn format(mod_revision: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{mod_revision}\"")).expect("digits and quotes are a valid header value")
}

/// What a precondition header lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// `*`: any, as long as there is one.
    Any,
    /// The tags, in order.
    List(Vec<Tag>),
}

/// One tag. A tag that is no revision is well-formed but is no key's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tag {
    weak: bool,
    revision: Option<i64>,
}

impl Tags {
    /// Whether a tag is `mod_revision` and strong: what `If-Match` compares.
    fn contains_strong(&self, mod_revision: i64) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| !tag.weak && tag.revision == Some(mod_revision)),
        }
    }

    /// Whether a tag is `mod_revision`, weak or not: what `If-None-Match` compares.
    fn contains(&self, mod_revision: i64) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| tag.revision == Some(mod_revision)),
        }
    }
}

/// The condition that a write's headers state.
///
/// # Errors
/// `Invalid` for what a single write can't be conditional on: weak tags, lists,
/// tags that are no revision, both headers at once.
pub(super) fn write_condition(headers: &HeaderMap) -> Result<Option<Condition>, Error> {
    let if_match = header_tags(headers, &header::IF_MATCH)?;
    let if_none_match = header_tags(headers, &header::IF_NONE_MATCH)?;
    let invalid = |message: &str| Err(Error::Invalid(message.to_owned()));
    match (if_match, if_none_match) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => invalid("If-Match and If-None-Match can't be combined on a write"),
        (Some(Tags::Any), None) => Ok(Some(Condition::Exists)),
        (None, Some(Tags::Any)) => Ok(Some(Condition::Absent)),
        (None, Some(Tags::List(_))) => invalid("If-None-Match on a write takes only *"),
        (Some(Tags::List(tags)), None) => match tags.as_slice() {
            [Tag { weak: false, revision: Some(revision) }] => Ok(Some(Condition::ModRevision(*revision))),
            _ => invalid(
                "If-Match on a write takes * or one strong tag that is a revision of at least 1, such as \"7\"",
            ),
        },
    }
}

/// The conditions that a read's headers state.
#[derive(Debug)]
pub(super) struct ReadConditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// What a read's conditions say about a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Proceed,
    /// The client has it already.
    NotModified,
    /// The client wanted another one.
    Failed,
}

impl ReadConditions {
    /// Reads them.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            if_match: header_tags(headers, &header::IF_MATCH)?,
            if_none_match: header_tags(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Judges a key; `None` is a key that does not exist.
    pub(super) fn judge(&self, mod_revision: Option<i64>) -> Verdict {
        let wanted = |tags: &Tags| mod_revision.is_some_and(|revision| tags.contains_strong(revision));
        let known = |tags: &Tags| mod_revision.is_some_and(|revision| tags.contains(revision));
        if self.if_match.as_ref().is_some_and(|tags| !wanted(tags)) {
            Verdict::Failed
        } else if self.if_none_match.as_ref().is_some_and(known) {
            Verdict::NotModified
        } else {
            Verdict::Proceed
        }
    }
}

/// All lines of a header, read as one list.
fn header_tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Error> {
    let mut lines = headers.get_all(name);
    let Some(first) = lines.next() else { return Ok(None) };
    let malformed = || Error::Invalid(format!("{name} must be * or quoted tags such as \"7\""));
    let rest: Vec<_> = lines.collect();
    if rest.is_empty() && first.as_bytes().trim_ascii() == b"*" {
        return Ok(Some(Tags::Any));
    }
    let mut tags = Vec::new();
    for line in std::iter::once(first).chain(rest) {
        parse_list(line.as_bytes(), &mut tags).ok_or_else(malformed)?;
    }
    if tags.is_empty() { Err(malformed()) } else { Ok(Some(Tags::List(tags))) }
}

/// Appends the comma-separated tags of one line; `None` if it is malformed.
fn parse_list(line: &[u8], tags: &mut Vec<Tag>) -> Option<()> {
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        // RFC 9110 §5.6.1.2: empty list elements are to be ignored.
        if let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
            continue;
        }
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(after) => (true, after),
            None => (false, rest),
        };
        let opened = quoted.strip_prefix(b"\"")?;
        let length = opened.iter().position(|&byte| byte == b'"')?;
        let (opaque, closed) = opened.split_at_checked(length)?;
        if !opaque.iter().all(|&byte| byte == 0x21 || (0x23..=0x7e).contains(&byte) || byte >= 0x80) {
            return None;
        }
        tags.push(Tag { weak, revision: revision(opaque) });
        rest = closed.strip_prefix(b"\"")?.trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
    Some(())
}

/// A revision of at least 1 in its only decimal form.
fn revision(opaque: &[u8]) -> Option<i64> {
    if !opaque.iter().all(u8::is_ascii_digit) || opaque.starts_with(b"0") {
        return None;
    }
    std::str::from_utf8(opaque).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn writes_take_one_strong_revision_or_a_star() {
        let condition = |pairs: &[(&'static str, &str)]| write_condition(&headers(pairs));
        assert_eq!(condition(&[]).unwrap(), None);
        assert_eq!(condition(&[("if-match", "\"7\"")]).unwrap(), Some(Condition::ModRevision(7)));
        assert_eq!(condition(&[("if-match", " \"7\" , ")]).unwrap(), Some(Condition::ModRevision(7)));
        assert_eq!(condition(&[("if-match", "*")]).unwrap(), Some(Condition::Exists));
        assert_eq!(condition(&[("if-none-match", "*")]).unwrap(), Some(Condition::Absent));
        for refused in
            ["W/\"7\"", "\"7\", \"8\"", "7", "\"0\"", "\"07\"", "\"x\"", "\"-1\"", "\"7", "", "*, *", "**"]
        {
            let answer = condition(&[("if-match", refused)]);
            assert!(matches!(answer, Err(Error::Invalid(_))), "{refused}: {answer:?}");
        }
        for refused in ["\"7\"", "W/\"7\""] {
            assert!(condition(&[("if-none-match", refused)]).is_err(), "{refused}");
        }
        assert!(condition(&[("if-match", "\"7\""), ("if-none-match", "*")]).is_err());
        assert!(condition(&[("if-match", "\"7\""), ("if-match", "\"8\"")]).is_err());
    }

    #[test]
    fn reads_compare_lists_weakly_for_if_none_match_and_strongly_for_if_match() {
        let judge = |pairs: &[(&'static str, &str)], revision| {
            ReadConditions::of(&headers(pairs)).unwrap().judge(revision)
        };
        assert_eq!(judge(&[], Some(7)), Verdict::Proceed);
        assert_eq!(judge(&[("if-none-match", "\"a,b\", W/\"7\"")], Some(7)), Verdict::NotModified);
        assert_eq!(judge(&[("if-none-match", "\"6\"")], Some(7)), Verdict::Proceed);
        assert_eq!(
            judge(&[("if-none-match", "\"6\""), ("if-none-match", "\"7\"")], Some(7)),
            Verdict::NotModified
        );
        assert_eq!(judge(&[("if-none-match", "*")], Some(7)), Verdict::NotModified);
        assert_eq!(judge(&[("if-none-match", "*")], None), Verdict::Proceed);
        assert_eq!(judge(&[("if-match", "\"6\",\"7\"")], Some(7)), Verdict::Proceed);
        assert_eq!(judge(&[("if-match", "W/\"7\"")], Some(7)), Verdict::Failed);
        assert_eq!(judge(&[("if-match", "*")], None), Verdict::Failed);
        assert!(ReadConditions::of(&headers(&[("if-none-match", "\"7\" \"8\"")])).is_err());
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_refused(line in any::<Vec<u8>>()) {
            let _ = parse_list(&line, &mut Vec::new());
        }

        #[test]
        fn what_is_formatted_is_parsed(revision in 1..i64::MAX) {
            let mut tags = Vec::new();
            prop_assert_eq!(parse_list(format(revision).as_bytes(), &mut tags), Some(()));
            prop_assert_eq!(tags, vec![Tag { weak: false, revision: Some(revision) }]);
        }
    }
}
