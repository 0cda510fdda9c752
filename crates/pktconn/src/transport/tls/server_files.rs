//! Makes a rustls configuration of the files of a server, and logs what an operator should know about them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{ClientCertVerifierBuilder, NoServerSessionStorage, WebPkiClientVerifier};

use super::checks::{Problem, Validity, check_chain, check_crls, without_crl};
use super::credentials::{
    identity_error, provider, read_certificates, read_crls, read_private_key, setup_error, trust,
};
use super::file::READ_TIMEOUT;
use super::loaded::{Loaded, OwnCertificate};
use super::tickets::ticketer;
use super::version::TlsVersion;
use super::x509::{Certificate, UnixTime, parse_chain, parse_crl};
use crate::error::Reason;

/// The target of all log lines about the files, so that one filter shows them.
const LOG_TARGET: &str = "pktconn::tls";

/// The files of a server, and its settings.
#[derive(Clone)]
pub(super) struct ServerFiles {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: Option<ClientCa>,
    pub(super) crls: Vec<PathBuf>,
    pub(super) min_version: TlsVersion,
    pub(super) alpn: Vec<Vec<u8>>,
}

#[derive(Clone)]
pub(super) struct ClientCa {
    pub(super) path: PathBuf,
    pub(super) is_required: bool,
}

impl ServerFiles {
    /// Reads the files. Blocks for at most `READ_TIMEOUT`, and for the time to parse what was read.
    pub(super) fn load(&self) -> Result<Loaded, Reason> {
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut warnings = Warnings::default();
        let chain_der = read_certificates(&self.chain, deadline)?;
        let key = read_private_key(&self.key, deadline)?;
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&self.min_version.and_later())
            .map_err(|error| setup_error("TLS", &error))?;
        let builder = match &self.client_ca {
            Some(ca) => {
                builder.with_client_cert_verifier(self.client_verifier(ca, deadline, &mut warnings)?)
            }
            None if self.crls.is_empty() => builder.with_no_client_auth(),
            None => {
                return Err(Reason::Config(
                    "revocation lists need authorities of clients: set TlsServerConfig::client_ca to use crl",
                ));
            }
        };
        let chain = parse_or_warn(&self.chain, &chain_der, &mut warnings);
        let mut config = builder
            .with_single_cert(chain_der, key.key)
            .map_err(|error| identity_error(&self.chain, &self.key, &error))?;
        config.alpn_protocols.clone_from(&self.alpn);
        // Sessions are in tickets that the clients keep, so they need no memory here. The keys of the tickets are new
        // for each load: a ticket does not outlive the authorities and revocation lists that its client was checked
        // with. They also change every 6 hours, so a stolen key opens the TLS 1.2 traffic of 12 hours at most.
        config.ticketer = ticketer().map_err(|error| setup_error("TLS session tickets", &error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});

        warnings.add(&self.chain, &check_chain(&chain, UnixTime::now()));
        if key.is_readable_by_others {
            let problem = "other users can read the private key; remove their permission (chmod 600)";
            warnings.0.push((self.key.clone(), problem.to_owned()));
        }
        let certificate = chain.first().map(|certificate| self.own(certificate));
        warnings.log();
        Ok(Loaded { config: Arc::new(config), certificate })
    }

    fn own(&self, certificate: &Certificate) -> OwnCertificate {
        let (file, subject) = (self.chain.display(), &certificate.subject.text);
        tracing::info!(target: LOG_TARGET, %file, subject, valid_until = %certificate.not_after, "loaded the certificate");
        OwnCertificate { file: self.chain.clone(), validity: Validity::of(certificate) }
    }

    fn client_verifier(
        &self,
        ca: &ClientCa,
        deadline: Instant,
        warnings: &mut Warnings,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Reason> {
        let authorities = read_certificates(&ca.path, deadline)?;
        let roots = trust(&ca.path, &authorities)?;
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        if !self.crls.is_empty() {
            builder = self.with_crls(builder, ca, &authorities, deadline, warnings)?;
        }
        if !ca.is_required {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|error| setup_error(ca.path.display(), &error))
    }

    fn with_crls(
        &self,
        builder: ClientCertVerifierBuilder,
        ca: &ClientCa,
        authorities: &[CertificateDer<'static>],
        deadline: Instant,
        warnings: &mut Warnings,
    ) -> Result<ClientCertVerifierBuilder, Reason> {
        let (mut crls, mut parsed) = (Vec::new(), Vec::new());
        for path in &self.crls {
            let of_file = read_crls(path, deadline)?;
            let lists = of_file.iter().map(parse_crl).collect::<Result<Vec<_>, _>>();
            let lists = lists.map_err(|problem| setup_error(path.display(), &problem))?;
            // Only so that an error names this file.
            let only_these = builder.clone().with_crls(of_file.iter().cloned());
            only_these.build().map_err(|error| setup_error(path.display(), &error))?;
            warnings.add(path, &check_crls(&lists, UnixTime::now()));
            crls.extend(of_file);
            parsed.extend(lists);
        }
        let authorities = parse_or_warn(&ca.path, authorities, warnings);
        warnings.add(&ca.path, &without_crl(&authorities, &parsed));
        Ok(builder.with_crls(crls).allow_unknown_revocation_status())
    }
}

/// Parses what rustls accepts, too. If it cannot be parsed, it cannot be checked.
fn parse_or_warn(path: &Path, chain: &[CertificateDer<'_>], warnings: &mut Warnings) -> Vec<Certificate> {
    parse_chain(chain).unwrap_or_else(|number| {
        warnings.0.push((path.to_owned(), format!("certificate {number} cannot be parsed")));
        Vec::new()
    })
}

/// The warnings about files. They are logged if the files are used; otherwise there is an error.
#[derive(Default)]
struct Warnings(Vec<(PathBuf, String)>);

impl Warnings {
    fn add(&mut self, path: &Path, problems: &[Problem<'_>]) {
        self.0.extend(problems.iter().map(|problem| (path.to_owned(), problem.to_string())));
    }

    fn log(&self) {
        for (file, problem) in &self.0 {
            tracing::warn!(target: LOG_TARGET, file = %file.display(), "{problem}");
        }
    }
}
