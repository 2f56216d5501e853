//! Where in a client's JSON something is wrong: `then[3].put.key`.
//!
//! What serde refuses comes with a line and a column, from which [`locate`] reads
//! the place; what is refused later, when its meaning is looked at, is reached by
//! way of a [`Place`]. Both look at the text only when something is wrong with it.

use std::fmt;

use super::error::Failure;

/// Longer places are cut, and the end is what is kept.
const MAX_PLACE_CHARS: usize = 160;
/// Longer names of fields are cut: a client may send any.
const MAX_NAME_CHARS: usize = 32;

/// The way to a part of a JSON document, made of borrowed steps so that it costs
/// nothing as long as nothing is wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// The whole document.
    Root,
    /// A field of an object.
    Field(&'a Place<'a>, &'static str),
    /// An item of a list.
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    /// The field `name` of what is here.
    pub(super) fn field(&self, name: &'static str) -> Place<'_> {
        Place::Field(self, name)
    }

    /// The item of what is here at `index`.
    pub(super) fn item(&self, index: usize) -> Place<'_> {
        Place::Item(self, index)
    }

    /// Says what is wrong here: `then[3].put.value_base64` and then `what`.
    pub(super) fn refuse(&self, what: impl fmt::Display) -> Failure {
        Failure::invalid(format!("{} {what}", shortened(self.to_string())))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the body"),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(Self::Root, index) => write!(f, "[{index}]"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Where in `json` an error about its content lies; `None` for the whole document
/// and for what is no JSON at all.
pub(super) fn locate(json: &[u8], error: &serde_json::Error) -> Option<String> {
    if !error.is_data() {
        return None;
    }
    let lines = json.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let read = json.get(..before + error.column()).unwrap_or(json);
    let mut steps = Vec::new();
    for mark in (Marks { json: read, at: 0 }) {
        match (mark, steps.last_mut()) {
            (Mark::Byte(b'{'), _) => steps.push(Step::Field(None)),
            (Mark::Byte(b'['), _) => steps.push(Step::Item(0)),
            (Mark::Byte(b'}' | b']'), _) => {
                steps.pop();
            }
            (Mark::Byte(b','), Some(Step::Item(index))) => *index += 1,
            (Mark::Byte(b','), Some(Step::Field(name))) => *name = None,
            (Mark::Text(text), Some(Step::Field(name))) => *name = name.or(Some(text)),
            (Mark::Byte(_) | Mark::Text(_), _) => {}
        }
    }
    let mut place = String::new();
    for step in steps {
        match step {
            Step::Field(None) => {}
            Step::Field(Some(name)) => {
                if !place.is_empty() {
                    place.push('.');
                }
                place.extend(String::from_utf8_lossy(name).chars().take(MAX_NAME_CHARS));
            }
            Step::Item(index) => place.extend(["[", &index.to_string(), "]"]),
        }
    }
    (!place.is_empty()).then(|| shortened(place))
}

/// How many objects and lists a JSON text has, which bounds how many values it is read into:
/// what has fields is read from a list of their values as well.
pub(super) fn count_objects(json: &[u8]) -> usize {
    Marks { json, at: 0 }.filter(|mark| matches!(mark, Mark::Byte(b'{' | b'['))).count()
}

fn shortened(place: String) -> String {
    let too_many = place.chars().count().saturating_sub(MAX_PLACE_CHARS);
    if too_many == 0 {
        return place;
    }
    let kept: String = place.chars().skip(too_many).collect();
    format!("…{kept}")
}

enum Step<'a> {
    /// Inside an object, at the field of this name once it has been read.
    Field(Option<&'a [u8]>),
    /// Inside a list, at this index.
    Item(usize),
}

enum Mark<'a> {
    /// One of `{}[],`.
    Byte(u8),
    /// A string's inside, escapes as they are.
    Text(&'a [u8]),
}

/// What gives a JSON text its structure. The text need not be well-formed.
struct Marks<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Marks<'a> {
    type Item = Mark<'a>;

    fn next(&mut self) -> Option<Mark<'a>> {
        loop {
            let byte = *self.json.get(self.at)?;
            self.at += 1;
            match byte {
                b'{' | b'}' | b'[' | b']' | b',' => return Some(Mark::Byte(byte)),
                b'"' => return self.text(),
                _ => {}
            }
        }
    }
}

