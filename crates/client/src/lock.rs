//! Locks and elections, in the layout of etcd's recipes, so that they exclude
//! each other with `etcdctl lock` and `etcdctl elect`.
//!
//! Whoever takes part creates the key `NAME/` and its lease in hexadecimal, attached
//! to that lease. The one with the least create revision holds the lock, or leads.
//! Each of the others waits for the key just before its own to be deleted, so that
//! one release wakes one waiter. The two differ in the key's value alone: a lock's is
//! empty, a leader's is what it wants to tell.
//!
//! Invariant: a [`Held`] is handed out only after the cluster has shown, in one read,
//! that its key exists and that none before it does.

use bytes::Bytes;

use crate::error::strange;
use crate::{
    Client, Compare, Error, EventKind, Get, Item, ListOptions, Operation, Put, Range, Relation, Session,
    SortBy, Target, Txn, WatchMessage, WatchOptions,
};

/// A lock that is held, or a leadership that was won, for as long as its session lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The key that stands for it.
    pub key: Bytes,
    /// The revision at which the key was created. It grows from holder to holder:
    /// hand it on as a fence, so that a holder that has lost the lock without
    /// noticing is refused.
    pub revision: i64,
}

/// The keys of a lock or an election begin with this.
pub(crate) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

impl Session {
    /// Waits until the lock is free and takes it.
    ///
    /// # Errors
    /// `LeaseLost` if the session ends meanwhile, or the place in the queue is deleted.
    ///
    /// # Cancel safety
    /// A future that is dropped stays in the queue until the session ends.
    pub async fn lock(&self, name: impl AsRef<[u8]>) -> Result<Held, Error> {
        self.elect(name, Bytes::new()).await
    }

    /// Takes the lock if it is free; `None`, and not in the queue, if it is not.
    ///
    /// # Errors
    /// As for [`Self::lock`].
    pub async fn try_lock(&self, name: impl AsRef<[u8]>) -> Result<Option<Held>, Error> {
        let candidate = self.enter(name, Bytes::new()).await?;
        if candidate.first {
            return Ok(Some(candidate.held));
        }
        // A later hold of this session has the same key, but another create revision.
        let Held { key, revision } = candidate.held;
        let own = Compare::new(&key, Relation::Equal, Target::CreateRevision(revision));
        let leave = Txn::new().when(own).then(Operation::delete(Range::Key(key)));
        self.client().repeatable_txn(&leave).await?;
        Ok(None)
    }

