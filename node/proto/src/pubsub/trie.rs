//! Finds every pattern that matches a topic, in time of the topic's length rather than of the
//! number of patterns.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::{Segment, TopicName, TopicPattern};

/// Patterns, each with a set of values.
#[derive(Clone, Debug)]
pub(crate) struct Trie<V> {
    root: Node<V>,
}

#[derive(Clone, Debug)]
struct Node<V> {
    literal: BTreeMap<Box<str>, Self>,
    one: Option<Box<Self>>,
    /// Values of patterns that end here.
    here: BTreeSet<V>,
    /// Values of patterns that end in `**` here.
    rest: BTreeSet<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { literal: BTreeMap::new(), one: None, here: BTreeSet::new(), rest: BTreeSet::new() }
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<V: Ord + Copy> Trie<V> {
    pub(crate) fn insert(&mut self, pattern: &TopicPattern, value: V) {
        let mut node = &mut self.root;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(text) => node.literal.entry(text.into()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
                Segment::Rest => {
                    node.rest.insert(value);
                    return;
                }
            };
        }
        node.here.insert(value);
    }

    pub(crate) fn remove(&mut self, pattern: &TopicPattern, value: V) {
        let segments: Vec<_> = pattern.segments().collect();
        remove(&mut self.root, &segments, value);
    }

    /// The values of every matching pattern, each once, in order.
    pub(crate) fn matches(&self, topic: &TopicName) -> BTreeSet<V> {
        let mut found = BTreeSet::new();
        let mut nodes = vec![&self.root];
        for segment in topic.segments() {
            let mut next = Vec::with_capacity(nodes.len());
            for node in nodes {
                found.extend(&node.rest);
                next.extend(node.literal.get(segment));
                next.extend(node.one.as_deref());
            }
            nodes = next;
        }
        for node in nodes {
            found.extend(&node.rest);
            found.extend(&node.here);
        }
        found
    }
}

/// Removes the value and the branches that hold nothing any more.
fn remove<V: Ord + Copy>(node: &mut Node<V>, segments: &[Segment<'_>], value: V) {
    match segments {
        [] => {
            node.here.remove(&value);
        }
        [Segment::Rest, ..] => {
            node.rest.remove(&value);
        }
        [Segment::Literal(text), rest @ ..] => {
            let Some(child) = node.literal.get_mut(*text) else { return };
            remove(child, rest, value);
            if child.is_empty() {
                node.literal.remove(*text);
            }
        }
        [Segment::One, rest @ ..] => {
            let Some(child) = node.one.as_mut() else { return };
            remove(child, rest, value);
            if child.is_empty() {
                node.one = None;
            }
        }
    }
}

impl<V> Node<V> {
    fn is_empty(&self) -> bool {
        let Self { literal, one, here, rest } = self;
        literal.is_empty() && one.is_none() && here.is_empty() && rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns() -> impl Strategy<Value = Vec<TopicPattern>> {
        let pattern = "([ab]|\\*)(\\.([ab]|\\*)){0,3}(\\.\\*\\*)?|\\*\\*";
        prop::collection::vec(pattern.prop_map(|text: String| text.parse().unwrap()), 0..12)
    }

    proptest! {
        #[test]
        fn agrees_with_matching_each_pattern_alone(
            patterns in patterns(), topic in "[ab](\\.[ab]){0,4}"
        ) {
            let topic: TopicName = topic.parse().unwrap();
            let mut trie = Trie::default();
            for (value, pattern) in patterns.iter().enumerate() {
                trie.insert(pattern, value);
            }
            let alone: BTreeSet<usize> =
                (0..patterns.len()).filter(|at| patterns[*at].matches(&topic)).collect();
            prop_assert_eq!(trie.matches(&topic), alone);
        }

        #[test]
        fn removing_everything_leaves_nothing(patterns in patterns()) {
            let mut trie = Trie::default();
            for (value, pattern) in patterns.iter().enumerate() {
                trie.insert(pattern, value);
            }
            for (value, pattern) in patterns.iter().enumerate().rev() {
                trie.remove(pattern, value);
            }
            prop_assert!(trie.root.is_empty());
        }
    }
}
