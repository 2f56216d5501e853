//! Many keys: pages, cursors, counts.

use std::collections::VecDeque;

use reqwest::Method;
use serde::Deserialize;

use crate::call::{Call, Effect};
use crate::error::strange;
use crate::item::{ItemBody, decode_items};
use crate::query::Query;
use crate::{Client, Consistency, Error, Item, Range};

/// Keys that a scan with a limit asks for at once, well below what a node allows.
const SCAN_PAGE_KEYS: u64 = 1_000;

/// How to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Which keys.
    pub range: Range,
    /// The most keys to return: of one page in [`Client::list`], of all pages
    /// together in [`Client::scan`].
    pub limit: Option<u64>,
    /// Leaves the values out.
    pub keys_only: bool,
    /// The past revision to read; the current one if `None`.
    pub revision: Option<i64>,
    /// How fresh the answer must be.
    pub consistency: Consistency,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The revision that this and every later page of the listing reflects.
    pub revision: i64,
    /// The keys, in byte order.
    pub items: Vec<Item>,
    /// Whether keys are left after this page.
    pub more: bool,
    /// Where the next page begins, if there is one.
    pub cursor: Option<String>,
}

/// How many keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Count {
    /// The revision that was counted at.
    pub revision: i64,
    /// The number of keys.
    pub count: u64,
}

impl Client {
    /// One page, beginning at `cursor` or at the start of the range.
    ///
    /// # Errors
    /// `Api` with code `compacted` if the listing's revision has been compacted.
    pub async fn list(&self, options: &ListOptions, cursor: Option<&str>) -> Result<Page, Error> {
        let mut query = query(options);
        query.number("limit", options.limit);
        query.flag("keys_only", options.keys_only);
        query.text("cursor", cursor);
        let answer = self.execute(&list_call(query)).await?;
        let page: PageBody = answer.json()?;
        let items = decode_items(page.items, &answer.endpoint)?;
        Ok(Page { revision: page.revision, items, more: page.more, cursor: page.cursor })
    }

    /// The number of keys in the range.
    pub async fn count(&self, options: &ListOptions) -> Result<Count, Error> {
        let mut query = query(options);
        query.flag("count_only", true);
        self.execute(&list_call(query)).await?.json()
    }

    /// The store's revision, after something that `settled` says has happened: that
    /// it cannot be read must not seem to undo it.
    pub(crate) async fn revision_after(&self, settled: &str) -> Result<i64, Error> {
        let range = Range::key([0]);
        let counted = self.count(&ListOptions { range, ..ListOptions::default() }).await;
        counted.map(|count| count.revision).map_err(|error| Error::OutcomeUnknown {
            message: format!("{settled}, but at which revision cannot be read: {error}"),
        })
    }

    /// All keys of the range at one revision, page by page.
    pub fn scan(&self, options: ListOptions) -> Scan {
        Scan {
            client: self.clone(),
            left: options.limit,
            options,
            cursor: None,
            revision: None,
            more: true,
            waiting: VecDeque::new(),
        }
    }
}

fn list_call(query: Query) -> Call {
    Call::new(Method::GET, query.append_to("/v1/kv"), Effect::Read)
}

fn query(options: &ListOptions) -> Query {
    let mut query = Query::default();
    options.range.add_to_listing(&mut query);
    query.number("revision", options.revision);
    query.text("consistency", options.consistency.parameter());
    query
}

/// Follows the cursors of a listing. Holds one page at a time.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    options: ListOptions,
    cursor: Option<String>,
    revision: Option<i64>,
    left: Option<u64>,
    more: bool,
    waiting: VecDeque<Item>,
}

impl Scan {
    /// The next page that has anything in it; `None` at the end.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Item>>, Error> {
        if !self.waiting.is_empty() {
            return Ok(Some(std::mem::take(&mut self.waiting).into()));
        }
        while self.more && self.left != Some(0) {
            let limit = self.left.map(|left| left.min(SCAN_PAGE_KEYS));
            let options = ListOptions { limit, ..self.options.clone() };
            let page = self.client.list(&options, self.cursor.as_deref()).await?;
            let stuck =
                page.more && (page.cursor.is_none() || (page.cursor == self.cursor && page.items.is_empty()));
            if stuck {
                let endpoint = self.client.preferred_endpoint();
                return Err(strange(endpoint, "more keys are announced without a cursor that leads to them"));
            }
            self.revision.get_or_insert(page.revision);
            self.more = page.more;
            self.cursor = page.cursor;
            self.left = self.left.map(|left| left.saturating_sub(page.items.len() as u64));
            if !page.items.is_empty() {
                return Ok(Some(page.items));
            }
        }
        Ok(None)
    }

    /// The next key; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Item>, Error> {
        if self.waiting.is_empty() {
            self.waiting = self.next_page().await?.unwrap_or_default().into();
        }
        Ok(self.waiting.pop_front())
    }

    /// The revision that all pages reflect; known once a page has been read.
    pub fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// Whether keys are left beyond what was returned, as far as is known.
    pub fn more(&self) -> bool {
        self.more || !self.waiting.is_empty()
    }
}

#[derive(Debug, Deserialize)]
struct PageBody {
    revision: i64,
    items: Vec<ItemBody>,
    #[serde(default)]
    more: bool,
    cursor: Option<String>,
}

#[cfg(test)]
mod tests;
