//! All imports of a link: by number, and by the publisher for which each stands.

use std::collections::BTreeMap;

use super::incoming::Incoming;
use crate::link::peering::effects::ImportId;
use crate::protocol::EndId;

/// See the head of the module. What it counts stays true because imports come and go here alone.
#[derive(Debug, Default)]
pub(super) struct Table {
    imports: BTreeMap<ImportId, Incoming>,
    /// Without those that are refused.
    by_publisher: BTreeMap<EndId, ImportId>,
    last: ImportId,
    /// Bytes of all descriptions of types.
    schemas: usize,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.imports.len()
    }

    /// Bytes of all descriptions of types.
    pub(super) fn schemas(&self) -> usize {
        self.schemas
    }

    pub(super) fn get(&self, import: ImportId) -> Option<&Incoming> {
        self.imports.get(&import)
    }

    pub(super) fn get_mut(&mut self, import: ImportId) -> Option<&mut Incoming> {
        self.imports.get_mut(&import)
    }

    pub(super) fn of_publisher(&self, publisher: EndId) -> Option<ImportId> {
        self.by_publisher.get(&publisher).copied()
    }

    pub(super) fn ids(&self) -> Vec<ImportId> {
        self.imports.keys().copied().collect()
    }

    /// Those that have no stream on this connection.
    pub(super) fn unopened(&self) -> impl Iterator<Item = ImportId> + '_ {
        self.imports.iter().filter(|(_, incoming)| incoming.stream() == 0).map(|(import, _)| *import)
    }

    pub(super) fn insert(&mut self, incoming: Incoming) -> ImportId {
        self.last += 1;
        self.by_publisher.insert(incoming.publisher(), self.last);
        self.schemas += incoming.candidate().kind.schema.len();
        self.imports.insert(self.last, incoming);
        self.last
    }

    pub(super) fn remove(&mut self, import: ImportId) -> Option<Incoming> {
        let incoming = self.imports.remove(&import)?;
        self.schemas -= incoming.candidate().kind.schema.len();
        if !incoming.is_refused() {
            self.by_publisher.remove(&incoming.publisher());
        }
        Some(incoming)
    }

    /// Nothing stands for its publisher any more. If its sender is still to be told, its stream stays: true.
    pub(super) fn refuse(&mut self, import: ImportId, reason: String) -> bool {
        let Some(incoming) = self.imports.get_mut(&import) else { return false };
        if incoming.stream() == 0 {
            self.remove(import);
            return false;
        }
        self.by_publisher.remove(&incoming.publisher());
        self.schemas -= incoming.refuse(reason).len();
        true
    }

    pub(super) fn disconnect(&mut self) {
        // Nothing is left of those that are refused but the stream.
        self.imports.retain(|_, incoming| !incoming.is_refused());
        self.imports.values_mut().for_each(Incoming::disconnect);
    }
}
