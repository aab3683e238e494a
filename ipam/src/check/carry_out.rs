//! The one writing part of a check: a mend happens as it was planned, or not at all. Where the store takes one write at a time, cut off
//! it leaves what another check mends.

use datastore::Op;

use crate::allocator::{Error, Ipam, Outcome};
use crate::ordered;

impl Ipam {
    /// Writes a [`super::repair::Mend`]; `Some` with the reason where a record is not any more what the mend was planned on, or where the
    /// store cannot say what happened: look again.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Option<datastore::Error>, Error> {
        let outcome = match self.store.has_transactions() {
            true => self.write(ops).await?,
            false => ordered::write_mend(self.store.as_ref(), ops).await?,
        };
        match outcome {
            Outcome::Done => Ok(None),
            Outcome::Retry(error) | Outcome::Open(error, _) => Ok(Some(error)),
        }
    }
}
