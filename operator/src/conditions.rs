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
}

/// Of the conditions afterwards those that someone who looks at the object's events should hear of:
/// that have another status or another reason than before. That all is well from the beginning is
/// no news.
pub fn news<'a>(
    before: &'a [Condition],
    after: &'a [Condition],
) -> impl Iterator<Item = &'a Condition> {
    after.iter().filter(|now| match find(before, &now.type_) {
        Some(old) => old.status != now.status || old.reason != now.reason,
        None => now.status != Holds::Yes.as_str(),
    })
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
        assert_eq!(
            (second.reason.as_str(), second.observed_generation),
            ("ReconcileFailed", Some(2))
        );

        let well = Finding::yes("AllAlive", "");
        let third = well.condition("Ready", &[second], Some(2), at(30));
        assert_eq!(third.last_transition_time, Time(at(30)));
        assert!(is_true(&[third], "Ready"));
    }

    #[test]
    fn another_status_or_reason_is_news_and_another_message_is_not() {
        let said = |type_, finding: &Finding| vec![finding.condition(type_, &[], None, at(0))];
        let is_news = |before: &[Condition], after: &[Condition]| news(before, after).count() == 1;
        let two = said("Ready", &Finding::no("NodesMissing", "2 of 3"));
        let one = said("Ready", &Finding::no("NodesMissing", "1 of 3"));
        let well = said("Ready", &Finding::yes("AllAlive", "3 of 3"));
        assert!(is_news(&[], &two));
        assert!(!is_news(&two, &one));
        assert!(is_news(&two, &well));
        assert!(is_news(&well, &two));
        assert!(!is_news(&[], &well));
        assert!(is_news(&two, &said("Ready", &Finding::no("ReconcileFailed", ""))));
        assert!(is_news(&two, &said("Ready", &Finding::unknown("NodesMissing", ""))));
        assert!(is_news(&two, &said("Accepted", &Finding::no("NodesMissing", ""))));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("añb", 9), "añb");
    }
}
