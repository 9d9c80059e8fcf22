//! `macula-node explain`: what a code means. Needs no node.

use std::fmt::Write;

use clap::Args;
use macula_proto::Code;
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Stop, printable};
use super::output::{self, Format};

/// What `explain` is told.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  macula-node explain realm_mismatch
  macula-node explain                 # lists every code
  macula-node explain -o json")]
pub(crate) struct Explain {
    /// The code, such as realm_mismatch; all of them when left out
    code: Option<String>,
}

/// Explains one code, or lists them.
pub(crate) fn run(args: &Explain, format: Format) -> Result<Exit, Stop> {
    let code = args.code.as_deref().map(find).transpose()?;
    match (code, format) {
        (Some(code), Format::Text) => output::bytes(page(code).as_bytes())?,
        (Some(code), Format::Json) => output::json(&object(code))?,
        (None, Format::Text) => output::bytes(list().as_bytes())?,
        (None, Format::Json) => {
            output::json(&Value::Array(Code::ALL.iter().copied().map(object).collect()))?;
        }
    }
    Ok(Exit::Ok)
}

fn find(name: &str) -> Result<Code, Failure> {
    let wanted = name.trim().to_lowercase().replace('-', "_");
    if let Some(code) = Code::from_name(&wanted) {
        return Ok(code);
    }
    let near = nearest(&wanted);
    let next = match near.as_slice() {
        [] => "`macula-node explain` lists every code.".to_owned(),
        [only] => format!("Did you mean {only}? `macula-node explain` lists every code."),
        [first, others @ ..] => {
            let others: Vec<_> = others.iter().map(|code| code.name()).collect();
            format!(
                "Did you mean {first}, or {}? `macula-node explain` lists all.",
                others.join(", ")
            )
        }
    };
    let shown: String = printable(name).chars().take(80).collect();
    let because = format!("no code is named {shown:?} in version {}", env!("CARGO_PKG_VERSION"));
    Err(Failure::new(Code::InvalidName, format!("explain {shown}"), because).with_next(next))
}

/// At most three codes with a similar name, the most similar first.
fn nearest(wanted: &str) -> Vec<Code> {
    if wanted.is_empty() || wanted.len() > 64 {
        return Vec::new();
    }
    let mut near: Vec<_> = Code::ALL
        .iter()
        .filter_map(|&code| {
            let name = code.name();
            let apart = distance(wanted, name);
            let alike = apart <= 1 + name.len() / 4;
            let within = wanted.len() >= 3 && name.contains(wanted);
            (alike || within).then_some((apart, code))
        })
        .collect();
    near.sort();
    near.into_iter().map(|(_, code)| code).take(3).collect()
}

/// How many letters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// One code for a person.
fn page(code: Code) -> String {
    let retry = if code.is_retryable() {
        "the same request may succeed later"
    } else {
        "the same request will fail again"
    };
    let exit = Exit::of(code);
    format!(
        "{code}: {}\n\n  because  {}\n  next     {}\n\n  retry    {retry}\n  HTTP     {}\n  \
         wire     {:#04x}\n  exit     {} ({})\n  page     {}\n",
        code.title(),
        code.because(),
        code.next(),
        code.status(),
        code.number(),
        exit.number(),
        exit.meaning(),
        code.page(),
    )
}

fn list() -> String {
    let width = Code::ALL.iter().map(|code| code.name().len()).max().unwrap_or_default();
    let mut text = String::new();
    for code in Code::ALL {
        // Writing into a String does not fail.
        let _ = writeln!(text, "{:width$}  {}", code.name(), code.title());
    }
    text
}

fn object(code: Code) -> Value {
    json!({
        "code": code.name(), "title": code.title(), "because": code.because(), "next": code.next(),
        "retryable": code.is_retryable(), "status": code.status(), "number": code.number(),
        "exit": Exit::of(code).number(), "type": code.page(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_a_line_and_an_object() {
        let list = list();
        assert_eq!(list.lines().count(), Code::ALL.len());
        for &code in Code::ALL {
            assert_eq!(find(code.name()), Ok(code));
            let page = page(code);
            for words in [code.name(), code.title(), code.because(), code.next()] {
                assert!(page.contains(words), "{page}");
            }
            assert!(list.lines().any(|line| line.starts_with(code.name())));
            assert_eq!(object(code)["exit"], Exit::of(code).number());
        }
    }

    #[test]
    fn a_code_is_found_however_it_is_written() {
        assert_eq!(find("Realm-Mismatch"), Ok(Code::RealmMismatch));
        assert_eq!(find(" timeout\n"), Ok(Code::Timeout));
    }

    #[test]
    fn an_unknown_code_is_refused_with_the_nearest_names() {
        let failure = find("relm_mismatch").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.next.starts_with("Did you mean realm_mismatch"), "{failure:?}");
        assert!(find("provider").unwrap_err().next.contains("no_provider"));
        assert_eq!(find("xyzzy").unwrap_err().next, "`macula-node explain` lists every code.");
        assert!(find(&"\x1b".repeat(1 << 20)).unwrap_err().because.len() < 200);
    }

    #[test]
    fn the_distance_counts_letters() {
        for (a, b, apart) in [("", "abc", 3), ("abc", "abc", 0), ("abc", "axc", 1), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), apart);
            assert_eq!(distance(b, a), apart);
        }
    }
}
