//! What came of deeds.

use std::collections::BTreeSet;
use std::time::Duration;

use macula_identity::NodeId;

use super::super::{Happened, Law, Swarm};
use super::{Cost, Deed, Life, Outcome, Sort, Wanted, What};
use crate::engine::Output;
use crate::name::TopicName;
use crate::payload::Payload;

impl Life {
    /// Takes what happened, and judges what is over.
    pub(in crate::sim) fn collect(&mut self, swarm: &mut Swarm) {
        for Happened { at, node, output } in swarm.take_happened() {
            match output {
                Output::LookedUp { lookup, found } => {
                    if self.awaited.remove(&(node, lookup)) {
                        self.found.insert((node, lookup), (at, found));
                    }
                }
                Output::Published { id, result } => {
                    if self.delivered.contains_key(&id.0) {
                        self.published.insert(id.0, result);
                    }
                }
                Output::Returned { id, result } => {
                    self.returned.insert(id.0, result);
                }
                Output::Deliver { message, .. } => {
                    self.on_delivered(at, node, &message.topic, &message.payload);
                }
                Output::Gap { .. } | Output::Announced { .. } => {}
                Output::Request { .. }
                | Output::Cancel(_)
                | Output::Invoke { .. }
                | Output::Send { .. } => unreachable!("the network has done it"),
            }
        }
        let now = swarm.elapsed();
        while let Some(entry) = self.deeds.first_entry()
            && entry.key().0 <= now
        {
            let deed = entry.remove();
            self.judge(swarm, deed);
        }
    }

    /// How many deeds are under way.
    pub(in crate::sim) fn under_way(&self) -> usize {
        self.deeds.len()
    }

    fn on_delivered(&mut self, at: Duration, node: NodeId, topic: &TopicName, payload: &Payload) {
        let body = std::str::from_utf8(&payload.body).unwrap_or_default();
        if let Some(number) = body.strip_prefix('m').and_then(|digits| digits.parse().ok()) {
            if let Some(receivers) = self.delivered.get_mut(&number) {
                receivers.insert(node);
            }
        } else if let Some(watch) =
            self.watches.iter_mut().find(|it| it.newcomer == node && it.topic == *topic)
            && watch.subscribed.is_some()
        {
            watch.heard.get_or_insert(at);
        }
    }

    fn judge(&mut self, swarm: &mut Swarm, deed: Deed) {
        let Deed { from, began, incarnation, what } = deed;
        let is_excused = !swarm.is_awake(from)
            || swarm.engine(from).me().incarnation != incarnation
            || self.disturbed.get(&from).is_some_and(|until| *until >= began);
        let (sort, ended, result, cost) = match what {
            What::Nodes { lookup, nearest } => {
                let found = self.found.remove(&(from, lookup));
                let ended = found.is_some();
                let (result, cost) = match found {
                    None => (Err("it did not end".to_owned()), None),
                    Some((at, found)) => {
                        let alive: Vec<_> =
                            nearest.into_iter().filter(|id| swarm.is_awake(*id)).collect();
                        let has = |id: &NodeId| found.closest.iter().any(|it| it.id == *id);
                        let agreed = alive.iter().filter(|id| has(id)).count() as f64
                            / alive.len().max(1) as f64;
                        let result = match alive.first() {
                            Some(first) if !has(first) => {
                                Err("the nearest was not found".to_owned())
                            }
                            Some(_) | None => Ok(()),
                        };
                        let cost = Cost {
                            asked: found.asked,
                            rounds: found.rounds,
                            took: at - began,
                            agreed: Some(agreed),
                        };
                        (result, Some(cost))
                    }
                };
                (Sort::Nodes, ended, result, cost)
            }
            What::Values { lookup, wanted } => {
                let found = self.found.remove(&(from, lookup));
                let ended = found.is_some();
                let (result, cost) = match found {
                    None => (Err("it did not end".to_owned()), None),
                    Some((at, found)) => {
                        let publishers = found.records.iter().map(|it| it.record.publisher.id);
                        let publishers: BTreeSet<_> = publishers.collect();
                        let wanted = self.still(swarm, from, began, &wanted);
                        let missed: Vec<_> =
                            wanted.iter().filter(|id| !publishers.contains(id)).collect();
                        let result = match missed.first() {
                            None => Ok(()),
                            Some(first) => Err(format!(
                                "{} of {} records were not found, that of {} among them; {} asked, {} answered",
                                missed.len(),
                                wanted.len(),
                                name(swarm, **first),
                                found.asked,
                                found.answered
                            )),
                        };
                        let cost = Cost {
                            asked: found.asked,
                            rounds: found.rounds,
                            took: at - began,
                            agreed: None,
                        };
                        (result, Some(cost))
                    }
                };
                (Sort::Values, ended, result, cost)
            }
            What::Publish { number, wanted } => {
                let said = self.published.remove(&number);
                let got = self.delivered.remove(&number).unwrap_or_default();
                let wanted = self.still(swarm, from, began, &wanted);
                let missed: Vec<_> = wanted.iter().filter(|id| !got.contains(id)).collect();
                let result = match &said {
                    None => Err("it did not end".to_owned()),
                    Some(Err(fault)) => Err(fault.to_string()),
                    Some(Ok(sent)) if !missed.is_empty() => Err(format!(
                        "{} of {} did not get it, {} among them; it was sent to {sent}",
                        missed.len(),
                        wanted.len(),
                        name(swarm, *missed[0])
                    )),
                    Some(Ok(_)) => Ok(()),
                };
                (Sort::Publish, said.is_some(), result, None)
            }
            What::Call { number, wanted } => {
                let said = self.returned.remove(&number);
                if self.still(swarm, from, began, &wanted).is_empty() {
                    return;
                }
                let result = match &said {
                    None => Err("it did not end".to_owned()),
                    Some(Err(fault)) => Err(fault.to_string()),
                    Some(Ok(_)) => Ok(()),
                };
                (Sort::Call, said.is_some(), result, None)
            }
        };
        if is_excused {
            return;
        }
        if !ended {
            let how = format!("{sort:?} that began at {began:?} did not end");
            swarm.breaks(Law::AnsweredOrRefused, from, how);
        }
        self.outcomes.push(Outcome { sort, began, failure: result.err(), cost });
    }

    /// Those who were there all the time, and could be reached.
    fn still(&self, swarm: &Swarm, from: NodeId, began: Duration, wanted: &Wanted) -> Vec<NodeId> {
        let these = wanted.iter().filter(|(id, incarnation)| {
            swarm.is_awake(*id)
                && swarm.engine(*id).me().incarnation == *incarnation
                && self.disturbed.get(id).is_none_or(|until| *until < began)
                && swarm.are_joined(from, *id)
        });
        these.map(|(id, _)| *id).collect()
    }
}

/// A node as one looks for it in a trace, and how long it has lived.
fn name(swarm: &Swarm, id: NodeId) -> String {
    let age = swarm.age(id).unwrap_or_default();
    format!(
        "{} ({}, {:.1} s old)",
        id.short(),
        swarm.engine(id).me().identity.subject.name,
        age.as_secs_f64()
    )
}
