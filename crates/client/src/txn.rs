//! Transactions: compare, then one of two lists of operations, as one write.
//!
//! A [`Txn`] is built here and judged by the cluster alone: which operations make
//! no sense together, it says. A comparison that does not hold is no error.

use bytes::Bytes;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::call::{Answer, Call, Effect};
use crate::error::strange;
use crate::item::{ItemBody, decode_items, insert_shorter};
use crate::kv::{keyed_call, new_idempotency_key};
use crate::query::Query;
use crate::{Client, Consistency, Error, Item, Range};

/// How what a key has relates to what is compared with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It is the same.
    Equal,
    /// It is not the same.
    NotEqual,
    /// It is greater.
    Greater,
    /// It is less.
    Less,
}

impl Relation {
    /// The sign that stands for it: `=`, `!=`, `>` or `<`.
    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::Less => "<",
        }
    }
}

/// What of a key is compared, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Its value; of a key that does not exist, no relation to any value holds.
    Value(Bytes),
    /// How many times it was set since it was created; 0 if it does not exist.
    Version(i64),
    /// The revision at which it was created; 0 if it does not exist.
    CreateRevision(i64),
    /// The revision of its last write; 0 if it does not exist.
    ModRevision(i64),
    /// Its lease; 0 if it has none or does not exist.
    Lease(i64),
}

impl Target {
    fn name(&self) -> &'static str {
        match self {
            Self::Value(_) => "value",
            Self::Version(_) => "version",
            Self::CreateRevision(_) => "create_revision",
            Self::ModRevision(_) => "mod_revision",
            Self::Lease(_) => "lease",
        }
    }
}

/// What must hold of every key of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The keys.
    pub range: Range,
    /// How they must relate to the target.
    pub relation: Relation,
    /// What they are compared with.
    pub target: Target,
}

impl Compare {
    /// What must hold of one key.
    pub fn new(key: impl AsRef<[u8]>, relation: Relation, target: Target) -> Self {
        Self { range: Range::key(key), relation, target }
    }

    /// The key exists.
    pub fn exists(key: impl AsRef<[u8]>) -> Self {
        Self::new(key, Relation::Greater, Target::CreateRevision(0))
    }

    /// The key does not exist.
    pub fn absent(key: impl AsRef<[u8]>) -> Self {
        Self::new(key, Relation::Equal, Target::CreateRevision(0))
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        self.range.add_to_json(&mut object);
        object.insert("target".to_owned(), self.target.name().into());
        object.insert("relation".to_owned(), self.relation.sign().into());
        match &self.target {
            Target::Value(value) => insert_shorter(&mut object, "value", value),
            Target::Version(number)
            | Target::CreateRevision(number)
            | Target::ModRevision(number)
            | Target::Lease(number) => {
                object.insert("number".to_owned(), (*number).into());
            }
        }
        object.into()
    }
}

/// What a put of a transaction or batch sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value; `None` keeps the value that the key has.
    pub value: Option<Bytes>,
    /// The lease to attach the key to.
    pub lease: Option<i64>,
    /// Keeps the key's lease; `lease` must then be `None`.
    pub keep_lease: bool,
    /// Asks for the item as it was before.
    pub previous: bool,
}

/// How a get of a transaction reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Get {
    /// Which keys.
    pub range: Range,
    /// The most keys to return.
    pub limit: Option<u64>,
    /// The past revision to read; what the transaction has made so far if `None`.
    pub revision: Option<i64>,
    /// Leaves the values out.
    pub keys_only: bool,
    /// Asks for the number of keys alone.
    pub count_only: bool,
    /// By what the items are sorted; by key if `None`.
    pub sort_by: Option<SortBy>,
    /// Begins with the greatest.
    pub descending: bool,
}

/// By what items are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    /// The key.
    Key,
    /// How many times it was set since it was created.
    Version,
    /// The revision at which it was created.
    CreateRevision,
    /// The revision of its last write.
    ModRevision,
    /// The value.
    Value,
}

impl SortBy {
    fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Version => "version",
            Self::CreateRevision => "create_revision",
            Self::ModRevision => "mod_revision",
            Self::Value => "value",
        }
    }
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key.
    Put(Put),
    /// Removes keys.
    Delete {
        /// Which keys.
        range: Range,
        /// Asks for the items as they were before.
        previous: bool,
    },
    /// Reads keys.
    Get(Get),
    /// A transaction within the transaction.
    Txn(Txn),
}

