//! Stands for the rival where it was not built in.

use super::lookups::Lookups;
use super::records::Store;
use super::table::Table;
use macula_proto::wire::message::SignedRecord;

pub(super) const fn table() -> Option<Table> {
    None
}

pub(super) const fn store(_: &[SignedRecord]) -> Option<Store> {
    None
}

#[allow(clippy::unused_async, reason = "the rival's is")]
pub(super) async fn lookups() -> anyhow::Result<Option<Lookups>> {
    Ok(None)
}
