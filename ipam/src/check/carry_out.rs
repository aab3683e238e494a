//! The one writing part of a check: a mend happens as it was planned, or not at all.

use datastore::Op;

use crate::allocator::{Error, Ipam, Outcome};

impl Ipam {
    /// Writes a [`super::repair::Mend`]; `Some` with the reason where a record is not any more what the mend was planned on, or where the
    /// store cannot say what happened: look again.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Option<datastore::Error>, Error> {
        match self.write(ops).await? {
            Outcome::Done => Ok(None),
            Outcome::Retry(error) | Outcome::Open(error, _) => Ok(Some(error)),
        }
    }
}
