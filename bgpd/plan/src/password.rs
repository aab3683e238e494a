//! The key of a session with TCP-MD5, and where it comes from (pure).
//!
//! `password.secretKeyRef` names a Secret of one namespace (NAMESPACE, as in Calico) and a key in it. The Secret is looked
//! up in the store, then among the files of bgpd's secrets directory (`<name>/<key>`, as Kubernetes mounts them).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use api::bgp_peer::{BgpPassword, SecretKeyRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::resources::Resources;

/// The kernel's bound (`TCP_MD5SIG_MAXKEYLEN`).
const MAX_LEN: usize = 80;
/// What stands in the place of a password wherever something is printed.
pub const REDACTED: &str = "<redacted>";

/// A password. It prints and serialises as [`REDACTED`].
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<str>);

impl Password {
    /// What a secret holds, without the line breaks at its end that an editor or `echo` left there.
    ///
    /// # Errors
    /// What is wrong with it, to follow its name.
    pub fn new(value: &[u8]) -> Result<Password, &'static str> {
        let text = std::str::from_utf8(value).map_err(|_| "is not text")?.trim_end_matches(['\r', '\n']);
        match text.len() {
            0 => Err("is empty"),
            1..=MAX_LEN => Ok(Password(text.into())),
            _ => Err("is longer than the 80 bytes that TCP-MD5 takes"),
        }
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Password {
        Password(text.into())
    }
}

impl std::ops::Deref for Password {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Password, D::Error> {
        String::deserialize(deserializer).map(|text| Password(text.into()))
    }
}

/// A Secret's name and a key in it.
pub type SecretKey = (String, String);

/// The keys that the resources name, for whoever reads the files.
pub fn wanted(resources: &Resources) -> BTreeSet<SecretKey> {
    let peers = resources.peers.values().filter_map(|p| p.body.spec.password.as_ref());
    let meshes = resources.configurations.values().filter_map(|c| c.body.spec.node_mesh_password.as_ref());
    let refs = peers.chain(meshes).filter_map(|p| p.secret_key_ref.as_ref());
    refs.filter(|r| is_plain(&r.name) && is_plain(&r.key)).map(|r| (r.name.clone(), r.key.clone())).collect()
}

/// The password that a resource asks for.
///
/// # Errors
/// Why there is none, and what to create: such a session stays down, for one without the password would be no better than
/// none at all.
pub fn find(password: &BgpPassword, resources: &Resources) -> Result<Password, String> {
    let Some(SecretKeyRef { name, key, .. }) = &password.secret_key_ref else {
        return Err("the password has no secretKeyRef: give it the name and the key of a Secret".into());
    };
    let namespace = &resources.namespace;
    let secret = resources.secrets.get(&(namespace.clone(), name.clone()));
    let file = resources.secret_files.get(&(name.clone(), key.clone()));
    let value = secret.and_then(|s| s.body.value(key)).or_else(|| file.map(|f| f.0.clone()));
    match value {
        Some(value) => {
            Password::new(&value).map_err(|problem| format!("key {key} of Secret {namespace}/{name} {problem}"))
        }
        None if secret.is_some() => {
            Err(format!("Secret {namespace}/{name} has no key {key}: add data.{key}, the password in base64"))
        }
        None => Err(format!("there is no Secret {namespace}/{name}: create it with the password under {key}")),
    }
}

/// Whether a name can stand for one directory or file: it comes from whoever may write a BGPPeer.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_password_may_be() {
        let rows: [(&[u8], Result<&str, &str>); 6] = [
            (b"hunter2", Ok("hunter2")),
            (b"hunter2\n", Ok("hunter2")),
            (b" with spaces \r\n", Ok(" with spaces ")),
            (b"\n", Err("is empty")),
            (b"\xff", Err("is not text")),
            (&[b'x'; 81], Err("is longer than the 80 bytes that TCP-MD5 takes")),
        ];
        for (value, expected) in rows {
            assert_eq!(Password::new(value).as_deref().map_err(|e| *e), expected);
        }
    }

    #[test]
    fn it_is_never_printed() {
        let password = Password::from("hunter2");
        assert_eq!(format!("{password:?}"), REDACTED);
        assert_eq!(serde_json::to_string(&Some(password)).unwrap(), format!("\"{REDACTED}\""));
    }

    #[test]
    fn a_name_is_no_path() {
        for (name, expected) in
            [("bgp", true), ("a.b", true), ("..", false), ("a/b", false), ("", false), (".x", false)]
        {
            assert_eq!(is_plain(name), expected, "{name}");
        }
    }
}
