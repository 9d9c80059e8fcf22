//! `docs/ERRORS.md` is printed from the error table. `UPDATE=1` rewrites it.

use std::collections::BTreeSet;
use std::fmt::Write;

use macula_proto::Code;
use macula_proto::identity::Refusal;

fn page() -> String {
    let mut page = String::from(
        "<!-- Printed from node/proto/src/error.rs; `UPDATE=1 cargo test -p macula-proto` rewrites it. -->\n\
         # Errors\n\n\
         Every refusal and failure has one of these names: in problem documents (`code`), in close\n\
         codes between nodes (`number`), as a metrics label, and in the terminal, where\n\
         `macula-node explain CODE` prints the same text. Names and numbers never change.\n",
    );
    for code in Code::ALL {
        let again = if code.is_retryable() { "may help" } else { "does not help" };
        let (name, title, number, status) =
            (code.name(), code.title(), code.number(), code.status());
        write!(
            page,
            "\n## {name}\n\n{title}. Number `{number:#04x}`, HTTP {status}; trying again {again}.\n\n\
             * **Because:** {}\n* **Next:** {}\n",
            code.because(),
            code.next(),
        )
        .expect("writing to a string does not fail");
    }
    page
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ERRORS.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "docs/ERRORS.md is stale: run the tests with UPDATE=1");
}

#[test]
fn names_and_numbers_are_unique_and_lead_back_to_their_code() {
    let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
    let numbers: BTreeSet<_> = Code::ALL.iter().map(|code| code.number()).collect();
    assert_eq!((names.len(), numbers.len()), (Code::ALL.len(), Code::ALL.len()));
    for code in Code::ALL {
        assert_eq!(Code::from_name(code.name()), Some(*code));
        assert_eq!(Code::from_number(code.number().into()), Some(*code));
    }
    assert_eq!(Code::from_name("no_such_code"), None);
    assert_eq!(Code::from_number(u64::MAX), None);
}

#[test]
fn every_refusal_of_a_certificate_is_in_the_table() {
    for name in Refusal::ALL_CODES {
        assert!(Code::from_name(name).is_some(), "{name} is missing");
    }
}

#[test]
fn every_code_says_why_and_what_next() {
    for code in Code::ALL {
        for text in [code.because(), code.next()] {
            assert!(text.len() > 10 && text.ends_with('.'), "{code}: {text:?}");
        }
        assert!(!code.title().ends_with('.'), "{code}: a title is no sentence");
        assert!((400..600).contains(&code.status()), "{code}: {}", code.status());
    }
}
