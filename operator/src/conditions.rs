//! Conditions (`metav1.Condition`): how a finding becomes one, and which changes are transitions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It cannot be said.
    Unknown,
}

impl Holds {
    /// The text of it in a condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "True",
            Self::No => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it holds.
    pub holds: Holds,
    /// The stable name of why.
    pub reason: &'static str,
    /// Why, for a person.
    pub message: String,
}

impl Finding {
    /// It holds.
    #[must_use]
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: Holds::Yes, reason, message: message.into() }
    }

    /// It does not hold.
    #[must_use]
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: Holds::No, reason, message: message.into() }
    }

    /// It cannot be said whether it holds.
    #[must_use]
    pub fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: Holds::Unknown, reason, message: message.into() }
    }

    /// The condition of this type, after those that were there. Its time of transition moves only
    /// with its status.
    #[must_use]
    pub fn condition(
        &self,
        type_: &str,
        before: &[Condition],
        generation: Option<i64>,
        now: Timestamp,
    ) -> Condition {
        let Self { holds, reason, message } = self;
        let status = holds.as_str();
        let since = find(before, type_)
            .filter(|old| old.status == status)
            .map_or(Time(now), |old| old.last_transition_time.clone());
        Condition {
            last_transition_time: since,
            message: cut(message, MAX_MESSAGE).to_owned(),
            observed_generation: generation,
            reason: (*reason).to_owned(),
            status: status.to_owned(),
            type_: type_.to_owned(),
        }
    }

    /// Whether someone who looks at the object's events should hear of this: another status or
    /// another reason than before.
    #[must_use]
    pub fn is_news(&self, type_: &str, before: &[Condition]) -> bool {
        find(before, type_)
            .is_none_or(|old| old.status != self.holds.as_str() || old.reason != self.reason)
    }
}

/// The condition of this type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of this type is there and `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == Holds::Yes.as_str())
}

/// The longest message of a condition that the API server takes (`metav1.Condition`).
const MAX_MESSAGE: usize = 32_768;

/// The beginning of a text, cut between characters.
#[must_use]
pub fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_of_transition_moves_only_with_the_status() {
        let missing = Finding::no("NodesMissing", "2 of 3 alive");
        let first = missing.condition("Ready", &[], Some(1), at(10));
        assert_eq!(first.last_transition_time, Time(at(10)));

        let other = Finding::no("ReconcileFailed", "forbidden");
        let second = other.condition("Ready", &[first], Some(2), at(20));
        assert_eq!(second.last_transition_time, Time(at(10)));
        assert_eq!((second.reason.as_str(), second.observed_generation), ("ReconcileFailed", Some(2)));

        let well = Finding::yes("AllAlive", "");
        let third = well.condition("Ready", &[second], Some(2), at(30));
        assert_eq!(third.last_transition_time, Time(at(30)));
        assert!(is_true(&[third], "Ready"));
    }

    #[test]
    fn another_status_or_reason_is_news_and_another_message_is_not() {
        let said = |finding: &Finding| [finding.condition("Ready", &[], None, at(0))];
        let two = Finding::no("NodesMissing", "2 of 3");
        let one = Finding::no("NodesMissing", "1 of 3");
        assert!(two.is_news("Ready", &[]));
        assert!(!one.is_news("Ready", &said(&two)));
        assert!(one.is_news("Accepted", &said(&two)));
        assert!(Finding::no("ReconcileFailed", "").is_news("Ready", &said(&two)));
        assert!(Finding::unknown("NodesMissing", "").is_news("Ready", &said(&two)));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("añb", 9), "añb");
    }
}
