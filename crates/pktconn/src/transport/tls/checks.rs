//! What an operator should know about certificates and revocation lists when they are loaded: pure functions of the
//! parsed files and the time.

use std::fmt;

use super::x509::{Certificate, Name, RevocationList, UnixTime};

/// A warning about an expiry comes so long before it: a week leaves time for a renewal by hand, and certificates with
/// the shortest lifetime that public authorities offer (6 days) are renewed by programs.
const EXPIRES_SOON_SECONDS: i64 = 7 * 24 * 60 * 60;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

impl Validity {
    pub(super) fn of(certificate: &Certificate) -> Self {
        Self { not_before: certificate.not_before, not_after: certificate.not_after }
    }

    fn includes(self, time: UnixTime) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }

    /// Says why a certificate of this validity must not replace the `current` one: it would replace a valid one by one
    /// that clients refuse. `None` if it may.
    pub(super) fn reason_to_keep(self, current: Self, now: UnixTime) -> Option<String> {
        if self.includes(now) || !current.includes(now) {
            return None;
        }
        let problem = if now > self.not_after {
            format!("its certificate expired on {}", self.not_after)
        } else {
            format!("its certificate is not valid before {}", self.not_before)
        };
        Some(format!("{problem}, and the current one is valid until {}", current.not_after))
    }
}

/// Something that an operator should change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem<'a> {
    Expired(&'a Certificate),
    NotYetValid(&'a Certificate),
    ExpiresSoon(&'a Certificate),
    /// The second one follows the first one in the file, and is not of the authority that signed the first one.
    OutOfOrder(&'a Certificate, &'a Certificate),
    RevocationsOutdated(&'a RevocationList, UnixTime),
    /// An authority of clients without a revocation list, although others have one.
    NoRevocations(&'a Certificate),
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |name: &Name| match &name.text[..] {
            "" => "with an empty subject".to_owned(),
            text => format!("of {text}"),
        };
        match self {
            Self::Expired(certificate) => {
                write!(f, "the certificate {} expired on {}", of(&certificate.subject), certificate.not_after)
            }
            Self::NotYetValid(certificate) => {
                let (subject, start) = (of(&certificate.subject), certificate.not_before);
                write!(f, "the certificate {subject} is not valid before {start}; is the clock right?")
            }
            Self::ExpiresSoon(certificate) => {
                write!(f, "the certificate {} expires on {}", of(&certificate.subject), certificate.not_after)
            }
            Self::OutOfOrder(certificate, next) => write!(
                f,
                "the chain is out of order: the certificate {} is followed by the certificate {}, which is not of the \
                 authority that signed it",
                of(&certificate.subject),
                of(&next.subject)
            ),
            Self::RevocationsOutdated(list, next_update) => write!(
                f,
                "the revocation list {} should have been replaced by {next_update}; certificates that were revoked \
                 since then are accepted",
                of(&list.issuer)
            ),
            Self::NoRevocations(authority) => write!(
                f,
                "there is no revocation list {}; all of its certificates are accepted",
                of(&authority.subject)
            ),
        }
    }
}

/// Checks a chain, the server's own certificate first.
pub(super) fn check_chain(chain: &[Certificate], now: UnixTime) -> Vec<Problem<'_>> {
    let validity = chain.iter().filter_map(|certificate| {
        if now > certificate.not_after {
            Some(Problem::Expired(certificate))
        } else if now < certificate.not_before {
            Some(Problem::NotYetValid(certificate))
        } else {
            let expires_soon = certificate.not_after.0.saturating_sub(now.0) < EXPIRES_SOON_SECONDS;
            expires_soon.then_some(Problem::ExpiresSoon(certificate))
        }
    });
    let order = chain.windows(2).filter(|pair| !pair[0].is_signed_by_next);
    validity.chain(order.map(|pair| Problem::OutOfOrder(&pair[0], &pair[1]))).collect()
}

/// Checks the revocation lists of a file.
pub(super) fn check_crls<'a>(crls: &'a [RevocationList], now: UnixTime) -> Vec<Problem<'a>> {
    let outdated = |list: &'a RevocationList| {
        let date = list.next_update.filter(|next_update| now > *next_update)?;
        Some(Problem::RevocationsOutdated(list, date))
    };
    crls.iter().filter_map(outdated).collect()
}