impl Operation {
    /// Sets `key` to `value`.
    pub fn put(key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        let key = Bytes::copy_from_slice(key.as_ref());
        Self::Put(Put { key, value: Some(value.into()), ..Put::default() })
    }

    /// Removes the keys of `range`.
    pub fn delete(range: Range) -> Self {
        Self::Delete { range, previous: false }
    }

    /// Reads the keys of `range`.
    pub fn get(range: Range) -> Self {
        Self::Get(Get { range, ..Get::default() })
    }

    fn only_reads(&self) -> bool {
        match self {
            Self::Get(_) => true,
            Self::Put(_) | Self::Delete { .. } => false,
            Self::Txn(txn) => txn.only_reads(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let mut object = Map::new();
        let name = match self {
            Self::Put(put) => {
                insert_shorter(&mut object, "key", &put.key);
                match &put.value {
                    Some(value) => insert_shorter(&mut object, "value", value),
                    None => flag(&mut object, "keep_value", true),
                }
                object.extend(put.lease.map(|lease| ("lease".to_owned(), lease.into())));
                flag(&mut object, "keep_lease", put.keep_lease);
                flag(&mut object, "previous", put.previous);
                "put"
            }
            Self::Delete { range, previous } => {
                range.add_to_json(&mut object);
                flag(&mut object, "previous", *previous);
                "delete"
            }
            Self::Get(get) => {
                get.range.add_to_json(&mut object);
                object.extend(get.limit.map(|limit| ("limit".to_owned(), limit.into())));
                object.extend(get.revision.map(|revision| ("revision".to_owned(), revision.into())));
                flag(&mut object, "keys_only", get.keys_only);
                flag(&mut object, "count_only", get.count_only);
                object.extend(get.sort_by.map(|by| ("sort_by".to_owned(), by.name().into())));
                flag(&mut object, "descending", get.descending);
                "get"
            }
            Self::Txn(txn) => return Map::from_iter([("txn".to_owned(), txn.json())]).into(),
        };
        Map::from_iter([(name.to_owned(), object.into())]).into()
    }
}

fn flag(object: &mut Map<String, Value>, name: &str, on: bool) {
    object.extend(on.then(|| (name.to_owned(), true.into())));
}

/// A transaction: if every comparison holds, `then` is carried out, else
/// `otherwise`; all of it at one revision, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    compares: Vec<Compare>,
    then: Vec<Operation>,
    otherwise: Vec<Operation>,
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something that must hold.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds something to do if everything holds.
    #[must_use]
    pub fn then(mut self, operation: Operation) -> Self {
        self.then.push(operation);
        self
    }

    /// Adds something to do if anything does not hold.
    #[must_use]
    pub fn otherwise(mut self, operation: Operation) -> Self {
        self.otherwise.push(operation);
        self
    }

    /// The document that the API takes.
    fn json(&self) -> Value {
        let mut object = Map::new();
        let mut list = |name: &str, items: Vec<Value>| {
            object.extend((!items.is_empty()).then(|| (name.to_owned(), items.into())));
        };
        list("compare", self.compares.iter().map(Compare::json).collect());
        list("then", self.then.iter().map(Operation::json).collect());
        list("else", self.otherwise.iter().map(Operation::json).collect());
        object.into()
    }

    fn only_reads(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(Operation::only_reads)
    }
}

/// How to carry a transaction out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TxnOptions {
    /// A token of 1 to 256 visible ASCII bytes, unique to this transaction, that
    /// lets it be repeated without being applied twice.
    pub idempotency_key: Option<String>,
    /// How fresh the answer must be, if the transaction only reads.
    pub consistency: Consistency,
}

/// The answer to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnAnswer {
    /// The store's revision after it.
    pub revision: i64,
    /// Whether everything held, so that `then` was carried out.
    pub succeeded: bool,
    /// What the operations gave, in their order.
    pub results: Vec<OperationResult>,
    document: Bytes,
}

/// What one operation gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationResult {
    /// A key was set.
    Put {
        /// The revision of the write.
        revision: i64,
        /// The item as it was before, if it was asked for and existed.
        previous: Option<Item>,
    },
    /// Keys were removed.
    Delete {
        /// The store's revision after it.
        revision: i64,
        /// How many.
        deleted: u64,
        /// The items as they were before, if they were asked for.
        previous: Vec<Item>,
    },
    /// Keys were read.
    Get {
        /// The store's revision.
        revision: i64,
        /// The items.
        items: Vec<Item>,
        /// How many keys there are, whatever the limit.
        count: u64,
        /// Whether keys are left beyond the limit.
        more: bool,
    },
    /// A transaction within was carried out.
    Txn {
        /// Whether everything in it held.
        succeeded: bool,
        /// What its operations gave.
        results: Vec<OperationResult>,
    },
}

