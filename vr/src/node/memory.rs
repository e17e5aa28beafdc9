//! What is remembered, before anything is said that rests on it.
//!
//! When the protocol orders a record to be [remembered](Effect::Remember), its write begins, and
//! every later effect is held back, in order. The next turn first waits for the write, then
//! performs what was held, and only then takes another message. A timeout that drops the turn
//! loses nothing: the write and what waits for it belong to the node. What timeouts do meanwhile
//! joins the queue. If the write fails the replica ends: to the others it has crashed.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;

use viewring_protocol::{Configuration, Effect, Incarnation, Options, Progress, Record, Replica};
use viewring_runtime::random;

use super::{ConfigError, Node, NodeConfig, WaitBug};
use crate::journal::{Owner, ViewFile};
use crate::state_machine::StateMachine;

/// The view file, if there is one, and what is being written to it.
#[derive(Default)]
pub(super) struct Memory {
    file: Option<ViewFile>,
    /// What it held when the replica started.
    loaded: Option<Record>,
    writing: Option<Writing>,
}

/// A record on its way to the disk.
struct Writing {
    record: Record,
    write: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    /// What may be done only once it is there, in order.
    held: Vec<Effect>,
}

/// So much is held back while the disk is busy. What is said beyond that is lost, as if the network
/// had lost it: replicas repeat themselves.
const HELD_MAX: usize = 4096;

impl Memory {
    pub(super) async fn open(
        dir: Option<&Path>,
        config: &NodeConfig,
        group: Configuration,
    ) -> Result<Self, ConfigError> {
        let Some(dir) = dir else {
            return Ok(Self::default());
        };
        let owner = Owner {
            cluster: config.cluster,
            id: config.id,
            group,
        };
        let (file, loaded) = ViewFile::open(dir, owner).await?;
        Ok(Self {
            file: Some(file),
            loaded,
            writing: None,
        })
    }

    /// The replica that begins with what is remembered.
    pub(super) fn replica(
        &self,
        config: &NodeConfig,
        group: Configuration,
        options: Options,
    ) -> Replica {
        let life = Incarnation(random());
        match self.loaded.clone() {
            Some(record) => Replica::returning(config.id, group, options, life, record),
            None => Replica::new(config.id, group, options, life),
        }
    }

    /// What was remembered when the replica started.
    pub(super) fn loaded(&self) -> Option<&Record> {
        self.loaded.as_ref()
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }
}

impl<S: StateMachine> Node<S> {
    /// Begins to write a record. Without a view file nothing is remembered: a later life of this
    /// replica will take part in nothing.
    pub(super) fn remember(&mut self, record: Record) {
        let Some(file) = &mut self.memory.file else {
            return;
        };
        if self.memory.writing.is_some() {
            // Only with the bug: a record before it holds this one back.
            return;
        }
        self.memory.writing = Some(Writing {
            write: Box::pin(file.write(&record)),
            record,
            held: Vec::new(),
        });
    }

    /// Holds an effect back if a record must be durable before. Gives it back if not.
    pub(super) fn hold(&mut self, effect: Effect) -> Option<Effect> {
        let Some(writing) = &mut self.memory.writing else {
            return Some(effect);
        };
        if self.bug == Some(WaitBug::RecordNotAwaited) {
            return Some(effect);
        }
        let may_be_lost = match effect {
            Effect::Send { .. } | Effect::Broadcast(_) => true,
            Effect::Reply(_) | Effect::ReplyWalkIn(_) | Effect::ReadReply(_) => true,
            Effect::NormalView(_) => true,
            Effect::Persist(_) | Effect::Remember(_) => false,
            Effect::Checkpoint(_) | Effect::Restore(_) => false,
        };
        if may_be_lost && writing.held.len() >= HELD_MAX {
            self.drops.held += 1;
        } else {
            writing.held.push(effect);
        }
        None
    }

    /// Waits until the record is durable, then performs what was held back.
    ///
    /// # Cancel safety
    /// Strict: the write goes on with the next call.
    pub(super) async fn finish_remembering(&mut self) -> io::Result<Progress> {
        let Some(writing) = &mut self.memory.writing else {
            return Ok(Progress::NONE);
        };
        let written = writing.write.as_mut().await;
        // From here on nothing is awaited.
        if let Err(error) = written
            && self.bug != Some(WaitBug::FailedSyncBelieved)
        {
            let text = format!("the view file cannot be written: {error}");
            let kind = error.kind();
            tracing::error!(replica = self.core.id().0, "{text}");
            // So it is for ever, should anyone ask again.
            let again = text.clone();
            writing.write = Box::pin(async move { Err(io::Error::new(kind, again)) });
            return Err(io::Error::new(kind, text));
        }
        let writing = self.memory.writing.take().expect("it was being written");
        if let Some(observer) = &mut self.observer {
            observer.remembered(&self.core, &writing.record);
        }
        for effect in writing.held {
            self.perform_one(effect);
        }
        Ok(self.finish_turn())
    }
}