/// The authorities of clients that none of the revocation lists is of.
pub(super) fn without_crl<'a>(authorities: &'a [Certificate], crls: &[RevocationList]) -> Vec<Problem<'a>> {
    let has_none = |authority: &&Certificate| crls.iter().all(|list| list.issuer != authority.subject);
    authorities.iter().filter(has_none).map(Problem::NoRevocations).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
        KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
    };
    use tokio_rustls::rustls::pki_types::CertificateDer;

    use super::*;
    use crate::transport::tls::x509::{parse_chain, parse_crl};

    const DAY: i64 = 24 * 60 * 60;

    struct Authority {
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    /// Valid in March 2026.
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2026, 3, 1), date_time_ymd(2026, 4, 1));
        params
    }

    fn at(year: i32, month: u8, day: u8) -> UnixTime {
        UnixTime(date_time_ymd(year, month, day).unix_timestamp())
    }

    fn authority(name: &str, signed_by: Option<&Authority>) -> Authority {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = match signed_by {
            Some(authority) => params.signed_by(&key, &authority.issuer),
            None => params.self_signed(&key),
        };
        let certificate = certificate.unwrap().der().clone();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn signed(name: &str, authority: &Authority) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        params(name).signed_by(&key, &authority.issuer).unwrap().der().clone()
    }

    fn revocations(authority: &Authority) -> RevocationList {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 3, 1),
            next_update: date_time_ymd(2026, 3, 8),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        parse_crl(params.signed_by(&authority.issuer).unwrap().der()).unwrap()
    }

    fn texts(problems: &[Problem<'_>]) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_dates_decide_whether_a_certificate_is_valid_and_a_week_before_its_end_is_soon() {
        let chain = parse_chain(&[signed("device-7", &authority("root", None))]).unwrap();
        let end = at(2026, 4, 1);
        for (now, expected) in [
            (at(2026, 2, 28), Some("is not valid before 2026-03-01 00:00:00 UTC; is the clock right?")),
            (at(2026, 3, 1), None),
            (UnixTime(end.0 - 7 * DAY), None),
            (UnixTime(end.0 - 7 * DAY + 1), Some("expires on 2026-04-01 00:00:00 UTC")),
            (end, Some("expires on 2026-04-01 00:00:00 UTC")),
            (UnixTime(end.0 + 1), Some("expired on 2026-04-01 00:00:00 UTC")),
        ] {
            let expected = expected.map(|text| format!("the certificate of CN=device-7 {text}"));
            assert_eq!(texts(&check_chain(&chain, now)), Vec::from_iter(expected), "{now}");
        }
    }

    #[test]
    fn each_certificate_of_a_chain_must_be_signed_by_the_next_one() {
        let root = authority("root", None);
        let middle = authority("middle", Some(&root));
        let leaf = signed("leaf", &middle);
        // A renewed authority often has the same name and a new key.
        let other_key = authority("middle", Some(&root));
        let order = |chain: &[&CertificateDer<'static>]| {
            let chain = parse_chain(&chain.iter().map(|der| (*der).clone()).collect::<Vec<_>>()).unwrap();
            check_chain(&chain, at(2026, 3, 10)).len()
        };
        assert_eq!(order(&[&leaf]), 0);
        assert_eq!(order(&[&leaf, &middle.certificate]), 0);
        assert_eq!(order(&[&leaf, &middle.certificate, &root.certificate]), 0);
        assert_eq!(order(&[&leaf, &root.certificate, &middle.certificate]), 2);
        assert_eq!(order(&[&leaf, &other_key.certificate]), 1);
        assert_eq!(order(&[&leaf, &leaf]), 1);
        let chain = parse_chain(&[leaf.clone(), root.certificate.clone()]).unwrap();
        let problems = texts(&check_chain(&chain, at(2026, 3, 10)));
        assert!(problems[0].contains("of CN=leaf is followed by the certificate of CN=root"), "{problems:?}");
        let garbage = CertificateDer::from(vec![0x30, 1, 2, 3]);
        assert_eq!(parse_chain(&[leaf, garbage]).unwrap_err(), 2);
    }

    #[test]
    fn outdated_revocation_lists_and_authorities_without_one_are_reported() {
        let (covered, other) = (authority("covered", None), authority("other", None));
        let lists = [revocations(&covered)];
        let authorities = parse_chain(&[covered.certificate, other.certificate]).unwrap();
        assert_eq!(texts(&check_crls(&lists, at(2026, 3, 8))), [""; 0]);
        let late = texts(&check_crls(&lists, at(2026, 3, 9)));
        assert_eq!(late.len(), 1);
        assert!(late[0].contains("of CN=covered should have been replaced by 2026-03-08"), "{late:?}");
        let none_of = "there is no revocation list of CN=other; all of its certificates are accepted";
        assert_eq!(texts(&without_crl(&authorities, &lists)), [none_of]);
        assert_eq!(without_crl(&authorities, &[]).len(), 2);
    }

    #[test]
    fn only_a_valid_certificate_replaces_a_valid_one() {
        let validity = |from, to| Validity { not_before: UnixTime(from), not_after: UnixTime(to) };
        let now = UnixTime(100);
        let (valid, expired, future) = (validity(0, 200), validity(0, 99), validity(101, 200));
        for new in [valid, expired, future] {
            for current in [valid, expired, future] {
                let keeps = current == valid && new != valid;
                assert_eq!(new.reason_to_keep(current, now).is_some(), keeps, "{new:?} for {current:?}");
            }
        }
        let problem = expired.reason_to_keep(valid, now).unwrap();
        assert!(problem.contains("expired on 1970-01-01 00:01:39 UTC"), "{problem}");
    }
}
