//! Names, patterns, and what matches what.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use macula_identity::{NodeId, Role, Subject};

use crate::name::{
    ANY, MeshName, NodeName, ProcedureName, RealmName, TopicName, TopicPattern, TrustDomain,
};
use crate::pubsub::trie::Trie;

/// A text that is read as a name is that name's only text; the trie finds what a slow matcher finds.
pub(super) fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for line in text.split('\n') {
        read_back::<TopicName>(line);
        read_back::<TopicPattern>(line);
        read_back::<ProcedureName>(line);
        read_back::<RealmName>(line);
        read_back::<NodeName>(line);
        read_back::<MeshName>(line);
        read_back::<TrustDomain>(line);
        read_back::<Subject>(line);
        read_back::<Role>(line);
        if let Ok(id) = line.parse::<NodeId>() {
            assert_eq!(id.to_string(), line.to_ascii_lowercase());
        }
        if line.parse::<TopicName>().is_ok() {
            let pattern = line.parse::<TopicPattern>().expect("a topic is a pattern");
            assert!(line.parse::<ProcedureName>().is_ok() && pattern.rendezvous() != ANY);
        }
    }
    let topics = text.split('\n').filter_map(|line| line.parse::<TopicName>().ok());
    let patterns = text.split('\n').filter_map(|line| line.parse::<TopicPattern>().ok());
    let (topics, patterns): (Vec<_>, Vec<_>) = (topics.take(8).collect(), patterns.collect());
    let mut trie = Trie::default();
    for (value, pattern) in patterns.iter().enumerate() {
        trie.insert(pattern, value);
    }
    for topic in &topics {
        let segments: Vec<&str> = topic.segments().collect();
        let slowly: BTreeSet<usize> = (0..patterns.len())
            .filter(|at| {
                let pattern: Vec<&str> = patterns[*at].as_str().split('.').collect();
                matches(&pattern, &segments)
            })
            .collect();
        assert_eq!(trie.matches(topic), slowly);
        for (at, pattern) in patterns.iter().enumerate() {
            assert_eq!(pattern.matches(topic), slowly.contains(&at), "{pattern} and {topic}");
            assert!(!pattern.matches(topic) || [segments[0], ANY].contains(&pattern.rendezvous()));
        }
    }
    for (value, pattern) in patterns.iter().enumerate() {
        trie.remove(pattern, value);
    }
    assert!(topics.iter().all(|topic| trie.matches(topic).is_empty()));
}

fn read_back<T: FromStr + Display>(text: &str) {
    if let Ok(name) = text.parse::<T>() {
        assert_eq!(name.to_string(), text);
    }
}

/// By the book: `*` is one segment, `**` is the rest.
fn matches(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        (["**"], _) | ([], []) => true,
        ([], _) | (_, []) => false,
        (["*", pattern @ ..], [_, topic @ ..]) => matches(pattern, topic),
        ([literal, pattern @ ..], [segment, topic @ ..]) => {
            literal == segment && matches(pattern, topic)
        }
    }
}
