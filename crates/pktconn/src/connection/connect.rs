//! Connects to an address: opens a stream, and runs the TLS handshake over it if TLS is configured.

use crate::connection::config::ConnConfig;
use crate::error::Reason;
#[cfg(feature = "tls")]
use crate::error::Timeout;
use crate::transport::addr::Addr;
use crate::transport::byte_stream::ByteStream;
use crate::transport::connect;
use crate::transport::parsed_addr::{ParsedAddr, Purpose};

/// Connects to the first IP address of `addr` that answers. Runs the TLS handshake if TLS is configured.
pub(crate) async fn connect(addr: &Addr, config: &ConnConfig) -> Result<ByteStream, Reason> {
    let target = check(addr, config)?;
    let stream = connect::connect(target, &config.tcp, config.connect_timeout).await?;
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        let shaken = connect::with_timeout(config.handshake_timeout, tls.handshake(stream, target)).await;
        let shaken = shaken.unwrap_or_else(|granted| {
            let late = format!("the TLS handshake with {target} has not ended");
            Err(Reason::NamedTimeout(Timeout::Handshake, granted, late.into()))
        });
        return shaken.map(ByteStream::from);
    }
    Ok(stream.into())
}

/// Expects the certificate of the server at `addr`, also when connecting to another address.
#[cfg_attr(not(feature = "tls"), allow(unused_variables, reason = "only TLS has names"))]
pub(crate) fn keep_server_name(config: &mut ConnConfig, addr: &Addr) {
    #[cfg(feature = "tls")]
    if let (Some(tls), Ok(target)) = (config.tls.take(), addr.parse_for(Purpose::Connect)) {
        config.tls = Some(tls.keep_server_name(target));
    }
}

/// Fails if `addr` can never be connected to, such as an invalid address or TLS server name. Does no I/O.
pub(crate) fn check<'a>(addr: &'a Addr, config: &ConnConfig) -> Result<ParsedAddr<'a>, Reason> {
    let target = addr.parse_for(Purpose::Connect)?;
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        tls.server_name_for(target)?;
    }
    #[cfg(not(feature = "tls"))]
    let _ = config;
    Ok(target)
}
