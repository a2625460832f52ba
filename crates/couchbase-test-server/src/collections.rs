//! The manifest of a bucket: scopes and collections.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Why a change of the manifest was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    ScopeExists,
    NoScope,
    CollectionExists,
    NoCollection,
}

struct Scope {
    id: u32,
    collections: BTreeMap<String, u32>,
}

/// Scopes and collections with their numbers.
pub struct Manifest {
    uid: u64,
    next: u32,
    scopes: BTreeMap<String, Scope>,
}

impl Manifest {
    pub fn new() -> Self {
        let default = Scope { id: 0, collections: BTreeMap::from([("_default".to_owned(), 0)]) };
        // Numbers below 8 are reserved.
        Self { uid: 1, next: 8, scopes: BTreeMap::from([("_default".to_owned(), default)]) }
    }

    pub fn uid(&self) -> u64 {
        self.uid
    }

    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.contains_key(scope)
    }

    pub fn id(&self, scope: &str, collection: &str) -> Option<u32> {
        self.scopes.get(scope)?.collections.get(collection).copied()
    }

    pub fn contains(&self, id: u32) -> bool {
        self.scopes.values().any(|scope| scope.collections.values().any(|other| *other == id))
    }

    pub fn create_scope(&mut self, scope: &str) -> Result<(), Refused> {
        if self.has_scope(scope) {
            return Err(Refused::ScopeExists);
        }
        let id = self.number();
        self.scopes.insert(scope.to_owned(), Scope { id, collections: BTreeMap::new() });
        Ok(())
    }

    pub fn create_collection(&mut self, scope: &str, collection: &str) -> Result<(), Refused> {
        if !self.has_scope(scope) {
            return Err(Refused::NoScope);
        }
        if self.id(scope, collection).is_some() {
            return Err(Refused::CollectionExists);
        }
        let id = self.number();
        let scope = self.scopes.get_mut(scope).ok_or(Refused::NoScope)?;
        scope.collections.insert(collection.to_owned(), id);
        Ok(())
    }

    pub fn drop_scope(&mut self, scope: &str) -> Result<(), Refused> {
        self.scopes.remove(scope).ok_or(Refused::NoScope)?;
        self.uid += 1;
        Ok(())
    }

    pub fn drop_collection(&mut self, scope: &str, collection: &str) -> Result<(), Refused> {
        let scope = self.scopes.get_mut(scope).ok_or(Refused::NoScope)?;
        scope.collections.remove(collection).ok_or(Refused::NoCollection)?;
        self.uid += 1;
        Ok(())
    }

    pub fn json(&self) -> Value {
        let collection = |(name, id): (&String, &u32)| json!({"name": name, "uid": format!("{id:x}"), "maxTTL": 0});
        let scope = |(name, scope): (&String, &Scope)| {
            let collections: Vec<Value> = scope.collections.iter().map(collection).collect();
            json!({"name": name, "uid": format!("{:x}", scope.id), "collections": collections})
        };
        json!({"uid": format!("{:x}", self.uid), "scopes": self.scopes.iter().map(scope).collect::<Vec<_>>()})
    }

    fn number(&mut self) -> u32 {
        self.uid += 1;
        self.next += 1;
        self.next - 1
    }
}
