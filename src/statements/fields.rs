//! Values by the names of their columns.

use super::rows::Text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// Some columns of one row, in the order of their names. Rows are many and the columns few: this takes a tenth of the memory
/// of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, Text)>);

impl Fields {
    fn place(&self, column: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| name.as_str().cmp(column))
    }

    pub fn get(&self, column: &str) -> Option<&Text> {
        self.place(column).ok().map(|place| &self.0[place].1)
    }

    pub fn contains(&self, column: &str) -> bool {
        self.place(column).is_ok()
    }

    /// Answers the value there was.
    pub fn insert(&mut self, column: String, value: Text) -> Option<Text> {
        match self.place(&column) {
            Ok(place) => Some(std::mem::replace(&mut self.0[place].1, value)),
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (column, value));
                None
            }
        }
    }

    pub fn remove(&mut self, column: &str) {
        if let Ok(place) = self.place(column) {
            self.0.remove(place);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(name, _)| name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Text)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl FromIterator<(String, Text)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, Text)>>(fields: I) -> Self {
        let mut all: Vec<(String, Text)> = fields.into_iter().collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all.dedup_by(|(one, _), (other, _)| one == other);
        Fields(all)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = BTreeMap::<String, Text>::deserialize(deserializer)?;
        Ok(Fields(fields.into_iter().collect()))
    }
}
