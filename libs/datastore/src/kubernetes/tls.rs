//! TLS to the API server.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::config::{Access, Source};
use crate::store::Error;

/// Debian's bundle of public CAs.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The TLS settings of one connection, from the files as they are now.
///
/// # Errors
/// [`Error::Invalid`] names the file and what is wrong with it.
pub fn client_config(access: &Access) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let invalid = |what: &str, e: &dyn std::fmt::Display| Error::Invalid(format!("{}: {what}: {e}", access.origin));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid("TLS", &e))?;
    let builder = if access.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    } else {
        builder.with_root_certificates(roots(access)?)
    };
    let mut config = match &access.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert, "client certificate")?;
            let pem = key.read("client key")?;
            let parsed = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|e| Error::Invalid(format!("client key: {}: {e:?}; it must be a PEM key", key.name())))?;
            builder.with_client_auth_cert(chain, parsed).map_err(|e| {
                Error::Invalid(format!("client certificate {} and key {} do not fit: {e}", cert.name(), key.name()))
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The name that the server's certificate must have.
///
/// # Errors
/// [`Error::Invalid`] where it is no name.
pub fn server_name(access: &Access) -> Result<ServerName<'static>, Error> {
    let name = access.server_name.as_ref().unwrap_or(&access.server.host);
    ServerName::try_from(name.clone())
        .map_err(|_| Error::Invalid(format!("{}: \"{name}\" is no host name and no address", access.origin)))
}

fn roots(access: &Access) -> Result<RootCertStore, Error> {
    let system = Source::File(SYSTEM_CAS.into());
    let source = access.ca.as_ref().unwrap_or(&system);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(source, "CA certificate")? {
        // Bundles may hold certificates that are no CA's: as every other client, take those that are.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(Error::Invalid(format!("CA certificate: {} holds none that can be used", source.name())));
    }
    Ok(roots)
}

fn certificates(source: &Source, what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = source.read(what)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::Invalid(format!("{what}: {} holds no PEM certificate", source.name()))),
        Err(e) => Err(Error::Invalid(format!("{what}: {} cannot be read: {e:?}", source.name()))),
    }
}

/// Takes every certificate: what `insecure-skip-tls-verify` asks for. The handshake itself is still checked.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
