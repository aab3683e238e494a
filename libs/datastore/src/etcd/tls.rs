//! The CA, the client's certificate and its key: read and checked, so that what is wrong is said with the file's name. A failed
//! handshake would say less.

use std::path::Path;

use etcd_client::{Certificate, Identity, TlsOptions};
use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::config::EtcdConfig;
use crate::store::Error;

/// PEM text, and what to call it in a message.
struct Pem {
    name: String,
    text: Vec<u8>,
}

/// The options for `https://` endpoints; `None` where there are none.
///
/// # Errors
/// [`Error::Invalid`] with the variable, the file, and what is wrong with it.
pub(super) fn options(config: &EtcdConfig) -> Result<Option<TlsOptions>, Error> {
    let is_https = |endpoint: &String| endpoint.starts_with("https://");
    if !config.endpoints.iter().any(is_https) {
        return Ok(None);
    }
    if let Some(plain) = config.endpoints.iter().find(|e| !is_https(e)) {
        return Err(Error::Invalid(format!(
            "ETCD_ENDPOINTS mixes https:// and http:// ({plain}): the members of a cluster speak either"
        )));
    }
    let ca = Pem::read("ETCD_CA_CERT_FILE", config.ca_cert_file.as_deref(), "etcdCACert", config.ca_cert.as_deref())?;
    let ca = match ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in ca.certificates()? {
                roots.add(certificate).map_err(|e| ca.wrong(&format!("holds a certificate that is no CA's: {e}")))?;
            }
            ca
        }
        None => system_roots()?,
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&ca.text));
    let cert = Pem::read("ETCD_CERT_FILE", config.cert_file.as_deref(), "etcdCert", config.cert.as_deref())?;
    let key = Pem::read("ETCD_KEY_FILE", config.key_file.as_deref(), "etcdKey", config.key.as_deref())?;
    if let (Some(cert), Some(key)) = (cert, key) {
        let signing_key = any_supported_type(&key.private_key()?)
            .map_err(|e| key.wrong(&format!("holds a key that cannot be used (RSA, ECDSA and Ed25519 can): {e}")))?;
        if let Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) =
            CertifiedKey::new(cert.certificates()?, signing_key).keys_match()
        {
            return Err(key.wrong(&format!("is not the key of the certificate in {}", cert.name)));
        }
        tls = tls.identity(Identity::from_pem(&cert.text, &key.text));
    }
    Ok(Some(tls))
}

/// Where systems keep the CAs that they trust; the first that is there. As Go's crypto/x509, and so Calico, looks for them.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's CAs, or those of `SSL_CERT_FILE`.
fn system_roots() -> Result<Pem, Error> {
    let roots = match std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()) {
        Some(file) => Pem::read("SSL_CERT_FILE", Some(Path::new(&file)), "", None)?,
        None => {
            SYSTEM_ROOTS.iter().find_map(|file| Some(Pem { name: (*file).into(), text: std::fs::read(file).ok()? }))
        }
    };
    let roots = roots.ok_or_else(|| {
        Error::Invalid(
            "ETCD_ENDPOINTS holds https:// endpoints, and this system has no CA certificates of its own: ETCD_CA_CERT_FILE must \
             name theirs"
                .into(),
        )
    })?;
    roots.certificates().map(|_| roots)
}

impl Pem {
    /// The text in a file, or the one given inline by a configuration file; the file wins, as in Calico.
    fn read(variable: &str, file: Option<&Path>, field: &str, inline: Option<&str>) -> Result<Option<Self>, Error> {
        match (file, inline) {
            (Some(path), _) => {
                let name = format!("{variable}: {}", path.display());
                match std::fs::read(path) {
                    Ok(text) => Ok(Some(Self { name, text })),
                    Err(e) => Err(Error::Invalid(format!("{name}: cannot be read: {e}"))),
                }
            }
            (None, Some(text)) => Ok(Some(Self { name: format!("spec.{field}"), text: text.into() })),
            (None, None) => Ok(None),
        }
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Invalid(format!("{}: {what}", self.name))
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err(self.wrong("holds no PEM certificate (-----BEGIN CERTIFICATE-----)"))
            }
            Ok(certificates) => Ok(certificates),
            Err(e) => Err(self.wrong(&format!("holds PEM text that cannot be read: {e}"))),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let is_encrypted = self.text.windows(9).any(|words| words == b"ENCRYPTED");
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|e| match e {
            _ if is_encrypted => {
                self.wrong("is encrypted; a key without a passphrase is needed (openssl pkey -in … -out …)")
            }
            rustls::pki_types::pem::Error::NoItemsFound => {
                self.wrong("holds no PEM private key (-----BEGIN PRIVATE KEY-----)")
            }
            e => self.wrong(&format!("holds PEM text that cannot be read: {e}")),
        })
    }
}