    /// Waits until the election is won. `value` is what others see of the leader.
    ///
    /// # Errors and cancel safety
    /// As for [`Self::lock`].
    pub async fn elect(&self, name: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<Held, Error> {
        self.enter(name, value).await?.wait().await
    }

    /// Queues for a lock, for which `value` is empty, or for an election, without
    /// waiting.
    ///
    /// # Errors and cancel safety
    /// As for [`Self::lock`].
    pub async fn enter(
        &self,
        name: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<Candidate<'_>, Error> {
        let (prefix, value) = (prefix(name.as_ref()), value.into());
        let key = Bytes::from([prefix.as_ref(), format!("{:x}", self.lease()).as_bytes()].concat());
        let put =
            Put { key: key.clone(), value: Some(value.clone()), lease: Some(self.lease()), ..Put::default() };
        let first = Operation::Get(Get {
            range: Range::Prefix(prefix.clone()),
            limit: Some(1),
            sort_by: Some(SortBy::CreateRevision),
            keys_only: true,
            ..Get::default()
        });
        // A session that has entered before finds the key that it has created itself: no
        // other lease can have created it.
        let txn = Txn::new()
            .when(Compare::absent(&key))
            .then(Operation::Put(put))
            .then(first.clone())
            .otherwise(Operation::get(Range::Key(key.clone())))
            .otherwise(first);
        let client = self.client();
        let answer = client.repeatable_txn(&txn).await.map_err(|error| self.explain(error))?;
        let endpoint = client.preferred_endpoint();
        let revision = if answer.succeeded {
            answer.revision
        } else {
            match answer.items(0, endpoint)? {
                [own] if own.value.as_ref() == Some(&value) => own.create_revision,
                [own] => {
                    let set = Txn::new().when(Compare::exists(&key)).then(Operation::Put(Put {
                        key: key.clone(),
                        value: Some(value),
                        keep_lease: true,
                        ..Put::default()
                    }));
                    client.repeatable_txn(&set).await.map_err(|error| self.explain(error))?;
                    own.create_revision
                }
                _ => return Err(strange(endpoint, "a key that exists cannot be read")),
            }
        };
        let first = answer.items(1, endpoint)?.first().is_some_and(|item| item.key == key);
        Ok(Candidate { session: self, prefix, held: Held { key, revision }, first })
    }

    async fn wait_for_turn(&self, prefix: Bytes, held: Held) -> Result<Held, Error> {
        loop {
            let queue = self.queue(&prefix, &held).await?;
            let Some(before) = queue.before else { return Ok(held) };
            self.wait_for_deletion(before.key, queue.revision).await?;
        }
    }

    /// Finds the key just before `held` in the queue.
    async fn queue(&self, prefix: &Bytes, held: &Held) -> Result<Queue, Error> {
        let range = Range::Prefix(prefix.clone());
        let mut scan = self.client().scan(ListOptions { range, keys_only: true, ..ListOptions::default() });
        let mut exists = false;
        let mut before: Option<Item> = None;
        while let Some(item) = scan.next().await? {
            if item.key == held.key {
                exists = item.create_revision == held.revision;
            } else if item.create_revision < held.revision
                && before.as_ref().is_none_or(|before| before.create_revision < item.create_revision)
            {
                before = Some(item);
            }
        }
        if !exists {
            let message = format!("the key of lease {} was deleted while it waited", self.lease());
            return Err(Error::LeaseLost { message });
        }
        Ok(Queue { before, revision: scan.revision().unwrap_or_default() })
    }

    /// Waits until `key`, which existed at `revision`, is deleted.
    async fn wait_for_deletion(&self, key: Bytes, revision: i64) -> Result<(), Error> {
        let mut watch = self.client().watch(WatchOptions {
            range: Range::Key(key),
            from_revision: Some(revision + 1),
            only: Some(EventKind::Delete),
            ..WatchOptions::default()
        });
        loop {
            match watch.next().await {
                Ok(WatchMessage::Change { .. }) => return Ok(()),
                Ok(WatchMessage::Created { .. } | WatchMessage::Progress { .. }) => {}
                // Whether it was deleted in what is compacted, the queue will tell.
                Err(error) if error.code() == "compacted" => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A place in the queue for a lock or an election; it lasts until the session ends.
#[derive(Debug)]
pub struct Candidate<'a> {
    session: &'a Session,
    prefix: Bytes,
    held: Held,
    first: bool,
}

impl Candidate<'_> {
    /// Whether nobody was before it: then it holds, and need not wait.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Waits until nobody is before it.
    ///
    /// # Errors and cancel safety
    /// As for [`Session::lock`].
    pub async fn wait(self) -> Result<Held, Error> {
        if self.first {
            return Ok(self.held);
        }
        tokio::select! {
            biased;
            error = self.session.lost() => Err(error),
            held = self.session.wait_for_turn(self.prefix, self.held) => held,
        }
    }
}

#[derive(Debug)]
struct Queue {
    before: Option<Item>,
    revision: i64,
}

impl Client {
    /// Follows an election without taking part in it.
    pub fn observe(&self, name: impl AsRef<[u8]>) -> Observer {
        Observer { client: self.clone(), prefix: prefix(name.as_ref()), following: None, told: Told::Nothing }
    }
}

/// Tells who leads, from the present on.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    prefix: Bytes,
    following: Option<Following>,
    told: Told,
}

/// What was told last.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Nobody,
    Leads(Leader),
}

/// The candidates, and the watch that keeps them up to date.
#[derive(Debug)]
struct Following {
    candidates: Vec<Item>,
    watch: crate::Watch,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The leader's key.
    pub key: Bytes,
    /// What it tells.
    pub value: Bytes,
    /// The revision at which it became a candidate, as in [`Held::revision`].
    pub revision: i64,
}

impl Observer {
    /// Who leads now at the first call, then each time this changes: `None` if
    /// nobody does. It waits for as long as nothing changes.
    ///
    /// # Errors
    /// As for [`crate::Watch::next`], except that after a compaction it goes on with
    /// the present.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Leader>, Error> {
        loop {
            if let Some(following) = &self.following {
                let leader = following.leader();
                let told = leader.clone().map_or(Told::Nobody, Told::Leads);
                if self.told != told {
                    self.told = told;
                    return Ok(leader);
                }
            }
            self.follow().await?;
        }
    }

    /// Takes in what has changed; at the start, everything.
    async fn follow(&mut self) -> Result<(), Error> {
        let Some(following) = &mut self.following else {
            let range = Range::Prefix(self.prefix.clone());
            let mut scan = self.client.scan(ListOptions { range: range.clone(), ..ListOptions::default() });
            let mut candidates = Vec::new();
            while let Some(item) = scan.next().await? {
                candidates.push(item);
            }
            let from_revision = scan.revision().map(|revision| revision + 1);
            let watch = self.client.watch(WatchOptions { range, from_revision, ..WatchOptions::default() });
            self.following = Some(Following { candidates, watch });
            return Ok(());
        };
        match following.watch.next().await {
            Ok(WatchMessage::Change { events, .. }) => {
                for event in events {
                    following.candidates.retain(|item| item.key != event.key());
                    if let crate::Event::Put { item, .. } = event {
                        following.candidates.push(item);
                    }
                }
                Ok(())
            }
            Ok(WatchMessage::Created { .. } | WatchMessage::Progress { .. }) => Ok(()),
            Err(error) if error.code() == "compacted" => {
                self.following = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Following {
    fn leader(&self) -> Option<Leader> {
        let first = self.candidates.iter().min_by_key(|item| item.create_revision)?;
        Some(Leader {
            key: first.key.clone(),
            value: first.value.clone().unwrap_or_default(),
            revision: first.create_revision,
        })
    }
}

#[cfg(test)]
mod tests;