impl Client {
    /// Carries a transaction out.
    ///
    /// # Errors
    /// `Api` with code `duplicate_key`, `too_many_operations`, `lease_not_found`, …
    /// if it makes no sense, `OutcomeUnknown` if it was sent and no definite answer
    /// came. That a comparison does not hold is no error.
    pub async fn txn(&self, txn: &Txn, options: TxnOptions) -> Result<TxnAnswer, Error> {
        let reads = txn.only_reads();
        let call = txn_call(&options)?.json(&txn.json());
        self.carry_out(if reads { call.with_effect(Effect::Read) } else { call }).await
    }

    /// Carries out a transaction that stands in a JSON document of the API's form. It
    /// is sent byte by byte, so that the cluster judges what was written.
    ///
    /// # Errors
    /// As for [`Self::txn`].
    pub async fn txn_document(
        &self,
        document: impl Into<Bytes>,
        options: TxnOptions,
    ) -> Result<TxnAnswer, Error> {
        self.carry_out(txn_call(&options)?.document(document.into())).await
    }

    /// A transaction that is repeated when its answer is lost. It has an idempotency
    /// key, so that a copy which arrives when the keys have changed again does nothing.
    pub(crate) async fn repeatable_txn(&self, txn: &Txn) -> Result<TxnAnswer, Error> {
        let options = TxnOptions { idempotency_key: Some(new_idempotency_key()), ..TxnOptions::default() };
        self.txn(txn, options).await
    }

    async fn carry_out(&self, call: Call) -> Result<TxnAnswer, Error> {
        let answer = self.execute(&call).await?;
        let AnswerBody { revision, succeeded, results } = answer.json()?;
        let results = decode_results(results, &answer)?;
        Ok(TxnAnswer { revision, succeeded, results, document: answer.body })
    }
}

fn txn_call(options: &TxnOptions) -> Result<Call, Error> {
    let mut query = Query::default();
    query.text("consistency", options.consistency.parameter());
    keyed_call(Method::POST, query.append_to("/v1/txn"), options.idempotency_key.as_deref())
}

#[derive(Debug, Deserialize)]
struct AnswerBody {
    revision: i64,
    succeeded: bool,
    #[serde(default)]
    results: Vec<ResultBody>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ResultBody {
    Put {
        revision: i64,
        previous: Option<ItemBody>,
    },
    Delete {
        revision: i64,
        deleted: u64,
        #[serde(default)]
        previous: Vec<ItemBody>,
    },
    Get {
        revision: i64,
        #[serde(default)]
        items: Vec<ItemBody>,
        count: u64,
        #[serde(default)]
        more: bool,
    },
    Txn {
        succeeded: bool,
        #[serde(default)]
        results: Vec<ResultBody>,
    },
}

fn decode_results(results: Vec<ResultBody>, answer: &Answer) -> Result<Vec<OperationResult>, Error> {
    results.into_iter().map(|result| decode_result(result, answer)).collect()
}

fn decode_result(result: ResultBody, answer: &Answer) -> Result<OperationResult, Error> {
    let endpoint = &answer.endpoint;
    Ok(match result {
        ResultBody::Put { revision, previous } => {
            let previous = previous.map(|item| item.decode(endpoint)).transpose()?;
            OperationResult::Put { revision, previous }
        }
        ResultBody::Delete { revision, deleted, previous } => {
            OperationResult::Delete { revision, deleted, previous: decode_items(previous, endpoint)? }
        }
        ResultBody::Get { revision, items, count, more } => {
            OperationResult::Get { revision, items: decode_items(items, endpoint)?, count, more }
        }
        ResultBody::Txn { succeeded, results } => {
            OperationResult::Txn { succeeded, results: decode_results(results, answer)? }
        }
    })
}

impl TxnAnswer {
    /// The answer as the cluster wrote it, in JSON.
    pub fn document(&self) -> &Bytes {
        &self.document
    }

    /// The result at `index` if it is that of a get.
    pub(crate) fn items(&self, index: usize, endpoint: &str) -> Result<&[Item], Error> {
        match self.results.get(index) {
            Some(OperationResult::Get { items, .. }) => Ok(items),
            other => Err(strange(endpoint, format!("a get was asked for, and the result is {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests;
