//! A range as a stream of parts: of any size, in memory for one part at a time.
//!
//! All parts are of one revision, the one of the first. The last part alone has the header,
//! whether there is more, and the count, so that all of them merged are what `Range` would have
//! answered. A compaction that overtakes the stream ends it with an error.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream;
use kvorum_etcd_proto::etcdserverpb as pb;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

use super::{Context, convert, counted, status};
use crate::keyspace::{KeyValue, RangeRequest};
use crate::mvcc::RangeQuery;
use crate::service::Consistency;

/// Bytes of keys and values in a part.
const PART_BYTES: usize = 256 << 10;
/// Items in a part.
const PART_ITEMS: usize = 4_096;

/// Reads the first part, so that what is wrong with the request is its answer, and streams on.
pub(super) async fn start(
    context: Arc<Context>,
    request: RangeRequest,
    consistency: Consistency,
) -> Result<Response<BoxStream<pb::RangeStreamResponse>>, Status> {
    // Only keys in their order can be read part by part.
    if request.sort.is_some() || request.revisions.any() || request.count_only {
        return whole(&context, request, consistency).await;
    }
    let limit = request.limit.unwrap_or(u64::MAX);
    let mut pages = Pages { context, request, limit, sent: 0, more: true, revision: 0 };
    let first = pages.next(consistency).await?;
    // One part is held while the client takes the one before it.
    let held = if pages.more { 2 * PART_BYTES } else { 0 };
    let held = pages.context.service().hold_answer(held).map_err(|error| status::of(&error))?;
    let parts = stream::try_unfold((Some(first), pages), async |(first, mut pages)| {
        let part = match first {
            Some(first) => first,
            None if pages.more => pages.next(Consistency::Local).await?,
            None => return Ok(None),
        };
        Ok(Some((part, (None, pages))))
    });
    let parts: BoxStream<_> = Box::pin(parts);
    Ok(counted(parts, held))
}

struct Pages {
    context: Arc<Context>,
    /// What is left to be read.
    request: RangeRequest,
    limit: u64,
    sent: u64,
    /// Whether there is another part to send.
    more: bool,
    /// The store's revision when the stream began.
    revision: i64,
}

impl Pages {
    async fn next(&mut self, consistency: Consistency) -> Result<pb::RangeStreamResponse, Status> {
        let left = usize::try_from(self.limit - self.sent).unwrap_or(usize::MAX);
        let query = RangeQuery {
            start: self.request.keys.start().clone(),
            end: self.request.keys.end(),
            at: self.request.at,
            limit: left.min(PART_ITEMS),
            max_bytes: PART_BYTES,
            keys_only: self.request.keys_only,
            count_only: false,
        };
        let service = self.context.service();
        let page = service.range(query, consistency).await.map_err(|error| status::of(&error))?;
        if self.revision == 0 {
            self.revision = page.revision;
            self.request.at = Some(page.at);
        }
        self.sent += page.items.len() as u64;
        self.more = page.more && self.sent < self.limit;
        let mut answer = pb::RangeResponse::default();
        if self.more {
            let last = page.items.last().map(|item| item.key.clone());
            let last = last.ok_or_else(|| Status::internal("etcdserver: a part without keys has more"))?;
            self.request.keys = self.request.keys.after(&last);
        } else {
            answer.header = Some(self.context.header(self.revision));
            answer.more = page.more;
            let rest = if page.more { self.count_rest(page.items.last()).await? } else { 0 };
            answer.count = i64::try_from(self.sent.saturating_add(rest)).unwrap_or(i64::MAX);
        }
        answer.kvs = page.items.into_iter().map(convert::key_value).collect();
        Ok(pb::RangeStreamResponse { range_response: Some(answer) })
    }

    /// How many keys lie behind the last one that the limit let through.
    async fn count_rest(&self, last: Option<&KeyValue>) -> Result<u64, Status> {
        let keys = last.map_or_else(|| self.request.keys.clone(), |item| self.request.keys.after(&item.key));
        let request = RangeRequest { at: self.request.at, count_only: true, ..RangeRequest::of(keys) };
        let counted = self.context.service().read(request, Consistency::Local).await;
        Ok(counted.map_err(|error| status::of(&error))?.1.count)
    }
}

/// A range that has to be read as a whole before its first item is known.
async fn whole(
    context: &Context,
    request: RangeRequest,
    consistency: Consistency,
) -> Result<Response<BoxStream<pb::RangeStreamResponse>>, Status> {
    let read = context.service().read(request, consistency).await;
    let (revision, mut found) = read.map_err(|error| status::of(&error))?;
    let all = std::mem::take(&mut found.counted);
    let mut parts = VecDeque::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for item in std::mem::take(&mut found.items) {
        let size = item.key.len() + item.record.value.len();
        if !part.is_empty() && (part.len() == PART_ITEMS || bytes + size > PART_BYTES) {
            parts.push_back(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(item);
    }
    found.items = part;
    let mut last = Some(convert::range_response(context.header(revision), found));
    let answers = std::iter::from_fn(move || match parts.pop_front() {
        Some(part) => {
            let kvs = part.into_iter().map(convert::key_value).collect();
            Some(pb::RangeResponse { kvs, ..pb::RangeResponse::default() })
        }
        None => last.take(),
    });
    let answers = answers.map(|answer| Ok(pb::RangeStreamResponse { range_response: Some(answer) }));
    let answers: BoxStream<_> = Box::pin(stream::iter(answers));
    Ok(counted(answers, all))
}
