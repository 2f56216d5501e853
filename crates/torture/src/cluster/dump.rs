//! What all nodes hold at the end, read from each by itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::error::HarnessError;
use super::{Cluster, TICK};
use crate::history::{NodeId, NodeState, Record};

/// How long one page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
struct Page {
    revision: i64,
    items: Vec<Item>,
    more: bool,
    cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    /// Absent if it is not text, which no client of a run writes.
    key: Option<String>,
    value: Option<String>,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    #[serde(default)]
    lease: i64,
}

impl Cluster {
    /// Waits until all nodes have applied the same log and reads what each of them then
    /// holds. Clients must have stopped; leases that still end make it begin again.
    pub async fn final_states(&mut self, limit: Duration) -> Result<Vec<NodeState>, HarnessError> {
        let end = Instant::now() + limit;
        loop {
            self.settle(end.saturating_duration_since(Instant::now())).await?;
            let mut states = Vec::new();
            for id in self.ids() {
                states.push(self.state_of(id).await.map_err(HarnessError::Refused)?);
            }
            let mut indexes = states.iter().map(|state| state.as_ref().map(|state| state.applied_index));
            let first = indexes.next().flatten();
            if first.is_some() && indexes.all(|index| index == first) {
                return Ok(states.into_iter().flatten().collect());
            }
            if Instant::now() >= end {
                let goal = "all nodes stand still at one log index".to_owned();
                let seen = format!("{:?}", self.statuses().await);
                return Err(HarnessError::TooLate { waited: limit, goal, seen });
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// A node's state; `None` if it changed while it was read.
    async fn state_of(&self, id: NodeId) -> Result<Option<NodeState>, String> {
        let before = self.status(id).await?;
        let Some(records) = self.records_of(id, before.revision).await? else { return Ok(None) };
        let after = self.status(id).await?;
        if (before.revision, before.applied_index) != (after.revision, after.applied_index) {
            return Ok(None);
        }
        Ok(Some(NodeState {
            node: id,
            revision: before.revision,
            applied_index: before.applied_index.unwrap_or(0),
            state_hash: before.state_hash,
            records,
        }))
    }

    async fn records_of(
        &self,
        id: NodeId,
        revision: i64,
    ) -> Result<Option<BTreeMap<String, Record>>, String> {
        let node = self.node(id).ok_or("there is no such node")?;
        let mut records = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/kv?consistency=local&limit=5000{cursor}");
            let page: Page = self.http.get(node.direct(), &path, PAGE_LIMIT).await?.parse()?;
            if page.revision != revision {
                return Ok(None);
            }
            for item in page.items {
                let (Some(key), Some(value)) = (item.key, item.value) else {
                    return Err(format!("node {id} holds a key or a value that is not text"));
                };
                let record = Record {
                    value,
                    create_revision: item.create_revision,
                    mod_revision: item.mod_revision,
                    version: item.version,
                    lease: item.lease,
                };
                if records.insert(key.clone(), record).is_some() {
                    return Err(format!("node {id} lists {key} twice"));
                }
            }
            match page.cursor {
                Some(next) if page.more => cursor = format!("&cursor={next}"),
                Some(_) | None => return Ok(Some(records)),
            }
        }
    }
}
