//! The TLS configuration of the load: that of `pktconn`, or with `--tls-insecure` one that accepts any certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use pktconn_tools::input;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::plan::{Tls, Trust};

/// The longest file with certificates or a key: that of `pktconn`.
const MAX_PEM_LEN: u64 = 1 << 20;

/// Reads the files of the plan. The error is one line that names the file.
pub(super) fn client_config(tls: &Tls) -> anyhow::Result<Arc<ClientConfig>> {
    match &tls.trust {
        // Without the error as source: its text already includes the source.
        Trust::Verified(config) => config.to_rustls().map_err(|error| anyhow::anyhow!("{error}")),
        Trust::Any { identity } => {
            let identity = identity.as_ref().map(|(chain, key)| (chain.as_path(), key.as_path()));
            any_certificate(identity).map(Arc::new)
        }
    }
}

/// A configuration that accepts any certificate. `identity` is the client's own certificate chain and key.
fn any_certificate(identity: Option<(&Path, &Path)>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate { provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((chain, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let unusable = |path: &Path| format!("cannot use {}", path.display());
    let read = |path: &Path| input::read(path, MAX_PEM_LEN).with_context(|| unusable(path));
    let certificates = CertificateDer::pem_slice_iter(&read(chain)?)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| unusable(chain))?;
    ensure!(!certificates.is_empty(), "{}: the file contains no certificate", unusable(chain));
    let private_key = PrivateKeyDer::from_pem_slice(&read(key)?).with_context(|| unusable(key))?;
    builder.with_client_auth_cert(certificates, private_key).with_context(|| unusable(key))
}

/// Accepts any certificate. The signature of the handshake is still checked, so the server must own the key of the
/// certificate that it shows.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
