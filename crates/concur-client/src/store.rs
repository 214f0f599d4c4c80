//! A key-value namespace: typed commands and queries.

use crate::client::{Client, Level, Options, Stamped};
use crate::error::ClientError;
use crate::watch::{Watch, Watching};
use bytes::Bytes;
use concur_core::Wire;
use concur_kv::{Answer, Command, DeleteRange, DeleteReply, KeyValue, Put, PutReply, Query, RangeAnswer, RangeQuery, Reply, Txn, TxnReply};

/// A client of a key-value namespace.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
}

impl Store {
    /// A client; nothing is connected to until it is needed. Must be called on a tokio runtime.
    pub fn open(options: Options) -> Result<Self, ClientError> {
        Ok(Self { client: Client::open(options)? })
    }

    /// The client beneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Writes a key.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Stamped<PutReply>, ClientError> {
        self.put_with(Put { key: key.into(), value: value.into(), ..Put::default() }).await
    }

    /// Writes a key, with everything that can be said about it.
    pub async fn put_with(&self, put: Put) -> Result<Stamped<PutReply>, ClientError> {
        let Stamped { value, stamp } = self.execute(Command::Put(put)).await?;
        match value {
            Reply::Put(value) => Ok(Stamped { value, stamp }),
            _ => Err(OTHER),
        }
    }

    /// Reads a key; nothing if it does not exist.
    pub async fn get(&self, key: impl Into<Bytes>, level: Level) -> Result<Stamped<Option<KeyValue>>, ClientError> {
        let Stamped { value, stamp } = self.range(level, RangeQuery { key: key.into(), ..RangeQuery::default() }).await?;
        Ok(Stamped { value: value.kvs.into_iter().next(), stamp })
    }

    /// Reads a range of keys.
    pub async fn range(&self, level: Level, range: RangeQuery) -> Result<Stamped<RangeAnswer>, ClientError> {
        let Stamped { value, stamp } = self.ask(level, Query::Range(range)).await?;
        match value {
            Answer::Range(value) => Ok(Stamped { value, stamp }),
            _ => Err(OTHER),
        }
    }

    /// Deletes a key.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Stamped<DeleteReply>, ClientError> {
        self.delete_range(DeleteRange { key: key.into(), ..DeleteRange::default() }).await
    }

    /// Deletes a range of keys.
    pub async fn delete_range(&self, delete: DeleteRange) -> Result<Stamped<DeleteReply>, ClientError> {
        let Stamped { value, stamp } = self.execute(Command::DeleteRange(delete)).await?;
        match value {
            Reply::DeleteRange(value) => Ok(Stamped { value, stamp }),
            _ => Err(OTHER),
        }
    }

    /// Compares, then executes one of two lists of operations. One that writes nothing is a strong read.
    pub async fn txn(&self, txn: Txn) -> Result<Stamped<TxnReply>, ClientError> {
        if txn.is_read_only() {
            let Stamped { value, stamp } = self.ask(Level::Strong, Query::Txn(txn)).await?;
            return match value {
                Answer::Txn(value) => Ok(Stamped { value, stamp }),
                _ => Err(OTHER),
            };
        }
        let Stamped { value, stamp } = self.execute(Command::Txn(txn)).await?;
        match value {
            Reply::Txn(value) => Ok(Stamped { value, stamp }),
            _ => Err(OTHER),
        }
    }

    /// Watches a key or a range of keys, in a namespace that keeps its history. Returns once the watch stands.
    pub async fn watch(&self, watch: Watch) -> Result<Watching, ClientError> {
        Watching::open(self.client.clone(), watch).await
    }

    /// Executes any command of the store.
    pub async fn execute(&self, command: Command) -> Result<Stamped<Reply>, ClientError> {
        let Stamped { value, stamp } = self.client.execute(command.to_bytes()).await?;
        match Reply::from_bytes(&value) {
            Ok(Reply::Refused(error)) => Err(error.into()),
            Ok(value) => Ok(Stamped { value, stamp }),
            Err(malformed) => Err(ClientError::Malformed(malformed.what)),
        }
    }

    /// Answers any query of the store.
    pub async fn ask(&self, level: Level, query: Query) -> Result<Stamped<Answer>, ClientError> {
        let Stamped { value, stamp } = self.client.read(level, query.to_bytes()).await?;
        match Reply::from_bytes(&value) {
            Ok(Reply::Read(Answer::Refused(error)) | Reply::Refused(error)) => Err(error.into()),
            Ok(Reply::Read(value)) => Ok(Stamped { value, stamp }),
            Ok(_) => Err(OTHER),
            Err(malformed) => Err(ClientError::Malformed(malformed.what)),
        }
    }
}

/// The store answered with the reply to something else.
const OTHER: ClientError = ClientError::Malformed("it answers another request");
