//! What the commands of a run say about it: its entity and its attributes, as a fold over the ledger.
//!
//! The database has both in tables of their own, so that they can be searched. Nothing reads those back for a guest: they
//! follow from the ledger, and can be made anew from it at any time.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::attribute::{self, AttributeChanges, Attributes};
use crate::command::Command;
use crate::entity::Entity;
use crate::event::Event;
use crate::json::Json;
use crate::start::StartOptions;

/// The entity and the attributes of a run.
#[derive(Clone, Debug, Default)]
pub struct Projection {
    /// The entity, as the last edit left it.
    pub entity: Entity,
    /// The attributes that the run has.
    pub attributes: Attributes,
    /// Every attribute that it ever had.
    named: BTreeSet<Arc<str>>,
    /// Whether it was ever given an entity, or edited it.
    has_entity: bool,
}

impl Projection {
    /// What a whole ledger says.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut projection = Self::default();
        events.into_iter().for_each(|event| projection.apply(event));
        projection
    }

    /// Takes the next event in.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::RunStarted { options, .. } => self.start(options),
            Event::Commanded { command: Command::EditEntity { path, edit }, .. } => {
                // It could be done when it was recorded.
                if let Ok(edited) = self.entity.edited(path, edit) {
                    (self.entity, self.has_entity) = (edited, true);
                }
            }
            Event::Commanded { command: Command::SetAttributes { changes }, .. } => {
                self.named.extend(changes.keys().cloned());
                attribute::apply(&mut self.attributes, changes).ok();
            }
            _ => {}
        }
    }

    fn start(&mut self, options: &StartOptions) {
        let entity = options.entity.as_ref().and_then(|json| Entity::new(json).ok());
        self.has_entity = entity.is_some();
        self.entity = entity.unwrap_or_default();
        self.attributes.clone_from(&options.attributes);
        self.named.extend(options.attributes.keys().cloned());
    }

    /// What the tables have to hold: the entity, if there ever was one, and a word on every attribute that was ever named.
    pub fn to_be_stored(&self) -> (Option<Json>, AttributeChanges) {
        let entity = self.has_entity.then(|| self.entity.to_json());
        let attributes =
            self.named.iter().map(|name| (Arc::clone(name), self.attributes.get(name).cloned())).collect();
        (entity, attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::Attribute;
    use crate::ids::Op;

    #[test]
    fn attributes_that_are_gone_are_named_too() {
        let flag = |name: &str| (Arc::from(name), Attribute::Flag(true));
        let options =
            StartOptions { attributes: [flag("kept"), flag("gone")].into(), ..StartOptions::default() };
        let started =
            Event::RunStarted { workflow: "w".into(), input: Json::null(), options: Arc::new(options) };
        let changes = [("gone".into(), None), ("new".into(), Some(Attribute::Number(1.0)))].into();
        let set = Event::Commanded { op: Op(0), command: Command::SetAttributes { changes } };
        let (entity, attributes) = Projection::of([&started, &set]).to_be_stored();
        assert_eq!(entity, None);
        let expected = [
            ("gone".into(), None),
            ("kept".into(), Some(Attribute::Flag(true))),
            ("new".into(), Some(Attribute::Number(1.0))),
        ];
        assert_eq!(attributes, expected.into());
    }
}
