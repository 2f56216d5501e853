//! What a database holds: ordered maps of which a copy costs next to nothing, the
//! changes to them, and their form in a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;

/// A key or a value.
pub(crate) type Bytes = Arc<[u8]>;
/// One column family.
pub(crate) type Family = RedBlackTreeMapSync<Bytes, Bytes>;

/// All families by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Content(pub(crate) BTreeMap<String, Family>);

/// One change.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Put { family: Arc<str>, key: Bytes, value: Bytes },
    Delete { family: Arc<str>, key: Bytes },
    DeleteRange { family: Arc<str>, start: Bytes, end: Bytes },
}

impl Content {
    fn family(&mut self, name: &str) -> &mut Family {
        self.0.get_mut(name).expect("a change is to a family of its database")
    }

    /// Carries the changes of one batch out, in their order.
    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put { family, key, value } => {
                    self.family(family).insert_mut(key.clone(), value.clone());
                }
                Change::Delete { family, key } => {
                    self.family(family).remove_mut(key);
                }
                Change::DeleteRange { family, start, end } => {
                    self.delete(family, |key| **start <= *key && *key < **end);
                }
            }
        }
    }

    /// Removes the keys of a family that `is_gone` names.
    pub(crate) fn delete(&mut self, family: &str, is_gone: impl Fn(&[u8]) -> bool) {
        let family = self.family(family);
        let gone: Vec<Bytes> = family.keys().filter(|key| is_gone(key)).cloned().collect();
        for key in gone {
            family.remove_mut(&key);
        }
    }

    /// All of it as the content of a file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, family) in &self.0 {
            put(&mut out, name.as_bytes());
            out.extend_from_slice(&(family.size() as u64).to_le_bytes());
            for (key, value) in family {
                put(&mut out, key);
                put(&mut out, value);
            }
        }
        out
    }

    /// What [`Self::encode`] wrote; `None` if it is damaged.
    pub(crate) fn decode(mut file: &[u8]) -> Option<Self> {
        let mut content = Self::default();
        while !file.is_empty() {
            let name = String::from_utf8(take(&mut file)?.to_vec()).ok()?;
            let mut family = Family::new_sync();
            for _ in 0..number(&mut file)? {
                let key = Bytes::from(take(&mut file)?);
                family.insert_mut(key, Bytes::from(take(&mut file)?));
            }
            content.0.insert(name, family);
        }
        Some(content)
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn number(file: &mut &[u8]) -> Option<u64> {
    let (number, rest) = file.split_first_chunk()?;
    *file = rest;
    Some(u64::from_le_bytes(*number))
}

fn take<'a>(file: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(file)?).ok()?;
    let (taken, rest) = file.split_at_checked(length)?;
    *file = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_what_was_written_to_it() {
        let mut content = Content::default();
        content.0.insert("empty".to_owned(), Family::new_sync());
        content.0.insert("full".to_owned(), Family::new_sync());
        for number in 0_u8..50 {
            let (key, value) = (Bytes::from([number]), Bytes::from(vec![number; usize::from(number)]));
            content.apply(&[Change::Put { family: "full".into(), key, value }]);
        }
        content.apply(&[Change::DeleteRange {
            family: "full".into(),
            start: Bytes::from([10]),
            end: Bytes::from([20]),
        }]);
        let file = content.encode();
        assert_eq!(content.0["full"].size(), 40);
        assert_eq!(Content::decode(&file), Some(content));
        assert_eq!(Content::decode(&file[..file.len() - 1]), None);
    }
}