impl<'a> Marks<'a> {
    /// The rest of a string that has just begun; `None` if it does not end.
    fn text(&mut self) -> Option<Mark<'a>> {
        let begin = self.at;
        loop {
            let byte = *self.json.get(self.at)?;
            let end = self.at;
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return self.json.get(begin..end).map(Mark::Text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Tree {
        #[serde(default)]
        a: Vec<Tree>,
        #[serde(default, rename = "b\"{[,")]
        b: Option<Box<Tree>>,
        #[serde(default)]
        n: i64,
    }

    fn place_of(json: &str) -> Option<String> {
        let error = serde_json::from_str::<Tree>(json).unwrap_err();
        locate(json.as_bytes(), &error)
    }

    #[test]
    fn an_error_is_located_by_fields_and_indexes() {
        for (json, place) in [
            (r#"{"n":"x"}"#, "n"),
            (r#"{"n":1.5,"a":[]}"#, "n"),
            (r#"{"a":[{"n":1},{"n":1},{"n":null}]}"#, "a[2].n"),
            (r#"{"a":[{"n":1}, 7 ,{"n":2}]}"#, "a[1]"),
            (r#"{"n":1,"a":{"x":1}}"#, "a"),
            (r#"{"a":[{},{"a":[{"c":1}]}]}"#, "a[1].a[0].c"),
            (r#"{"a":[{},{"n":1,"n":2}]}"#, "a[1].n"),
            ("{\"a\":[\n{\"n\":1},\n\n {\"n\" :\n [] } ]}", "a[1].n"),
            (r#"{"b\"{[,":{"n":true}}"#, r#"b\"{[,.n"#),
        ] {
            assert_eq!(place_of(json).as_deref(), Some(place), "{json}");
        }
        for root in ["1", "{", r#"{"a":[{]}"#, ""] {
            assert_eq!(place_of(root), None, "{root}");
        }
    }

    #[test]
    fn deep_and_long_places_are_cut_at_their_begin() {
        let deep = format!("{}{}{}", r#"{"a":[{},"#.repeat(40), r#"{"n":"x"}"#, "]}".repeat(40));
        let place = place_of(&deep).unwrap();
        assert!(place.starts_with('…') && place.ends_with("a[1].a[1].n"), "{place}");
        assert_eq!(place.chars().count(), MAX_PLACE_CHARS + 1);
        let long = format!(r#"{{"{}":1}}"#, "x".repeat(100_000));
        assert_eq!(place_of(&long), Some("x".repeat(MAX_NAME_CHARS)));
    }

    #[test]
    fn a_place_is_told_by_its_steps() {
        let (root, list, item) = (Place::Root, Place::Root.field("then"), Place::Root.item(4));
        let inner = list.item(3);
        assert_eq!(inner.field("put").to_string(), "then[3].put");
        assert_eq!(item.to_string(), "[4]");
        assert_eq!(root.refuse("is wrong").to_string(), "the body is wrong");
    }

    #[test]
    fn objects_and_lists_are_counted_outside_of_strings() {
        assert_eq!(count_objects(br#"{"a{":["{\"{[",{},{"b":{}}]}"#), 5);
        assert_eq!(count_objects(b"[null,[],[[]]]"), 4);
    }

    proptest! {
        #[test]
        fn any_text_is_searched_without_trouble(json in any::<Vec<u8>>()) {
            count_objects(&json);
            if let Err(error) = serde_json::from_slice::<Tree>(&json) {
                locate(&json, &error);
            }
        }
    }
}
