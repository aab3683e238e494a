//! Checks that a type cannot express, with Calico's texts (Calico `libcalico-go/lib/validator/v3`).

use std::fmt;

/// One thing wrong with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON path under the document, such as `spec.blockSize`.
    pub path: String,
    /// The value as the user wrote it.
    pub value: String,
    /// The rule, and what would be right.
    pub reason: String,
}

impl fmt::Display for FieldError {
    /// Calico's form of one error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error with field {} = '{}' ({})", self.path, self.value, self.reason)
    }
}
